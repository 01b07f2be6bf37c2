"""Worker processes that draw walks and films, each with the model at hand and its share of the cores.

A walk in one mode is a task, and so is the film of a walk. Two walks on a core each go farther than one walk on two
cores, and drawing films, which takes one core only, keeps none waiting.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from torch import Tensor

from services.generator.adapters.pocket import PocketWorldModel
from services.generator.recording import Recording
from services.generator.report.comparison import Comparison
from services.generator.report.html import Exhibit
from services.generator.report.results import WalkResult, measure
from services.generator.report.writing import write_exhibit
from services.generator.scenarios import Scenario
from services.generator.served import served_walk
from services.generator.walks import Variant, run_walk
from worldkv.client import WalkClient, WalkClientConfig

MOST = 4
"""Workers at most: as many walks in memory at once."""
DRAWN = 5
"""Passes of the model that draw a chunk and encode it; a shown chunk is only encoded."""
BASE, GROWTH = 0.75, 0.05
"""What a pass costs with full KV, and with each chunk kept; 1 with a window's worth."""
SHEET, FRAME = 15.0, 1.5
"""What a contact sheet costs, and each frame of a film with its scores; in passes, about 60 ms of a core each."""


def passes(scenario: Scenario, mode: str, frames: int = 3) -> list[float]:
    """What each chunk of a walk costs, in passes of a window's size."""
    chunks = range(len(scenario.walkers) // frames)
    kept = [BASE + GROWTH * i if mode == "full" else 1.0 for i in chunks]
    return [size * (1 if i * frames < scenario.shown else DRAWN) for i, size in zip(chunks, kept, strict=True)]


class Crew:
    """A pool of workers, used as a context manager.

    weights  file of the model that each of them loads
    address  host:port of a service that walks go through, with the same model; None: workers draw themselves
    caller   who walks there, and how that is known
    """

    def __init__(self, weights: Path, address: str | None = None, caller: WalkClientConfig | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = min(cores, MOST)
        self.threads = cores // self.workers
        # Forked from a process that has computed in several threads, a worker may hang in its first computation.
        context = get_context("spawn")
        self._done: Synchronized[float] = context.Value("d", 0.0)
        there = None if address is None else partial(WalkClient, address, config=caller)
        arguments = (weights, self.threads, self._done, there)
        self._pool = ProcessPoolExecutor(self.workers, context, _Worker.begin, arguments)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def done(self) -> float:
        """Passes' worth of work done so far, by all."""
        return self._done.value

    def walk(self, scenario: Scenario, variant: Variant) -> Future[Recording]:
        """Walk a scenario in one way of remembering."""
        return self._pool.submit(_Worker.walk, scenario, variant)

    def exhibit(
        self, out: Path, comparison: Comparison, filmed: bool
    ) -> Future[tuple[tuple[WalkResult, ...], Exhibit | None]]:
        """Score a comparison and, if it is to be filmed, write its sheet and its film into the folder `out`."""
        return self._pool.submit(_Worker.exhibit, out, comparison, filmed)


class _Worker:
    """What one process holds: the class itself, as tasks come to a process and not to an object."""

    model: PocketWorldModel
    done: Synchronized[float]
    there: Callable[[], WalkClient] | None

    @classmethod
    def begin(
        cls, weights: Path, threads: int, done: Synchronized[float], there: Callable[[], WalkClient] | None
    ) -> None:
        torch.set_num_threads(threads)
        cls.model, cls.done, cls.there = PocketWorldModel.load(weights), done, there

    @classmethod
    def add(cls, work: float) -> None:
        with cls.done.get_lock():
            cls.done.value += work

    @classmethod
    def walk(cls, scenario: Scenario, variant: Variant) -> Recording:
        costs: Iterator[float] = iter(passes(scenario, variant.mode))

        def progress(pictures: Tensor) -> None:
            cls.add(next(costs))

        if cls.there is None:
            return run_walk(cls.model, scenario, variant, progress)
        return asyncio.run(cls.walk_there(cls.there, scenario, variant, progress))

    @classmethod
    async def walk_there(
        cls,
        there: Callable[[], WalkClient],
        scenario: Scenario,
        variant: Variant,
        progress: Callable[[Tensor], None],
    ) -> Recording:
        async with there() as client:
            return await served_walk(client, cls.model, scenario, variant, progress)

    @classmethod
    def exhibit(cls, out: Path, comparison: Comparison, filmed: bool) -> tuple[tuple[WalkResult, ...], Exhibit | None]:
        results = tuple(measure(w, comparison.gap, comparison.scores[w.mode]) for w in comparison.walks)
        if not filmed:
            return results, None
        cls.add(SHEET)
        return results, write_exhibit(out, comparison, lambda: cls.add(FRAME))
