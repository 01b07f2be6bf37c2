"""Whether old or new chunks are worth more, of views as good: pictures drawn on walks that see a place many times."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.judged import LONG, differences, mean_psnr
from benchmarks.registry import Case, bench
from services.generator.walks import DEFAULT

COVERAGE = replace(DEFAULT, name="coverage", selector="coverage")

FRESH = range(10, 15)
"""Seeds that nothing was tuned on."""


@bench("select.age", bar="", about="recall that prefers old chunks, or new ones, minus recall by coverage, dB")
def age() -> Iterator[Case]:
    for path in LONG:
        for name in ("coverage_early", "coverage_late"):
            changed = replace(COVERAGE, name=name, selector=name)
            by_seed = differences(path, changed, COVERAGE, FRESH)
            yield Case(f"{path}, {name}", statistics.fmean(by_seed), "dB", mean_psnr(path, COVERAGE, FRESH), by_seed)
