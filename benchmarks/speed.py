"""How fast the pocket model walks, and what memory costs of it. Two ways are always timed step by step in turn."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.judged import model
from benchmarks.registry import Case, bench
from benchmarks.rolling_cache import RollingCache
from pocket.rooms import slide
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.session import Session, SessionConfig, Step
from services.generator.walks import DEFAULT, FULL, PAPER, WINDOW, Variant, make_memory
from worldkv.actions import Walker

CHUNKS = 90
"""Chunks of the walk that speed is measured on; the paper's curve has as many."""
TAIL = 10
"""Chunks at the end of it over which a median is taken."""


def _session(variant: Variant, walk: Scenario) -> Session:
    memory = make_memory(model(), variant, walk.seed) if variant.mode == "worldkv" else None
    config = SessionConfig(variant.mode, variant.window, seed=walk.seed, context=variant.context)
    return Session(model(), config, walk.start, memory, partial(slide, walk.rooms))


async def _in_turn(variants: tuple[Variant, ...], chunks: int) -> list[list[Step]]:
    """Steps of each variant on the same wander, generated from the first chunk on."""
    walk = SCENARIOS["wander"](0)
    sessions = [_session(v, walk) for v in variants]
    steps: list[list[Step]] = [[] for _ in variants]
    for chunk in range(chunks):
        actions = [walk.actions[(chunk * 3 + i) % len(walk.actions)] for i in range(3)]
        for session, done in zip(sessions, steps, strict=True):
            done.append(await session.step(actions))
    return steps


def _fps(steps: list[Step]) -> list[float]:
    """Latent frames a second of each step."""
    return [len(step.poses) / sum(step.seconds) for step in steps]


@bench("demo.flat.full", bar=">= 2", about="90-chunk walk, FPS at the end, worldkv over full KV")
def flat_over_full() -> Iterator[Case]:
    ours, full = (_fps(s)[-TAIL:] for s in asyncio.run(_in_turn((DEFAULT, FULL), CHUNKS)))
    runs = [a / b for a, b in zip(ours, full, strict=True)]
    yield Case("chunk 90", statistics.median(runs), "ratio", statistics.median(full), runs)


@bench("demo.flat.self", bar=">= 0.95", about="90-chunk walk, FPS at the end over FPS at chunk 10, worldkv")
def flat_over_self() -> Iterator[Case]:
    # Two walks at once, one 80 chunks behind, so that a slow moment of the machine slows both.
    runs, base = asyncio.run(_late_against_early())
    yield Case("chunk 90 over chunk 10", statistics.median(runs), "ratio", statistics.median(base), runs)


async def _late_against_early() -> tuple[list[float], list[float]]:
    walk = SCENARIOS["wander"](0)
    late, early = _session(DEFAULT, walk), _session(DEFAULT, walk)

    async def advance(session: Session) -> float:
        first = session.next * 3
        return _fps([await session.step([walk.actions[(first + i) % len(walk.actions)] for i in range(3)])])[0]

    for _ in range(CHUNKS - TAIL):
        await advance(late)
    for _ in range(10):
        await advance(early)
    pairs = [(await advance(late), await advance(early)) for _ in range(TAIL)]
    return [a / b for a, b in pairs], [b for _, b in pairs]


@bench("demo.window_fps", bar=">= 0.9", about="FPS of worldkv over window")
def over_window() -> Iterator[Case]:
    ours, window = (_fps(s)[10:] for s in asyncio.run(_in_turn((DEFAULT, WINDOW), 50)))
    runs = [a / b for a, b in zip(ours, window, strict=True)]
    yield Case("after chunk 10", statistics.median(runs), "ratio", statistics.median(window), runs)


@bench("demo.fps", bar=">= 8", about="latent frames a second, one session")
def fps() -> Iterator[Case]:
    ours, full = (_fps(s)[10:] for s in asyncio.run(_in_turn((DEFAULT, FULL), 30)))
    yield Case(f"{torch.get_num_threads()} threads", statistics.median(ours), "frames/s", statistics.median(full), ours)


@bench("memory.share", bar="<= 0.10", about="recall, window and remember, share of a step")
def share() -> Iterator[Case]:
    (steps,) = asyncio.run(_in_turn((DEFAULT,), 50))
    runs = [step.seconds.memory / sum(step.seconds) for step in steps[10:]]
    model_seconds = statistics.median(step.seconds.draw for step in steps[10:])
    yield Case("in process, store and index too", statistics.median(runs), "share", model_seconds, runs)


@bench("exact.pocket", bar="<= 1e-4", about="recalling everything uncoded against a cache that never evicts")
def exact() -> Iterator[Case]:
    chunks = 24
    everything = replace(PAPER, name="everything", selector="latest", keep=1.0, recalled=3 * chunks)
    walk = SCENARIOS["wander"](1)
    session = _session(everything, walk)
    cache = RollingCache(model().model, model().levels)
    runs = asyncio.run(_apart(session, cache, walk, chunks))
    yield Case(f"{chunks} chunks", max(runs), "max abs difference", 0.0, runs)


async def _apart(session: Session, cache: RollingCache, walk: Scenario, chunks: int) -> list[float]:
    """How far the pictures of each chunk are apart."""
    walker: Walker = walk.start
    runs = []
    for index in range(chunks):
        actions = walk.actions[3 * index : 3 * index + 3]
        poses = []
        for action in actions:
            walker = walker.after(action, partial(slide, walk.rooms))
            poses.append(walker.pose)
        oracle = cache.draw(torch.from_numpy(np.stack(poses)).float(), session.noise(index))
        step = await session.step(actions)
        runs.append(float((step.pictures - (oracle + 1) / 2).abs().max()))
    return runs
