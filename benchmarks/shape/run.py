"""All walks of a plan, with one model."""

from __future__ import annotations

import asyncio
import gc
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.shape import report
from benchmarks.shape.backbone import shaped
from benchmarks.shape.plan import Plan
from benchmarks.shape.walk import Row, Walked, walk
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.report.machine import processor
from services.generator.session import Mode

WARM: Mode = "window"
"""What stands in the window of the first chunk that anything draws, which does not count."""


def run(plan: Plan, out: Path | None, told: Callable[[Mode, Row], object]) -> list[Walked]:
    """Walk in all modes.

    out   folder for what was found
    told  is told of every chunk
    """
    model = shaped(plan)
    _walked(replace(plan, chunks=1), model, (WARM,), lambda mode, row: None)
    # On a processor they take turns, so that what else it does slows them all; on a device each has the memory alone.
    groups = [plan.modes] if plan.device == "cpu" else [(mode,) for mode in plan.modes]
    found = [each for modes in groups for each in _walked(plan, model, modes, told)]
    if out is not None:
        report.write(about(plan), found, out)
    return found


def about(plan: Plan) -> dict[str, Any]:
    """What was walked, and on what."""
    cuda, threads = torch.device(plan.device).type == "cuda", torch.get_num_threads()
    device = torch.cuda.get_device_name() if cuda else f"{processor()}, {threads} threads of {os.cpu_count()} cores"
    spec = plan.spec
    return {
        **asdict(plan),
        "command": shlex.join(["worldkv", *sys.argv[1:]]),
        "grid": plan.cells,
        "layers": spec.layers,
        "of_layers": plan.published.layers,
        "frames": spec.frames,
        "tokens": spec.frames * spec.frame_tokens,
        "chunk_bytes": spec.raw_bytes,
        "hardware": device,
        "torch": torch.__version__,
    }


def _walked(
    plan: Plan, model: WanWorldModel, modes: tuple[Mode, ...], told: Callable[[Mode, Row], object]
) -> list[Walked]:
    try:
        return asyncio.run(walk(plan, model, modes, told))
    finally:
        gc.collect()  # what one walk leaves is no part of the next one's peak
        if torch.device(plan.device).type == "cuda":
            torch.cuda.empty_cache()
