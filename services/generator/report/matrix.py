"""Many ways of remembering, side by side: means, standard errors, and a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from services.generator.report.html import DASH, number
from services.generator.report.results import WalkResult, gain_of, mean

HEAD = "| variant | seeds | PSNR, dB | SSIM | beside {beside} | gain closed | frames/s | KV, MB | recalled, MB a step |"


@dataclass(frozen=True)
class Cell:
    """One scenario under one variant, over the seeds that were walked.

    psnr, error    mean against the truth over revisit frames, dB, and its standard error
    ssim           mean
    over, over_error  minus the same seeds of the variant that all are set beside, mean and standard error; None for
                      fewer than two
    gain, no_gain  share of full KV's gain over the window, or why there is none
    fps, kv_bytes, recalled_bytes  means, as in `WalkResult`
    """

    scenario: str
    variant: str
    seeds: int
    psnr: float | None
    error: float | None
    ssim: float | None
    over: float | None
    over_error: float | None
    gain: float | None
    no_gain: str
    fps: float | None
    kv_bytes: float
    recalled_bytes: float | None


def tabulate(walks: Sequence[WalkResult], beside: str) -> tuple[Cell, ...]:
    """A cell for every scenario and variant (a walk's mode), in the order in which they first appear."""
    cells = []
    for scenario in dict.fromkeys(w.scenario for w in walks):
        variants: dict[str, list[WalkResult]] = {}
        for walk in (w for w in walks if w.scenario == scenario):
            variants.setdefault(walk.mode, []).append(walk)
        psnrs = {name: {w.seed: w.truth_psnr for w in some} for name, some in variants.items()}
        means = {name: mean(list(by_seed.values())) for name, by_seed in psnrs.items()}
        for name, some in variants.items():
            pairs = ((psnrs[name][s], psnrs.get(beside, {}).get(s)) for s in psnrs[name])
            over = [a - b for a, b in pairs if a is not None and b is not None]
            gain, why = gain_of(means[name], means.get("window"), means.get("full"))
            cells.append(
                Cell(
                    scenario=scenario,
                    variant=name,
                    seeds=len(some),
                    psnr=means[name],
                    error=standard_error([v for v in psnrs[name].values() if v is not None]),
                    ssim=mean([w.truth_ssim for w in some]),
                    over=mean(over) if len(over) > 1 else None,
                    over_error=standard_error(over),
                    gain=gain,
                    no_gain=why,
                    fps=mean([w.fps for w in some]),
                    kv_bytes=float(np.mean([w.kv_bytes for w in some])),
                    recalled_bytes=mean([w.recalled_bytes for w in some]),
                )
            )
    return tuple(cells)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else None


def markdown(cells: Sequence[Cell], command: str, beside: str, about: Sequence[str]) -> str:
    """The cells as one Markdown table a scenario, under the command that made them; `beside` names the bold lines."""
    lines = [
        "# Ways of remembering, compared",
        "",
        f"`{command}`",
        "",
        "PSNR against the truth over revisit frames, mean and standard error over seeds;",
        f"*beside {beside}* is the difference to the same seeds of `{beside}`, dB; *gain closed* is",
        "(line − window) / (full − window): a dash where full is not 3 dB above the window, or nothing is revisited.",
        "",
        *(f"- {line}" for line in about),
    ]
    for scenario in dict.fromkeys(c.scenario for c in cells):
        lines += ["", f"## {scenario}", "", HEAD.format(beside=beside), "| --- " + "| ---: " * 8 + "|"]
        lines += [_line(cell, beside) for cell in cells if cell.scenario == scenario]
    return "\n".join(lines) + "\n"


def _line(c: Cell, beside: str) -> str:
    over = DASH if c.over is None or c.variant == beside else f"{c.over:+.2f} ± {number(c.over_error, 2)}"
    values = (
        f"**{c.variant}**" if c.variant == beside else c.variant,
        str(c.seeds),
        DASH if c.psnr is None else f"{c.psnr:.2f} ± {number(c.error, 2)}",
        number(c.ssim, 3),
        over,
        number(c.gain, 3),
        number(c.fps, 1),
        number(c.kv_bytes / 1e6, 2),
        number(None if c.recalled_bytes is None else c.recalled_bytes / 1e6, 3),
    )
    return "| " + " | ".join(values) + " |"
