"""What the index costs as a service: a lookup, many chunks added, a world read back from the store."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.idx_replica import replica
from benchmarks.kv_redis import redis_server
from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from worldkv import rpc
from worldkv.chunk import Lineage, Meta, Part
from worldkv.client import ClientConfig, KVClient, RetrieverClient, RetrieverClientConfig, fixed
from worldkv.format import encode_part
from worldkv.index import Batch, ScanIndex
from worldkv.pose import Matrix, camera
from worldkv.select import Query, make_selector
from worldkv.store import PartKey
from worldkv.wire_retriever import Found, Lookup

WORLD = 500
"""Chunks of the world that is looked up in."""
SELECTORS = ("pose", "coverage")
LOOKUPS, WARM = 300, 20
PARTS = 5
"""Groups of measurements that a median is taken of, for `runs`."""
A_CALL, FLYING = 256, 4
"""Chunks of one add, and adds at the same time."""
ADDED, ROUNDS = 20_000, 5
REBUILT = 10_000
"""Chunks that are read back."""
SMALL, LARGE = 2_000, 120_000
"""Bytes of their immutable parts."""
LITTLE = 4 << 20
"""Bytes of RAM of a shard that has nearly everything in Redis."""
SPEC = "0" * 32


def _frames(rng: np.random.Generator, at: Matrix) -> Matrix:
    """Three frames of a camera that turns and walks."""
    (x, z), yaw = at, rng.uniform(0, 360)
    return np.stack([camera(x + 0.1 * i, 0, z, yaw + 5 * i) for i in range(3)])


def _walk(lineage: Lineage, length: int, seed: int = 0) -> list[Meta]:
    """A walk through halls of 20 units, looking about."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.normal(0, 0.5, (length, 2)), 0) % 20
    return [Meta(key, SPEC, 3 * n, _frames(rng, at[n]), 1.2, 0.75) for n, key in enumerate(lineage.keys(length))]


def _query(seed: int) -> Query:
    rng = np.random.default_rng(1000 + seed)
    return Query(_frames(rng, rng.uniform(0, 20, 2)), 1.2, 0.75, 8.0)


@asynccontextmanager
async def _served(shards: str = "") -> AsyncIterator[tuple[str, RetrieverClient]]:
    async with replica(shards) as address:
        async with RetrieverClient(fixed(address), RetrieverClientConfig(deadline_seconds=300)) as client:
            yield address, client


async def _rpc(name: str) -> Case:
    """Interleaved: an empty call, the lookup in this process, the lookup as a call."""
    lineage = Lineage.begin()
    world, index = _walk(lineage, WORLD), ScanIndex()
    index.add_many(Batch.of(world))
    selector = make_selector(name)
    async with _served() as (address, client), rpc.channel(address) as channel:
        await client.add(lineage, world)
        empty: Any = channel.unary_unary("/bare/Empty")
        times: list[tuple[float, float, float]] = []
        for n in range(WARM + LOOKUPS):
            asked = Lookup(lineage, _query(n), 4, 2, range(WORLD - 3, WORLD), WORLD, (), name)
            begin = perf_counter()
            await empty(b"")
            bare = perf_counter()
            hits = index.nearest(asked.query, selector, 4, lineage, asked.exclude, 2)
            near = perf_counter()
            (found,) = await client.nearest([asked])
            times.append((bare - begin, near - bare, perf_counter() - near))
            assert isinstance(found, Found)
            assert found.hits == hits
        bares, nears, calls = zip(*times[WARM:], strict=True)
        p50 = float(statistics.median(bares))

        def over(part: slice) -> float:
            return float(statistics.median(calls[part]) - statistics.median(nears[part])) / p50

        runs = [over(slice(n, None, PARTS)) for n in range(PARTS)]
        about = f"{name}, {WORLD} chunks; baseline: empty call, ms"
        return Case(about, over(slice(None)), "ratio", p50 * 1e3, runs)


