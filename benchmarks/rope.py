"""What placing costs: keys stored in chunk-local time and moved, against keys rotated to their time from scratch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.registry import Case, bench
from worldkv.rope import Rope, frequencies, phases, place, rotate

ROPE = Rope(time=22, height=21, width=21)
"""The split of a 128-channel head in the models of Wan's family."""
STARTS = (0, 1, 63, 1_000, 9_999, 40_000, 100_000)
"""Latent frames at which a chunk is placed; the last is more than six hours of walking."""
SEEDS = range(3)
FRAMES, ROWS, COLUMNS, HEADS = 3, 6, 10, 4


@bench("rope.bf16", bar="<= 3e-3", about="placed bfloat16 keys against float64 rotation from scratch, relative error")
def bf16() -> Iterator[Case]:
    yield from _cases(torch.bfloat16)


@bench("rope.f32", bar="<= 1e-6", about="placed float32 keys against float64 rotation from scratch, relative error")
def f32() -> Iterator[Case]:
    yield from _cases(torch.float32)


def _cases(dtype: torch.dtype) -> Iterator[Case]:
    """A case a start: the largest error over the seeds, and as baseline that of storing in `dtype` without placing."""
    for start in STARTS:
        errors, unmoved = zip(*(_errors(start, dtype, seed) for seed in SEEDS), strict=True)
        yield Case(f"start {start}", max(errors), "relative error", max(unmoved), errors)


def _errors(start: int, dtype: torch.dtype, seed: int) -> tuple[float, float]:
    """Relative Frobenius errors of the placed keys, and of exactly rotated keys that were rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = FRAMES * ROWS * COLUMNS
    raw = torch.randn(tokens, HEADS, 2 * ROPE.pairs, generator=generator, dtype=torch.float64)
    exact = _rotated(raw, torch.arange(start, start + FRAMES))
    local = rotate(raw.float(), phases(ROPE, torch.arange(FRAMES), ROWS, COLUMNS)[:, None])
    stored = local.to(dtype)[None]
    placed = place(stored, ROPE, torch.tensor([start]))[0]
    return _relative(placed, exact), _relative(exact.to(dtype), exact)


def _rotated(x: Tensor, time: Tensor) -> Tensor:
    """x [tokens, heads, head_dim] turned in float64, from the definition: no complex numbers, no shared phases."""
    at = torch.cartesian_prod(time.double(), torch.arange(ROWS).double(), torch.arange(COLUMNS).double())
    axes = zip(at.T, (ROPE.time, ROPE.height, ROPE.width), strict=True)
    angle = torch.cat([t[:, None] * frequencies(pairs, ROPE.theta) for t, pairs in axes], 1)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(turned, -1).flatten(-2)


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.norm(got.double() - wanted) / torch.linalg.norm(wanted))
