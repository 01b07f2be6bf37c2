"""What drawing in batches gives to many sessions, and whether it treats them alike.

The shipped model in one thread, sessions with the service's default coding and recall, their memory in this process. A
closed loop: each session asks for its next chunk as soon as the last is drawn and kept.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from benchmarks.judged import model
from benchmarks.registry import Case, bench
from pocket.rooms import slide
from services.generator.drawing import Draft
from services.generator.engine import Engine, EngineConfig
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.session import Session, SessionConfig
from services.generator.walks import DEFAULT, make_memory
from worldkv.actions import Action
from worldkv.window import View, Window

BATCH = 4
WARM = 8
"""Chunks that a session has drawn before it is measured: its window is full, and there is something to recall."""
ROUNDS = 9
CHUNKS = 3
"""That each session draws in a round."""
STAGGER = (0.0, 0.3, 0.55, 0.8)
"""Of a step, that sessions begin one after the other."""


class Walk:
    """A session on its way, for ever."""

    def __init__(self, seed: int) -> None:
        scenario: Scenario = SCENARIOS["wander"](seed)
        config = SessionConfig(DEFAULT.mode, DEFAULT.window, seed=seed, context=DEFAULT.context)
        memory = make_memory(model(), DEFAULT, seed)
        self.session = Session(model(), config, scenario.start, memory, partial(slide, scenario.rooms))
        self._actions = scenario.actions

    @property
    def moves(self) -> list[Action]:
        """Of the next chunk."""
        first = self.session.next * self.session.frames
        return [self._actions[(first + i) % len(self._actions)] for i in range(self.session.frames)]

    async def go(self, engine: Engine, chunks: int, after: float = 0.0) -> list[float]:
        """Walk on, beginning some seconds later; the latency of each chunk."""
        await asyncio.sleep(after)
        seconds = []
        for _ in range(chunks):
            asked = engine.clock()
            draft = await self.session.begin(self.moves)
            await self.session.end(draft, await engine.draw(self, draft, asked))
            seconds.append(engine.clock() - asked)
        return seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, as with a core for each generator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


async def warm(count: int) -> list[Walk]:
    """So many walks of different worlds, with full windows."""
    walks = [Walk(seed) for seed in range(count)]
    for walk in walks:
        for _ in range(WARM):
            await walk.session.step(walk.moves)
    return walks


async def together(engine: Engine, walks: Sequence[Walk], chunks: int, after: Sequence[float]) -> list[list[float]]:
    return await asyncio.gather(*(walk.go(engine, chunks, wait) for walk, wait in zip(walks, after, strict=True)))


@bench("gen.batch.gain", bar=">= 0.9", about="speed-up of 4 sessions by one batch, over that of the bare model")
def gain() -> Iterator[Case]:
    with one_thread():
        ours, bare = zip(*asyncio.run(_speed_ups()), strict=True)
    runs = [a / b for a, b in zip(ours, bare, strict=True)]
    yield Case(f"batch of {BATCH}", statistics.median(runs), "ratio", statistics.median(bare), runs)


async def _speed_ups() -> list[tuple[float, float]]:
    """Of sessions and of the bare model: chunks a second in a batch over chunks a second one by one, by round."""
    walks = await warm(BATCH)
    drafts = [await walk.session.begin(walk.moves) for walk in walks]
    for walk, draft in zip(walks, drafts, strict=True):
        walk.session.abandon(draft)
    batch, single = _view(drafts), _view(drafts[:1])
    found = []
    async with Engine(model(), EngineConfig(batch=BATCH)) as engine:
        for _ in range(ROUNDS):
            seconds = {
                "bare one": statistics.median(_timed(single, drafts[:1]) for _ in range(CHUNKS)),
                "bare batch": statistics.median(_timed(batch, drafts) for _ in range(CHUNKS)),
                "one": statistics.median((await together(engine, walks[:1], CHUNKS, [0.0]))[0]),
                "batch": await _seconds(engine, walks) / CHUNKS,
            }
            speed_up = BATCH * seconds["one"] / seconds["batch"]
            found.append((speed_up, BATCH * seconds["bare one"] / seconds["bare batch"]))
    return found


async def _seconds(engine: Engine, walks: Sequence[Walk]) -> float:
    began = time.perf_counter()
    await together(engine, walks, CHUNKS, [0.0] * len(walks))
    return time.perf_counter() - began


def _view(drafts: Sequence[Draft]) -> View:
    """The windows of these drafts, filled."""
    window = Window(model().spec, drafts[0].shape.sizes, len(drafts))
    for row, draft in enumerate(drafts):
        window.fill(row, draft.entries, draft.position, draft.at)
    return window.view(range(len(drafts)))


def _timed(view: View, drafts: Sequence[Draft]) -> float:
    """Seconds of the passes that draw a chunk for each draft."""
    conditions, noise = [draft.conditioning for draft in drafts], torch.stack([draft.source for draft in drafts])
    behind = view if DEFAULT.context == "window" else Window(model().spec, (), len(drafts)).view(range(len(drafts)))
    began = time.perf_counter()
    latents = model().generate(view, conditions, noise)
    model().encode(latents, behind, conditions)
    model().decode([draft.state for draft in drafts], latents)
    return time.perf_counter() - began


@bench("gen.batch.fair", bar="<= 1.5", about="p95 of a chunk's latency, worst session over best, all in a closed loop")
def fair() -> Iterator[Case]:
    for count in (BATCH, 2 * BATCH):
        with one_thread():
            runs, best = zip(*asyncio.run(_unfairness(count)), strict=True)
        yield Case(
            f"{count} sessions, batch of {BATCH}", statistics.median(runs), "ratio", statistics.median(best), runs
        )


async def _unfairness(count: int) -> list[tuple[float, float]]:
    """The worst session's p95 over the best one's, and the best one's in seconds, by round."""
    walks, found = await warm(count), []
    for _ in range(3):
        async with Engine(model(), EngineConfig(batch=BATCH)) as engine:
            latencies = await together(engine, walks, 12, [0.0] * count)
        p95 = [float(np.percentile(each, 95)) for each in latencies]
        found.append((max(p95) / min(p95), min(p95)))
    return found


@bench("gen.batch.share", bar=">= 0.8", about="steps drawn in a batch, 4 sessions that began at different times")
def share() -> Iterator[Case]:
    with one_thread():
        runs, never_waiting = zip(*asyncio.run(_shares()), strict=True)
    baseline = statistics.median(never_waiting)
    yield Case("began 0, 0.3, 0.55 and 0.8 of a step late", statistics.median(runs), "share", baseline, runs)


async def _shares() -> list[tuple[float, float]]:
    """As it is, and where a free model never waits for others."""
    walks = await warm(BATCH)
    return [(await _share(walks, EngineConfig.gather_seconds), await _share(walks, 0.0)) for _ in range(3)]


async def _share(walks: Sequence[Walk], gather_seconds: float) -> float:
    async with Engine(model(), EngineConfig(batch=BATCH, gather_seconds=gather_seconds)) as engine:
        (step,) = (await together(engine, walks[:1], 1, [0.0]))[0]
        before = engine.stats.steps
        await together(engine, walks, 8, [step * part for part in STAGGER])
        return engine.stats.batched / (engine.stats.steps - before)
