"""The VAE of Wan 2.1 with random weights, at its published width or a smaller one."""

from __future__ import annotations

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from services.generator.adapters.wan.files import Shape
from services.generator.adapters.wan.vae import WanVAE, load

WIDTH = 96
LEVELS = (1, 2, 4, 4)
HALVING = (False, True, True)
"""Whether a step down from a level, or up to it, halves or doubles time too."""
CHANNELS = 16
RESIDUALS = 2
FILE = "Wan2.1_VAE.pth"


def published(width: int = WIDTH) -> dict[str, Shape]:
    """Names and shapes of the weights in the original file, were it of this width."""
    dims = [width * level for level in LEVELS]
    deep = dims[-1]
    found = _conv("encoder.conv1", 3, width)
    at, now = 0, width
    for level, dim in enumerate(dims):
        for _ in range(RESIDUALS):
            found |= _residual(f"encoder.downsamples.{at}", now, dim)
            at, now = at + 1, dim
        if level < len(HALVING):
            found |= _resample(f"encoder.downsamples.{at}", dim, dim, dim if HALVING[level] else 0)
            at += 1
    found |= _middle("encoder.middle", deep) | _head("encoder.head", deep, 2 * CHANNELS)
    found |= _conv("conv1", 2 * CHANNELS, 2 * CHANNELS, 1) | _conv("conv2", CHANNELS, CHANNELS, 1)
    found |= _conv("decoder.conv1", CHANNELS, deep)
    found |= _middle("decoder.middle", deep)
    at, now = 0, deep
    for level, dim in reversed(list(enumerate(dims))):
        for _ in range(RESIDUALS + 1):
            found |= _residual(f"decoder.upsamples.{at}", now, dim)
            at, now = at + 1, dim
        if level:
            found |= _resample(f"decoder.upsamples.{at}", dim, dim // 2, 2 * dim if HALVING[level - 1] else 0)
            at, now = at + 1, dim // 2
    return found | _head("decoder.head", width, 3)


def random_weights(width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    """Weights of which every one matters, and whose pictures are neither black nor white."""
    torch.manual_seed(seed)
    weights = {}
    for name, shape in published(width).items():
        spread = 0.2 if len(shape) == 1 or name.endswith("gamma") else prod(shape[1:]) ** -0.5
        weights[name] = spread * torch.randn(shape) + name.endswith("gamma")
    weights["decoder.head.2.weight"] *= 0.4
    return weights


def random_vae(width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[WanVAE, dict[str, Tensor]]:
    """A VAE as it is loaded from its file, and the weights in that file."""
    weights = random_weights(width, seed)
    with TemporaryDirectory() as folder:
        torch.save(weights, Path(folder, FILE))
        return load(Path(folder, FILE), dtype), weights


def _conv(name: str, before: int, after: int, *kernel: int) -> dict[str, Shape]:
    """kernel: one side of a cube, or all sides; 3 if nothing is said."""
    sides = kernel * 3 if len(kernel) == 1 else kernel or (3, 3, 3)
    return {f"{name}.weight": (after, before, *sides), f"{name}.bias": (after,)}


def _residual(name: str, before: int, after: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {
        f"{name}.residual.0.gamma": (before, 1, 1, 1),
        f"{name}.residual.3.gamma": (after, 1, 1, 1),
    }
    found |= _conv(f"{name}.residual.2", before, after) | _conv(f"{name}.residual.6", after, after)
    return found if before == after else found | _conv(f"{name}.shortcut", before, after, 1)


def _resample(name: str, before: int, after: int, timed: int) -> dict[str, Shape]:
    """timed: channels that come out of the convolution over time; 0: there is none."""
    found = _conv(f"{name}.resample.1", before, after, 3, 3)
    return found | _conv(f"{name}.time_conv", before, timed, 3, 1, 1) if timed else found


def _middle(name: str, dim: int) -> dict[str, Shape]:
    attention: dict[str, Shape] = {f"{name}.1.norm.gamma": (dim, 1, 1)}
    attention |= _conv(f"{name}.1.to_qkv", dim, 3 * dim, 1, 1) | _conv(f"{name}.1.proj", dim, dim, 1, 1)
    return _residual(f"{name}.0", dim, dim) | attention | _residual(f"{name}.2", dim, dim)


def _head(name: str, dim: int, after: int) -> dict[str, Shape]:
    return {f"{name}.0.gamma": (dim, 1, 1, 1)} | _conv(f"{name}.2", dim, after)
