"""What memory is worth, on walks of the pocket model: each figure is a mean over seeds, one case a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.judged import LONG, LONG_PANS, PANS, differences, gain, mean_psnr, model, psnrs
from benchmarks.registry import Case, bench
from services.generator.walks import DEFAULT, FULL, PAPER, WINDOW, Variant
from worldkv.coding import coded_bytes

POSE = replace(DEFAULT, name="pose", selector="pose")
RAW = replace(DEFAULT, name="raw", codec="raw")
RANDOM = replace(POSE, name="random", selector="random")
FOREIGN = replace(POSE, name="foreign", foreign=True)
CODINGS = tuple(
    replace(DEFAULT, name=codec, codec=codec) for codec in ("int8", "int4", "int3", "klt3", "klt2", "klt1.5", "klt1")
)
"""Codings that are tried for the bytes rows, largest first; klt is fitted to the model."""
LOSS = 0.2
"""dB that the best coding may lose."""
WIDE_SEEDS = range(5)
DOOR_SEEDS = range(10)


def _gains(variant: Variant, paths: tuple[str, ...] = PANS) -> Iterator[Case]:
    for path in paths:
        yield Case(path, gain(path, variant), "share of full minus window", mean_psnr(path, FULL), psnrs(path, variant))


@bench("demo.emerges", bar=">= 7", about="revisit PSNR, full KV minus window, dB")
def emerges() -> Iterator[Case]:
    for path in PANS:
        runs = differences(path, FULL, WINDOW)
        yield Case(path, float(np.mean(runs)), "dB", mean_psnr(path, WINDOW), runs)


@bench("demo.gain.pose", bar=">= 0.98", about="gain closed by pose, whole chunks at int4")
def gain_pose() -> Iterator[Case]:
    yield from _gains(replace(POSE, codec="int4"))


@bench("demo.gain.coverage", bar=">= 0.98", about="gain closed by coverage, whole chunks at int4")
def gain_coverage() -> Iterator[Case]:
    yield from _gains(replace(DEFAULT, name="coverage", selector="coverage", codec="int4"))


@bench("demo.gain.paper", bar=">= 0.85", about="gain closed at the paper's setting: keep 0.25, raw, by pose")
def gain_paper() -> Iterator[Case]:
    yield from _gains(PAPER)


@bench("demo.gain.door", bar=">= 0.3", about="through a door and back, coverage minus pose, dB; runs are the pairs")
def gain_door() -> Iterator[Case]:
    runs = differences("door", DEFAULT, POSE, DOOR_SEEDS)
    error = float(np.std(runs, ddof=1) / np.sqrt(len(runs)))
    case = f"door, standard error {error:.3f}"
    yield Case(case, float(np.mean(runs)), "dB", mean_psnr("door", POSE, DOOR_SEEDS), runs)


@bench("demo.long", bar=">= 0.5", about="walks of 4 times the trained length, default minus full KV, dB")
def long_walks() -> Iterator[Case]:
    for path in LONG:
        runs = differences(path, DEFAULT, FULL)
        yield Case(path, float(np.mean(runs)), "dB", mean_psnr(path, FULL), runs)


@bench("demo.rebased", bar=">= 0.3", about="the same walks, rebased minus original placement, dB")
def rebased() -> Iterator[Case]:
    original = replace(DEFAULT, name="original", placement="original")
    for path in LONG:
        runs = differences(path, DEFAULT, original)
        yield Case(path, float(np.mean(runs)), "dB", mean_psnr(path, original), runs)


@bench("demo.bytes", bar=">= 4.5", about="raw bf16 bytes over the best coding that loses at most 0.2 dB")
def best_bytes() -> Iterator[Case]:
    raw = model().spec.raw_bytes * 2 / {"float32": 4}.get(model().spec.dtype, 2)
    for path in LONG_PANS:
        losses = {v: float(np.mean(differences(path, RAW, v))) for v in CODINGS}
        good = [v for v in CODINGS if losses[v] <= LOSS]
        best = max((raw / coded_bytes(v.coding(model()), model().spec), v) for v in good) if good else (1.0, RAW)
        case = f"{path}, {best[1].name}"
        yield Case(case, best[0], "raw over coded", raw, [losses[v] for v in CODINGS])


@bench("demo.paper_bytes", bar=">= 1", about="at half of raw bf16: best coding minus keep 0.25 raw, dB")
def paper_bytes() -> Iterator[Case]:
    pruned = replace(DEFAULT, name="keep 0.25", keep=0.25, codec="raw")
    raw = model().spec.raw_bytes * 2 / {"float32": 4}.get(model().spec.dtype, 2)
    mixed = tuple(replace(DEFAULT, name=f"keep 0.5, {codec}", keep=0.5, codec=codec) for codec in ("int8", "klt3"))
    fitting = [v for v in (*CODINGS, *mixed) if coded_bytes(v.coding(model()), model().spec) <= raw / 2]
    for path in LONG_PANS:
        best = max(fitting, key=lambda v: mean_psnr(path, v))
        runs = differences(path, best, pruned)
        yield Case(f"{path}, {best.name}", float(np.mean(runs)), "dB", mean_psnr(path, pruned), runs)


@bench("demo.controls.random", bar="<= 0.5", about="wide walks: gain closed by random chunks over gain closed by pose")
def random_chunks() -> Iterator[Case]:
    value = gain("wide", RANDOM, WIDE_SEEDS) / gain("wide", POSE, WIDE_SEEDS)
    yield Case("wide", value, "ratio", gain("wide", POSE, WIDE_SEEDS), psnrs("wide", RANDOM, WIDE_SEEDS))


@bench("demo.controls.foreign", bar="<= 0.1", about="wide walks: gain closed by another world's chunks")
def foreign_chunks() -> Iterator[Case]:
    value = gain("wide", FOREIGN, WIDE_SEEDS)
    yield Case(
        "wide", value, "share of full minus window", mean_psnr("wide", WINDOW), psnrs("wide", FOREIGN, WIDE_SEEDS)
    )
