"""What it costs a walk that its pictures are compared with the true ones.

Real processes on this machine: a shard of the store, a replica of the index, and a generator with the shipped model.
Two walk the same path in the same world, in turn: one is judged, the other is not.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import AsyncExitStack

from benchmarks.page_cost import CHUNKS, TURN, chunk_seconds
from benchmarks.registry import Case, bench
from services.generator.processes import service
from worldkv.client import WalkClient
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Judged

TOUR = "R360"
WARM = 12
ROUNDS = 12


@bench(
    "page.judged", bar="<= 0.05", about="time of a chunk that comparing its pictures with the truth adds, share of it"
)
def judged() -> Iterator[Case]:
    with service({"ENGINE__ROUND_SECONDS": "0"}, shards=1, gateways=0) as running:
        pairs, told = asyncio.run(_rounds(running.generators[0]))
    runs = [seconds / without - 1 for without, seconds in pairs]
    alone = statistics.median(without for without, _ in pairs)
    yield Case(f"{told} of {ROUNDS * CHUNKS} chunks judged", statistics.median(runs), "of a chunk", alone, runs)


async def _rounds(address: str) -> tuple[list[tuple[float, float]], int]:
    """Seconds of a chunk of the walk that is not judged, and of the one that is, round by round; and how many were."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(WalkClient(address))
        opened = [client.open("rooms:7", tour=TOUR, judged=judged) for judged in (False, True)]
        plain, watched = [await stack.enter_async_context(each) for each in opened]
        for walk in (plain, watched):
            for _ in range(WARM):
                await walk.move(TURN)
        told: list[Judged] = []
        hearing = asyncio.create_task(_hear(watched, told))
        pairs = [(await chunk_seconds(plain), await chunk_seconds(watched)) for _ in range(ROUNDS)]
        hearing.cancel()
    return pairs, len(told)


async def _hear(walk: Walk, told: list[Judged]) -> None:
    async for event in walk.events():
        if isinstance(event, Judged):
            told.append(event)
