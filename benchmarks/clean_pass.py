"""What a clean pass should attend to: the chunk alone, or the window that it was drawn in."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.judged import differences, mean_psnr
from benchmarks.registry import Case, bench
from services.generator.walks import DEFAULT

IN_WINDOW = replace(DEFAULT, name="in the window", context="window")
FRESH = range(20, 30)
"""Seeds that nothing was tuned on."""


@bench("demo.alone", bar="", about="clean pass over the chunk alone minus the same in its window, dB")
def alone() -> Iterator[Case]:
    for path in ("pan180", "pan360", "spins", "wander", "open", "door"):
        runs = differences(path, DEFAULT, IN_WINDOW, FRESH)
        error = statistics.stdev(runs) / len(runs) ** 0.5
        yield Case(
            f"{path}, standard error {error:.2f}", statistics.fmean(runs), "dB", mean_psnr(path, IN_WINDOW, FRESH), runs
        )
