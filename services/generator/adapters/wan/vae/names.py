"""The weights of a VAE: their names in the original file and in Diffusers, and what they tell of its architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple

import torch

from services.generator.adapters.wan.files import Shape
from worldkv.errors import WeightsMismatch

ORIGINAL = "decoder.conv1.weight"
"""A name that only the original file has."""
NAMES = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)
"""From the original names to those of Diffusers: all that match are applied."""
UP = re.compile(r"^decoder\.upsamples\.(\d+)\.(.+)")
RESAMPLING = re.compile(r"^decoder\.upsamples\.(\d+)\.resample\.")
UP_BLOCK = re.compile(r"^decoder\.up_blocks\.(\d+)\.")


class Sizes(NamedTuple):
    """What a VAE is made of.

    width      channels of the pictures' own level
    levels     multiples of it, from the pictures' level down
    residuals  blocks of a level of the encoder; of the decoder one more
    halving    for each step down whether it halves time too; all of them halve the pictures' sides
    channels   of the latents
    carried    numbers that a session's decoder carries from chunk to chunk, for each latent cell
    weights    numbers in all of its weights
    """

    width: int
    levels: tuple[int, ...]
    residuals: int
    halving: tuple[bool, ...]
    channels: int
    carried: int
    weights: int

    @property
    def pictures(self) -> int:
        """Of a latent frame but the first."""
        return 1 << sum(self.halving)

    @property
    def pixels(self) -> int:
        """A side of a latent cell."""
        return 1 << len(self.halving)

    def feature_bytes(self, grid: tuple[int, int], dtype: torch.dtype) -> int:
        """Bytes that a session's decoder carries from chunk to chunk, for so many rows and columns of latent cells."""
        return self.carried * prod(grid) * dtype.itemsize


class Carried(NamedTuple):
    """What a convolution over time carries from chunk to chunk.

    channels  of each step
    steps     before a chunk that it sees: as many as its kernel is longer than one
    doubled   how many times the sides of latent cells were doubled before it
    """

    channels: int
    steps: int
    doubled: int


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Diffusers' name of each name; those of Diffusers stay, and so do those that are nobody's."""
    known = list(names)
    if ORIGINAL not in known:
        return {name: name for name in known}
    resampling = [int(match[1]) for name in known if (match := RESAMPLING.match(name))]
    blocks = min(resampling, default=len(known))  # of a level, before its resampling
    return {name: _renamed(name, blocks) for name in known}


def read_sizes(shapes: Mapping[str, Shape]) -> Sizes:
    """What the weights of these names, Diffusers', and shapes belong to; that they are all there is not looked at.

    Raises WeightsMismatch if they cannot be a VAE's.
    """
    try:
        width, channels = shapes["encoder.conv_in.weight"][0], shapes["post_quant_conv.weight"][0]
    except (KeyError, IndexError) as error:
        raise WeightsMismatch(f"these are no VAE's weights: {error} among {len(shapes)} of them") from error
    outs, halving, residuals = _levels(shapes)
    levels = tuple(out // max(1, width) for out in outs)
    if not levels or min(width, *levels, channels) < 1:
        raise WeightsMismatch(f"these are no VAE's weights: levels of {outs} channels, latents of {channels}")
    weights = sum(map(prod, shapes.values()))
    carried = sum(each.channels * each.steps << 2 * each.doubled for each in carries(shapes, len(halving)).values())
    return Sizes(width, levels, residuals, halving, channels, carried, weights)


def carries(shapes: Mapping[str, Shape], steps: int) -> dict[str, Carried]:
    """What a session's decoder carries, by its own names, where the weights have these, Diffusers', and shapes.

    steps  up, to the pictures' level: each doubles both sides
    """
    found = {}
    for name, shape in shapes.items():
        if name.startswith("decoder.") and len(shape) == 5 and shape[2] > 1:
            doubled = int(match[1]) if (match := UP_BLOCK.match(name)) else steps * name.startswith("decoder.conv_out")
            own = name.removeprefix("decoder.").removesuffix(".weight")
            found[own] = Carried(shape[1], shape[2] - 1, doubled)
    return found


def _renamed(name: str, blocks: int) -> str:
    if match := UP.match(name):
        level, block = divmod(int(match[1]), blocks + 1)
        place = f"resnets.{block}" if block < blocks else "upsamplers.0"
        name = f"decoder.up_blocks.{level}.{place}.{match[2]}"
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _levels(shapes: Mapping[str, Shape]) -> tuple[list[int], tuple[bool, ...], int]:
    """Channels of each level, which steps down halve time, and blocks of a level: from the encoder's row of blocks."""
    outs: list[int] = []
    steps: dict[int, bool] = {}
    for at in range(len(shapes)):
        name = f"encoder.down_blocks.{at}"
        if f"{name}.resample.1.weight" in shapes:
            steps[at] = f"{name}.time_conv.weight" in shapes
        elif out := shapes.get(f"{name}.conv1.weight"):
            outs[len(steps) :] = out[:1]
        else:
            break
    return outs, tuple(steps.values()), min(steps, default=at)
