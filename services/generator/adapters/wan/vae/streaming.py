"""The VAE of Wan 2.1, decoding many walks chunk by chunk.

Its decoder is causal: each convolution over time sees the two time steps before what it is given. A session carries
these from chunk to chunk, so that each is decoded as it would be in one clip with all chunks before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from services.generator.adapters.wan.files import FLOATS, Shape, differences, told
from services.generator.adapters.wan.vae.names import Sizes, carries
from services.generator.adapters.wan.vae.seam import Features
from worldkv.errors import InvalidInput

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

NOT_YET = "Rep"
"""What Diffusers keeps, in place of features, where time is doubled, after the one frame that is not doubled."""
DOUBLES = ".time_conv"
"""How names end of what doubles time."""


class WanVAE:
    """Adapter of Diffusers' VAE; see `VAE` for the methods. A latent frame is decoded at a time, of all sessions.

    sizes   of the model
    digest  of its weights, hex
    """

    def __init__(self, model: AutoencoderKLWan, sizes: Sizes, digest: str) -> None:
        self.model, self.sizes, self.digest = model.eval().requires_grad_(False), sizes, digest
        self.pictures, self.pixels = sizes.pictures, sizes.pixels
        weight = model.post_quant_conv.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._mean, self._std = (
            torch.tensor(each, device=self.device)[:, None, None]
            for each in (model.config["latents_mean"], model.config["latents_std"])
        )
        shapes = {name: tuple(each.shape) for name, each in model.state_dict().items()}
        self._carries = carries(shapes, len(sizes.halving))
        # In the order in which the decoder takes its steps, which is that of its parts.
        self._names = [name for name, _ in model.decoder.named_modules() if name in self._carries]
        self._looking_back = sum(isinstance(each, nn.Conv3d) for each in model.encoder.modules())  # at most

    def feature_bytes(self, grid: tuple[int, int]) -> int:
        return self.sizes.feature_bytes(grid, self.dtype)

    def check(self, features: Features, grid: tuple[int, int]) -> None:
        got = {name: tuple(each.shape) for name, each in features.items()}
        later = self._shapes(grid)
        # After the one frame that is not doubled nothing was seen where time is, and one step of two everywhere else.
        first = {n: (shape[0], 1, *shape[2:]) for n, shape in later.items() if not n.endswith(DOUBLES)}
        if got not in ({}, first, later):
            raise InvalidInput(f"these are no features of a decoder: {told(differences(later, got), later, got)}")
        if wrong := [name for name, each in features.items() if each.dtype not in FLOATS]:
            raise InvalidInput(f"features are numbers, and {wrong[0]} is of {features[wrong[0]].dtype}")

    def encode(self, pictures: Tensor) -> Tensor:
        count, colours, height, width = pictures.shape
        if count % self.pictures != 1 % self.pictures or colours != 3 or height % self.pixels or width % self.pixels:
            raise InvalidInput(
                f"a clip has 1 picture and {self.pictures} for each further frame, of 3 colours and sides that divide "
                f"by {self.pixels}; got {tuple(pictures.shape)}"
            )
        of_each = [1, *[self.pictures] * ((count - 1) // self.pictures)]
        return torch.stack([*self.frames(pictures.split(of_each))])

    def frames(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        caches: list[Tensor | None] = [None] * self._looking_back
        for each in pictures:
            yield self._encode(each, caches)

    def _encode(self, pictures: Tensor, caches: list[Tensor | None]) -> Tensor:
        """The next latent frame [channels, height, width] of a clip; `caches`: what was seen of it, which moves on."""
        with torch.inference_mode():
            x = (pictures * 2 - 1).transpose(0, 1)[None].to(self.device, self.dtype)
            both = self.model.quant_conv(self.model.encoder(x, feat_cache=caches, feat_idx=[0]))
            z = both.chunk(2, 1)[0][0, :, 0]  # the rest is how much it may spread
            return ((z.float() - self._mean) / self._std).to(pictures.device)

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[list[Tensor], list[Features]]:
        alike: dict[frozenset[tuple[str, int]], list[int]] = {}
        for row, each in enumerate(features):
            alike.setdefault(frozenset((name, tensor.shape[1]) for name, tensor in each.items()), []).append(row)
        found: dict[int, tuple[Tensor, Features]] = {}
        with torch.inference_mode():
            for rows in alike.values():
                pictures, caches = self._decode(latents[rows], [features[row] for row in rows])
                for i, row in enumerate(rows):
                    # A part of a batch would hold all of it for as long as its session lives.
                    found[row] = pictures[i], {n: x[i].clone() if len(rows) > 1 else x[i] for n, x in caches.items()}
        return [found[row][0] for row in range(len(latents))], [found[row][1] for row in range(len(latents))]

    def _shapes(self, grid: tuple[int, int]) -> dict[str, Shape]:
        """Of a session's features."""
        rows, columns = grid
        return {n: (c, steps, rows << up, columns << up) for n, (c, steps, up) in self._carries.items()}

    def _decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures [B, pictures, 3, height, width] of sessions that are equally far, and their features together."""
        caches = [self._cache(name, features) for name in self._names]
        normal = latents.to(self.device, torch.float32) * self._std + self._mean
        z = self.model.post_quant_conv(normal.transpose(1, 2).to(self.dtype))
        shown = [self.model.decoder(frame, feat_cache=caches, feat_idx=[0]) for frame in z.split(1, 2)]
        pictures = ((torch.cat(shown, 2).transpose(1, 2).float() + 1) / 2).clamp(0, 1).to(latents.device)
        kept = zip(self._names, caches, strict=True)
        return pictures, {name: each for name, each in kept if isinstance(each, Tensor)}

    def _cache(self, name: str, features: Sequence[Features]) -> Tensor | str | None:
        """What a convolution has seen in each session, [B, channels, 1 or 2, height, width]."""
        if not features[0]:
            return None
        if name not in features[0]:
            return NOT_YET
        own = [each[name].to(self.device, self.dtype) for each in features]  # saved, maybe, by one of another dtype
        return torch.stack(own) if len(own) > 1 else own[0][None]
