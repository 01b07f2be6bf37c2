"""How long a fork takes: a shard in its own process, and a world of many chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from statistics import median
from time import perf_counter

from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from worldkv import worlds
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.format import Frame
from worldkv.store import PartKey

CHUNKS = 10_000
RUNS = 25
PART_BYTES = 2_000
"""Bytes of each immutable part: enough to make the shard look after them, little enough to fit anywhere."""
BATCH = 500
"""Chunks of a put."""


@bench("kv.fork", bar="<= 20", about="fork of a world of 10,000 chunks at any of them, client to shard, milliseconds")
def fork() -> Iterator[Case]:
    yield from asyncio.run(_cases({"first chunk": 1, "middle": CHUNKS // 2, "last chunk": CHUNKS}))


@bench("kv.open", bar="", about="open a branch of 10,000 chunks to walk on: its length is listed first, milliseconds")
def walk_on() -> Iterator[Case]:
    yield from asyncio.run(_cases({"walk on": None}))


async def _cases(which: dict[str, int | None], chunks: int = CHUNKS, runs: int = RUNS) -> list[Case]:
    cases: list[Case] = []
    async with shard(256 << 20) as address:
        config = ClientConfig(staging_bytes=16 << 20, landing_bytes=16 << 20)
        async with KVClient(fixed(address), config) as client:
            await _fill(client, chunks)
            for name, at in which.items():
                took, empty = [], []
                async for fork_seconds, read_seconds in _timed(client, at, runs):
                    took.append(fork_seconds * 1e3)
                    empty.append(read_seconds * 1e3)
                cases.append(Case(name, median(took), "ms", median(empty), took))
    return cases


async def _fill(client: KVClient, chunks: int) -> None:
    world = (await worlds.begin(client.worlds, "large")).world
    part = Frame.of(bytes(PART_BYTES))
    for first in range(0, chunks, BATCH):
        numbers = range(first, min(first + BATCH, chunks))
        await client.put({PartKey(ChunkKey(world.lineage.head, n), "part"): part for n in numbers})


async def _timed(client: KVClient, at: int | None, runs: int) -> AsyncIterator[tuple[float, float]]:
    """Seconds of a fork, and beside it of reading one record, the least that anything can take."""
    for n in range(runs):
        begin = perf_counter()
        await worlds.fork(client, client.worlds, "large", at, f"fork {at} {n}")
        middle = perf_counter()
        await client.worlds.read("large")
        yield middle - begin, perf_counter() - middle
