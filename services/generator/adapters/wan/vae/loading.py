"""Published weights of a VAE: the original file, or Diffusers' folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.generator.adapters.wan.files import Shape, about, differences, fill, shapes, stored, told
from services.generator.adapters.wan.vae.names import Sizes, read_sizes, renamed
from services.generator.adapters.wan.vae.streaming import WanVAE
from worldkv.errors import WeightsMismatch

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan


def load(path: Path, dtype: torch.dtype = torch.float16, device: torch.device | str = "cpu") -> WanVAE:
    """The VAE of a file (`Wan2.1_VAE.pth`), or of the safetensors files of Diffusers' folder, at any width.

    dtype  of weights and features in memory, whatever they are stored as

    Raises WeightsMissing if there is no file, WeightsMismatch if its weights are not a VAE's.
    """
    tensors = stored(path)
    with about(path):
        model, known = _made(shapes(tensors))
    names = renamed(tensors)
    digest = fill(model, {names[name]: each for name, each in tensors.items()}, path, dtype, device)
    return WanVAE(model, known, digest)


def sizes(given: Mapping[str, Shape]) -> Sizes:
    """What a VAE is made of, from names and shapes as they stand in its file: all of them have to be right.

    Raises WeightsMismatch, naming the first that differ.
    """
    return _made(given)[1]


def _made(given: Mapping[str, Shape]) -> tuple[AutoencoderKLWan, Sizes]:
    """A VAE for weights of these names and shapes, itself without any."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    names = renamed(given)
    got = {names[name]: shape for name, shape in given.items()}
    if len(got) < len(given):
        raise WeightsMismatch(f"these are no VAE's weights: {len(given) - len(got)} of them are there by two names")
    found = read_sizes(got)
    try:
        with torch.device("meta"):
            model = AutoencoderKLWan(
                base_dim=found.width,
                z_dim=found.channels,
                dim_mult=list(found.levels),
                num_res_blocks=found.residuals,
                temperal_downsample=list(found.halving),
            )
    except (RuntimeError, TypeError) as error:  # no memory could hold it, or no number of torch say how much it is
        raise WeightsMismatch(f"these are no VAE's weights: {str(error).partition(chr(10))[0]}") from error
    wanted = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    if wrong := differences(wanted, got):
        raise WeightsMismatch(f"these are no VAE's weights: {told(wrong, wanted, got)}")
    c, has = model.config, (found.channels, found.pictures, found.pixels)
    if has != (known := (len(c["latents_mean"]), c["scale_factor_temporal"], c["scale_factor_spatial"])):
        raise WeightsMismatch(f"a latent's channels, pictures and pixels are {known}, and of this VAE {has}")
    return model, found
