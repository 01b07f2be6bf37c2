"""The image encoder: the visual half of CLIP ViT-H/14, from its original file.

Transformers computes it; the file's names are its own, and are brought to those of Transformers here. Layers and widths
are read off the shapes, so that any size will do; the heads of an attention cannot be, and are as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.adapters.wan.files import Shape, Stored, about, differences, made, shapes, stored, told
from worldkv.errors import WeightsMismatch

T = TypeVar("T")

VISUAL = "visual."
"""Begins the names of this half; the other half reads text, and is not used."""
UNUSED = ("textual.", "log_scale")
HEADS = 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that it was trained with."""
TOP = {
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "pre_norm.weight": "pre_layrnorm.weight",
    "pre_norm.bias": "pre_layrnorm.bias",
    "post_norm.weight": "post_layernorm.weight",
    "post_norm.bias": "post_layernorm.bias",
}
"""Names outside the blocks that stand for the same: in the file, and in Transformers."""
BLOCK = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
"""Names inside one, each with a weight and a bias."""
QKV = ("q_proj", "k_proj", "v_proj")
"""Thirds of `attn.to_qkv`, in this order."""


class ImageSizes(NamedTuple):
    """What an image encoder is made of.

    width   channels of a token
    tokens  of a picture, that of the whole included
    layers  blocks in the file; what the last one would make is not what is wanted
    ffn     channels inside a block
    patch   pixels of a side of a token
    out     channels of the head, which is not used
    """

    width: int
    tokens: int
    layers: int
    ffn: int
    patch: int
    out: int

    @property
    def side(self) -> int:
        """Pixels of a side of a picture."""
        return isqrt(self.tokens - 1) * self.patch


def image_sizes(given: Mapping[str, Shape]) -> ImageSizes:
    """What an encoder is made of, from names and shapes as they stand in its file: all that it uses have to be right.

    Raises WeightsMismatch, naming the first that differ.
    """
    visual = _visual(given)
    try:
        sizes = ImageSizes(
            width=visual["cls_embedding"][2],
            tokens=visual["pos_embedding"][1],
            layers=sum(name.endswith(".attn.to_qkv.weight") for name in visual),
            ffn=visual["transformer.0.mlp.0.weight"][0],
            patch=visual["patch_embedding.weight"][3],
            out=visual["head"][1],
        )
    except (KeyError, IndexError) as error:
        raise WeightsMismatch(f"these are no image encoder's weights: {len(visual)} of them, {error!r}") from error
    wanted = _wanted(sizes)
    if wrong := differences(wanted, visual):
        raise WeightsMismatch(f"these are no image encoder's weights: {told(wrong, wanted, visual)}")
    if sizes.width % HEADS or isqrt(sizes.tokens - 1) ** 2 != sizes.tokens - 1 or sizes.layers < 2:
        raise WeightsMismatch(
            f"an image encoder has {HEADS} heads, a square of tokens and one more, and two blocks or more; got {sizes}"
        )
    return sizes


class ImageEncoder:
    """A picture to tokens: what the last block but one makes of it.

    model  of Transformers, with its weights
    sizes  that it has
    """

    def __init__(self, model: Any, sizes: ImageSizes) -> None:
        self._model, self._side = model.eval().requires_grad_(False), sizes.side
        self.width, self.tokens = sizes.width, sizes.tokens
        weight = model.pre_layrnorm.weight
        self._mean, self._std = (weight.new_tensor(each)[:, None, None] for each in (MEAN, STD))

    def __call__(self, picture: Tensor) -> Tensor:
        """Tokens [tokens, width], in the dtype of the weights, of a picture [3, height, width] in 0..1.

        Whatever its shape, it is brought to a square, as it was for the models that read these tokens.
        """
        with torch.inference_mode():
            square = functional.interpolate(
                picture.float()[None], (self._side, self._side), mode="bicubic", align_corners=False
            )
            pixels = (square.to(self._mean) - self._mean) / self._std
            encoded: Tensor = self._model(pixel_values=pixels).last_hidden_state[0]
        return encoded.clone()


def load_image(path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> ImageEncoder:
    """The encoder of a file (`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`), or of safetensors alike.

    dtype  of the weights in memory, whatever they are stored as

    Raises WeightsMissing for a file that is not there, WeightsMismatch for one that holds something else.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tensors = stored(path)
    with about(path):
        sizes = image_sizes(shapes(tensors))
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers - 1,
        num_attention_heads=HEADS,
        image_size=sizes.side,
        patch_size=sizes.patch,
        hidden_act="gelu",
    )
    model: Any
    model, _ = made(lambda: CLIPVisionModel(config), _renamed(_visual(tensors), sizes), path, dtype, device)
    # A table that no file holds: the places of a picture's tokens.
    model.embeddings.position_ids = torch.arange(sizes.tokens, device=device)[None]
    return ImageEncoder(model, sizes)


def _visual(given: Mapping[str, T]) -> dict[str, T]:
    """Without what reads text, and by names without their begin."""
    return {name.removeprefix(VISUAL): each for name, each in given.items() if not name.startswith(UNUSED)}


def _renamed(tensors: Mapping[str, Stored], sizes: ImageSizes) -> dict[str, Stored]:
    """All blocks' but the last one's, by the names, and in the shapes, that they have in Transformers."""
    width = sizes.width
    found = {there: tensors[here] for here, there in TOP.items()}
    found["embeddings.class_embedding"] = _changed(tensors["cls_embedding"], (width,), lambda x: x[0, 0])
    places = _changed(tensors["pos_embedding"], (sizes.tokens, width), lambda x: x[0])
    found["embeddings.position_embedding.weight"] = places
    for layer in range(sizes.layers - 1):
        here, there = f"transformer.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            found |= {f"{there}{b}.{kind}": tensors[f"{here}{a}.{kind}"] for a, b in BLOCK.items()}
            joined = tensors[f"{here}attn.to_qkv.{kind}"]
            for third, name in enumerate(QKV):
                shape = (width, *joined.shape[1:])
                found[f"{there}self_attn.{name}.{kind}"] = _changed(joined, shape, partial(_third, third))
    return found


def _third(n: int, joined: Tensor) -> Tensor:
    return joined.chunk(3)[n]


def _changed(each: Stored, shape: Shape, change: Callable[[Tensor], Tensor]) -> Stored:
    return Stored(shape, lambda: change(each.read()))


def _wanted(sizes: ImageSizes) -> dict[str, Shape]:
    """Names of the file, without their begin, and shapes."""
    width, ffn = sizes.width, sizes.ffn
    rows = {"norm1": width, "attn.to_qkv": 3 * width, "attn.proj": width, "norm2": width, "mlp.0": ffn, "mlp.2": width}
    columns = {"attn.to_qkv": width, "attn.proj": width, "mlp.0": width, "mlp.2": ffn}
    wanted: dict[str, Shape] = {
        "patch_embedding.weight": (width, 3, sizes.patch, sizes.patch),
        "cls_embedding": (1, 1, width),
        "pos_embedding": (1, sizes.tokens, width),
        "head": (width, sizes.out),
    }
    wanted |= {f"{norm}.{kind}": (width,) for norm in ("pre_norm", "post_norm") for kind in ("weight", "bias")}
    for layer in range(sizes.layers):
        for name, count in rows.items():
            wanted[f"transformer.{layer}.{name}.bias"] = (count,)
            wanted[f"transformer.{layer}.{name}.weight"] = (count, *((columns[name],) if name in columns else ()))
    return wanted
