"""Rotary positions over three axes (time, height, width), with keys kept in chunk-local time.

A head's channels are consecutive pairs (2i, 2i + 1): first `time` pairs, then `height`, then `width`.
Each axis has its own ladder of frequencies, theta ** (-j / pairs of that axis) for its j-th pair
(Wan 2.1's layout). Rotations of one pair add up, hence the two laws this module lives by:

- rotating by a, then by b, is rotating by a + b;
- turning queries and keys by the same time leaves every product q . k as it was.

Keys are stored as if their chunk began at latent frame 0. `place` moves a whole chunk to any time with
one rotation of the time pairs, the same for all its tokens. Phases are computed in float64 and the
turn in float32, so the result is rounded once, to the dtype of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CACHED = 4 << 20
"""Bytes of float32 that are turned at a time on a CPU."""


@dataclass(frozen=True)
class Rope:
    """How a head's channels split over the axes.

    time, height, width  channel pairs of each axis; their sum is head_dim / 2
    theta                base of the frequency ladders
    """

    time: int
    height: int
    width: int
    theta: float = 10_000.0

    @property
    def pairs(self) -> int:
        return self.time + self.height + self.width


def frequencies(pairs: int, theta: float) -> Tensor:
    """Radians a position step turns each of an axis' pairs: [pairs] float64."""
    return theta ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))


def phases(rope: Rope, time: Tensor, rows: int, columns: int) -> Tensor:
    """Unit complex numbers that rotate the tokens of frames: [frames * rows * columns, pairs] complex64.

    time [frames]: time position of each latent frame, any number type.
    Tokens run over columns fastest, then rows, then frames.
    """
    device = time.device
    axes = (
        (time.double(), rope.time),
        (torch.arange(rows, dtype=torch.float64, device=device), rope.height),
        (torch.arange(columns, dtype=torch.float64, device=device), rope.width),
    )
    t, h, w = (at[:, None] * frequencies(pairs, rope.theta).to(device) for at, pairs in axes)
    grid = (len(time), rows, columns)
    angle = torch.cat(
        [
            t[:, None, None].expand(*grid, -1),
            h[None, :, None].expand(*grid, -1),
            w[None, None, :].expand(*grid, -1),
        ],
        -1,
    ).flatten(0, 2)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turn the leading channel pairs of x by `phase`; channels beyond them are left alone.

    x     [..., head_dim] of any float dtype; the result has the same shape and dtype
    phase complex64, [..., pairs], broadcast against x's channel pairs; pairs <= head_dim / 2
    """
    turned = 2 * phase.shape[-1]
    pairs = torch.view_as_complex(x[..., :turned].float().unflatten(-1, (-1, 2)).contiguous())
    out = torch.view_as_real(pairs * phase).flatten(-2).to(x.dtype)
    return out if turned == x.shape[-1] else torch.cat([out, x[..., turned:]], -1)


def place(keys: Tensor, rope: Rope, offset: Tensor) -> Tensor:
    """Move chunk-local keys to the time position at which their chunk is to begin.

    keys   [batch, ..., head_dim], any float dtype; the result has the same shape and dtype
    offset [batch], latent frames, any number type
    """
    angle = offset.double()[:, None] * frequencies(rope.time, rope.theta).to(keys.device)
    phase = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    return rotate(keys, phase.view(len(offset), *[1] * (keys.dim() - 2), -1))


def place_into(target: Tensor, keys: Tensor, rope: Rope, time: int) -> None:
    """Write keys into `target` at the time at which their chunk is to begin: what `place` gives, bit for bit.

    target, keys  [layers, ..., head_dim], of one shape and dtype; keys are chunk-local, and lie on any device

    Takes no more memory beside them than a few layers do: on a CPU that stays in its cache, where fresh memory costs
    ten times the rotation.
    """
    target.copy_(keys)
    if not time or not rope.time or not target.numel():
        return
    angle = time * frequencies(rope.time, rope.theta).to(target.device)
    phase = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    turned = target[..., : 2 * rope.time]
    layers = len(turned) if turned.is_cuda else max(1, CACHED // (turned[0].numel() * 4))
    for begin in range(0, len(turned), layers):
        some = turned[begin : begin + layers]
        some.copy_(rotate(some, phase))
