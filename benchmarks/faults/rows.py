"""The rows of the failure table: what dies or freezes, and how it is done."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks.faults.stage import NODES, WORKS, Stage
from benchmarks.faults.wanderer import Wanderer, home_of

FROZEN_SECONDS = 10.0
AWAY_SECONDS = 3.0
"""Until somebody starts again what does not start by itself."""

Doing = Callable[[Stage, Sequence[Wanderer]], Awaitable[None]]


class Row(NamedTuple):
    """A row of the table.

    name    of it
    memory  whether it is a part of the memory that is hurt: no session may end of it
    itself  whether what died starts again by itself
    ram     whether the memory of a shard is lost: what was kept in one process alone may be
    do      hurts it; returns when the fault is over, or has been seen to
    """

    name: str
    memory: bool
    itself: bool
    ram: bool
    do: Doing


async def kill(kind: str, stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Kill a part of a kind."""
    stage.send(await _victim(kind, stage, walks), signal.SIGKILL)


async def freeze(kind: str, stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Stop a part of a kind for a while; connections to it stay open."""
    name = await _victim(kind, stage, walks)
    stage.send(name, signal.SIGSTOP)
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        stage.send(name, signal.SIGCONT)


async def kill_redis(stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Kill Redis, which nobody supervises, and start it again."""
    await asyncio.to_thread(stage.redis.kill)
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(stage.redis.start)


async def freeze_redis(stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Stop Redis for a while."""
    stage.redis.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        stage.redis.send(signal.SIGCONT)


async def freeze_node(stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Stop all that runs on the node that has the index, for a while."""
    name = stage.node_of("retriever-1")
    stage.nodes.send(name, signal.SIGSTOP)
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        stage.nodes.send(name, signal.SIGCONT)


async def kill_node(stage: Stage, walks: Sequence[Wanderer]) -> None:
    """Kill all that runs on the node that has the index, a shard and a generator; its parts find room on the other."""
    await asyncio.to_thread(stage.nodes.kill, stage.node_of("retriever-1"))


async def add_node(stage: Stage) -> None:
    """Have both nodes again."""
    for name in NODES:
        if name not in stage.nodes.names:
            await asyncio.to_thread(stage.nodes.add, name, {WORKS: 1}, stage.counts.generator)


async def home(stage: Stage, walks: Sequence[Wanderer]) -> str:
    """The generator that draws the first of these walks. Raises NotFound if none does."""
    addresses = {part.address: name for name, part in (await stage.parts()).items() if name.startswith("generator")}
    walk = walks[0].walk
    return addresses[await home_of(walk.session if walk else "", addresses)]


async def _victim(kind: str, stage: Stage, walks: Sequence[Wanderer]) -> str:
    if kind == "generator":
        return await home(stage, walks)
    return kind if kind == "supervisor" else f"{kind}-1"


ROWS = (
    Row("shard killed", True, True, True, partial(kill, "kvstore")),
    Row("shard frozen", True, True, False, partial(freeze, "kvstore")),
    Row("retriever killed", True, True, False, partial(kill, "retriever")),
    Row("retriever frozen", True, True, False, partial(freeze, "retriever")),
    Row("Redis killed", True, False, False, kill_redis),
    Row("Redis frozen", True, True, False, freeze_redis),
    Row("generator killed", False, True, False, partial(kill, "generator")),
    Row("generator frozen", False, True, False, partial(freeze, "generator")),
    Row("gateway killed", False, True, False, partial(kill, "gateway")),
    Row("gateway frozen", False, True, False, partial(freeze, "gateway")),
    Row("supervisor killed", False, True, False, partial(kill, "supervisor")),
    Row("supervisor frozen", False, True, False, partial(freeze, "supervisor")),
    Row("node frozen", True, True, False, freeze_node),
    Row("node killed", True, True, True, kill_node),
)
"""Every part is a Ray worker. The last row leaves one node."""