@bench("idx.rpc", bar="<= 2", about="a lookup by gRPC less the same in process, over an empty call, p50")
def lookup() -> Iterator[Case]:
    for name in SELECTORS:
        yield asyncio.run(_rpc(name))


async def _add() -> Case:
    """Chunks a second into fresh branches, from metas to the last answer; in process from the same metas."""
    speeds, local = [], []
    async with _served() as (_, client):
        for n in range(ROUNDS):
            lineage, index = Lineage.begin(), ScanIndex()
            world = _walk(lineage, ADDED, n)
            batches = [world[at : at + A_CALL] for at in range(0, ADDED, A_CALL)]
            begin = perf_counter()
            for some in batches:
                index.add_many(Batch.of(some))
            local.append(ADDED / (perf_counter() - begin))
            begin = perf_counter()
            await asyncio.gather(*(_adding(client, lineage, batches[at::FLYING]) for at in range(FLYING)))
            speeds.append(ADDED / (perf_counter() - begin))
        (stats,) = (await client.stats()).values()
        assert stats is not None
        assert stats.chunks == ADDED * ROUNDS
    about = f"{A_CALL} a call, {FLYING} calls at a time; baseline: in process"
    return Case(about, statistics.median(speeds), "chunks/s", statistics.median(local), speeds)


async def _adding(client: RetrieverClient, lineage: Lineage, batches: list[list[Meta]]) -> None:
    for some in batches:
        await client.add(lineage, some)


@bench("idx.add", bar=">= 20000", about="chunks made findable by gRPC, a second")
def add() -> Iterator[Case]:
    yield asyncio.run(_add())


async def _rebuild(about: str, size: int, room: int = 0, **settings: str) -> Case:
    """Seconds from the first lookup of a fresh replica to its answer; and of listing the keys alone."""
    lineage = Lineage.begin()
    world = _walk(lineage, REBUILT)
    room = room or REBUILT * (size + 4096) + (64 << 20)
    async with shard(room, **settings) as address:
        async with KVClient(fixed(address), ClientConfig(deadline_seconds=300, staging_bytes=64 << 20)) as store:
            for at in range(0, REBUILT, 64):
                some = world[at : at + 64]
                await store.put({PartKey(meta.key, "part"): encode_part(_part(meta, size)) for meta in some})
            times, scans = [], []
            for _ in range(ROUNDS - 2):
                async with _served(address) as (_, client):
                    await client.stats()
                    begin = perf_counter()
                    assert sum([1 async for _ in store.scan(lineage.root, 0, None, "part")]) == REBUILT
                    scans.append(perf_counter() - begin)
                    begin = perf_counter()
                    (found,) = await client.nearest([Lookup(lineage, _query(0), 4, published=REBUILT)])
                    times.append(perf_counter() - begin)
                    assert isinstance(found, Found)
                    assert (found.candidates, found.missing) == (REBUILT, 0)
    return Case(f"{about}; baseline: scan of the keys", statistics.median(times), "s", statistics.median(scans), times)


def _part(meta: Meta, size: int) -> Part:
    """A chunk whose immutable part has about so many bytes."""
    latents = np.zeros((3, 4, 4, max(1, (size - 1200) // 96)), np.float16)
    return Part(meta, latents, bytes(64))


@bench("idx.rebuild", bar="<= 2", about="10,000 chunks read back from a store for the first lookup, seconds")
def rebuild() -> Iterator[Case]:
    yield asyncio.run(_rebuild(f"parts of {SMALL} bytes in RAM", SMALL))
    yield asyncio.run(_rebuild(f"parts of {LARGE} bytes in RAM", LARGE))
    with redis_server() as socket:
        url = f"unix://{socket}"
        yield asyncio.run(_rebuild(f"parts of {SMALL} bytes in Redis", SMALL, LITTLE, REDIS__URL=url))
