"""The numbers behind a report, as they are kept in `results.json`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.generator.metrics import LEAST_GAP, Scores, gain_closed, psnr, score
from services.generator.recording import ChunkLog, Recording
from services.generator.report.comparison import MODES, end_fps, generated
from services.generator.report.files import write_text
from services.generator.report.machine import processor
from worldkv.errors import InvalidInput

SCHEMA = "worldkv.results/1"
"""Name and version of the file's form; a reader refuses any other."""


@dataclass(frozen=True)
class WalkResult:
    """One walk in one mode. Scores are None where nothing was revisited.

    revisits    generated frames that look again at what was shown
    truth_*     against the true render; first_* against the model's own first visit; dB for PSNR
    fps         latent frames a second at the end of the walk
    kv_bytes    keys and values kept at the end
    recalled_bytes  fetched or decoded in a generated step, mean
    psnr        against the truth, of each frame
    """

    scenario: str
    seed: int
    mode: str
    frames: int
    shown: int
    revisits: int
    truth_psnr: float | None
    truth_ssim: float | None
    first_psnr: float | None
    first_ssim: float | None
    fps: float | None
    kv_bytes: int
    recalled_bytes: float | None
    psnr: tuple[float, ...]
    chunks: tuple[ChunkLog, ...]


@dataclass(frozen=True)
class Row:
    """A line of the headline table: the means of one scenario in one mode.

    gain      share of what full KV gains over the window; None where it means nothing
    no_gain   why there is no gain
    """

    scenario: str
    mode: str
    seeds: int
    revisits: float
    truth_psnr: float | None
    truth_ssim: float | None
    first_psnr: float | None
    first_ssim: float | None
    gain: float | None
    no_gain: str
    fps: float | None
    kv_bytes: float
    recalled_bytes: float | None


@dataclass(frozen=True)
class Results:
    """Everything that a report says.

    command   what was run
    seconds   that it took
    gap       latent frames between showing a view and looking at it again
    left_out  walks there was no time for
    """

    command: str
    created: str
    seconds: float
    gap: int
    environment: dict[str, str]
    model: dict[str, Any]
    left_out: tuple[str, ...]
    rows: tuple[Row, ...]
    walks: tuple[WalkResult, ...]


def measure(walk: Recording, gap: int, scores: Scores | None = None) -> WalkResult:
    """The numbers of a recording; `scores` where they are known already."""
    s = scores or score(walk, gap)
    return WalkResult(
        scenario=walk.scenario,
        seed=walk.seed,
        mode=walk.mode,
        frames=len(walk.truth),
        shown=walk.shown,
        revisits=s.frames,
        truth_psnr=_known(s.truth_psnr),
        truth_ssim=_known(s.truth_ssim),
        first_psnr=_known(s.first_psnr),
        first_ssim=_known(s.first_ssim),
        fps=_known(end_fps(walk)),
        kv_bytes=walk.chunks[-1].kv_bytes,
        recalled_bytes=mean([log.recalled_bytes for log in generated(walk)]),
        psnr=tuple(round(float(v), 3) for v in psnr(walk.pictures, walk.truth)),
        chunks=walk.chunks,
    )


def summarise(walks: Sequence[WalkResult], modes: Sequence[str] = MODES) -> tuple[Row, ...]:
    """Means over the seeds, by scenario and mode, in the order in which they were walked."""
    rows = []
    for scenario in dict.fromkeys(w.scenario for w in walks):
        by_mode = {m: [w for w in walks if (w.scenario, w.mode) == (scenario, m)] for m in modes}
        levels = {m: mean([w.truth_psnr for w in some]) for m, some in by_mode.items()}
        for mode, some in by_mode.items():
            if not some:
                continue
            gain, why = gain_of(levels[mode], levels.get("window"), levels.get("full"))
            rows.append(
                Row(
                    scenario=scenario,
                    mode=mode,
                    seeds=len(some),
                    revisits=float(np.mean([w.revisits for w in some])),
                    truth_psnr=levels[mode],
                    truth_ssim=mean([w.truth_ssim for w in some]),
                    first_psnr=mean([w.first_psnr for w in some]),
                    first_ssim=mean([w.first_ssim for w in some]),
                    gain=None if mode in ("window", "full") else gain,
                    no_gain="by definition" if mode in ("window", "full") else why,
                    fps=mean([w.fps for w in some]),
                    kv_bytes=float(np.mean([w.kv_bytes for w in some])),
                    recalled_bytes=mean([w.recalled_bytes for w in some]),
                )
            )
    return tuple(rows)


def gain_of(method: float | None, window: float | None, full: float | None) -> tuple[float | None, str]:
    """Gain closed, or None and the reason why it would mean nothing."""
    if method is None:
        return None, "nothing is revisited"
    if window is None or full is None:
        return None, "window and full KV were not both walked"
    gain = _known(gain_closed(method, window, full))
    why = f"full KV is only {full - window:.1f} dB above the window (less than {LEAST_GAP:g})"
    return gain, why if gain is None else ""


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are known; None if none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _known(value: float) -> float | None:
    return value if isfinite(value) else None


def environment() -> dict[str, str]:
    """Machine and versions, as far as they bear on the numbers."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("worldkv", "torch", "numpy", "scikit-image", "av")},
    }


def write_results(path: Path, results: Results) -> dict[str, Any]:
    """Write `results.json` by rename; returns what was written."""
    data = {"schema": SCHEMA, **asdict(results)}
    data["walks"] = [walk_to_json(w) for w in results.walks]
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return data


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote. Raises InvalidInput for a file of another schema."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise InvalidInput(f"{path}: expected results of schema {SCHEMA!r}, got {found!r}")
    known = {f.name: data[f.name] for f in fields(Results)}
    known["left_out"] = tuple(data["left_out"])
    known["rows"] = tuple(Row(**row) for row in data["rows"])
    known["walks"] = tuple(walk_from_json(w) for w in data["walks"])
    return Results(**known)


def walk_to_json(walk: WalkResult) -> dict[str, Any]:
    """A walk as JSON values; its chunks as objects."""
    return {**asdict(walk), "chunks": [log._asdict() for log in walk.chunks]}


def walk_from_json(data: dict[str, Any]) -> WalkResult:
    """What `walk_to_json` was given."""
    chunks = tuple(ChunkLog(**{**log, "recalled": tuple(log["recalled"])}) for log in data["chunks"])
    return WalkResult(**{**data, "psnr": tuple(data["psnr"]), "chunks": chunks})
