"""Denoise schedules of flow matching: at which noise levels a chunk is drawn, and what the model is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LEVELS = 1000
"""Steps that the models' training divided the way from noise to picture into."""


class Level(NamedTuple):
    """A step of a schedule.

    sigma  share of noise: latents are (1 - sigma) * clean + sigma * noise
    time   what the model is told, 0 (clean) to 1000
    """

    sigma: float
    time: float


def warp(share: float, shift: float) -> float:
    """A share of noise moved towards 1, as if pictures were larger: at shift 1 it stays."""
    return shift * share / (1 + (shift - 1) * share)


def warped(steps: Sequence[int], shift: float = 5.0) -> tuple[Level, ...]:
    """Levels of nominal steps out of 1000: Self-Forcing's and Matrix-Game-2.0's rule, trained with shift 5."""
    sigmas = (warp(step / LEVELS, shift) for step in steps)
    return tuple(Level(sigma, LEVELS * sigma) for sigma in sigmas)


def picked(indices: Sequence[int], shift: float) -> tuple[Level, ...]:
    """Levels at places of a table of 1000 that falls evenly from 0.999 before it is warped: LingBot's rule.

    The model is told whole numbers.
    """
    top = (LEVELS - 1) / LEVELS
    sigmas = (warp(top * (1 - index / LEVELS), shift) for index in indices)
    return tuple(Level(sigma, float(int(LEVELS * sigma))) for sigma in sigmas)
