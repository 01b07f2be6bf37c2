"""Walks of the shipped model, judged: what the demo's benchmarks have in common."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache

from services.generator.adapters.pocket import PocketWorldModel
from services.generator.metrics import gain_closed, score
from services.generator.scenarios import SCENARIOS
from services.generator.walks import BASELINE_GAP, FULL, WINDOW, Variant, run_walk

SEEDS = range(5)
"""Seeds of every named path, unless a row asks for more."""
PANS = ("pan90", "pan180")
LONG_PANS = ("pan180", "pan360")
LONG = ("spins", "wander")
"""Walks of at least four times the trained length."""


@cache
def model() -> PocketWorldModel:
    return PocketWorldModel.load()


@cache
def revisit_psnr(path: str, seed: int, variant: Variant) -> float:
    """PSNR of the revisit frames of one walk against the true render, dB."""
    return score(run_walk(model(), SCENARIOS[path](seed), variant), BASELINE_GAP).truth_psnr


def psnrs(path: str, variant: Variant, seeds: Sequence[int] = SEEDS) -> list[float]:
    """The same for each seed, without the seeds whose walk revisits nothing."""
    found = [revisit_psnr(path, seed, variant) for seed in seeds]
    return [value for value in found if value == value]


def mean_psnr(path: str, variant: Variant, seeds: Sequence[int] = SEEDS) -> float:
    return statistics.fmean(psnrs(path, variant, seeds))


def gain(path: str, variant: Variant, seeds: Sequence[int] = SEEDS) -> float:
    """Share of full KV's lead over the window that a variant closes, by means over the seeds."""
    means = (mean_psnr(path, v, seeds) for v in (variant, WINDOW, FULL))
    return gain_closed(*means)


def differences(path: str, a: Variant, b: Variant, seeds: Sequence[int] = SEEDS) -> list[float]:
    """a minus b by seed, dB."""
    pairs = ((revisit_psnr(path, s, a), revisit_psnr(path, s, b)) for s in seeds)
    return [x - y for x, y in pairs if x == x and y == y]
