"""How fast frames go into and out of a shard on the same host, and how much of its memory can be used.

The shard is a process of its own, asked through gRPC; bytes go through shared memory. What is timed is the whole
call, with the search for the key and the plan. Every call is timed next to a plain copy of as many bytes between two
arrays that were touched before, and one ratio is taken of each pair.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from services.kvstore.allocator import BLOCK_BYTES
from services.kvstore.ram import Held, RamConfig, RamTier
from worldkv import rpc, wire
from worldkv.chunk import ChunkKey, new_branch
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.client.landing import Landing
from worldkv.errors import OverBudget
from worldkv.format import Frame
from worldkv.shared import ArenaReader
from worldkv.store import PartKey
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

MIB = 1 << 20
SIZES = (64 * MIB, 256 * MIB, 1024 * MIB)
"""Bytes of a frame."""
BYTES = 1 << 30
"""Moved for every size, at least; a round moves one frame."""
ROUNDS = 5
"""At least, for every size; the first ones, unmeasured, touch memory."""
WARM = 2
DEADLINE = 120.0

Move = Callable[[], Awaitable[None]]


class Copying:
    """A plain copy of `size` bytes from one array to another, both touched before."""

    def __init__(self, size: int) -> None:
        self.source: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 255, size, np.uint8)
        self.target = np.zeros(size, np.uint8)

    def seconds(self) -> float:
        begin = perf_counter()
        np.copyto(self.target, self.source)
        return perf_counter() - begin


async def _against_copying(size: int, copying: Copying, move: Move, after: Move | None = None) -> Case:
    """The speed of `move`, which moves `size` bytes, over that of a plain copy; `after` is not timed."""
    ratios, copies = [], []
    for round in range(WARM + max(ROUNDS, BYTES // size)):
        copied = copying.seconds()
        begin = perf_counter()
        await move()
        moved = perf_counter() - begin
        if after is not None:
            await after()
        if round >= WARM:
            ratios.append(copied / moved)
            copies.append(size / copied / 1e9)
    name = f"{size // MIB} MiB" if size >= MIB else f"{size} bytes"
    return Case(f"{name}; baseline: copy, GB/s", statistics.median(ratios), "ratio", statistics.median(copies), ratios)


@asynccontextmanager
async def _client(size: int) -> AsyncIterator[tuple[str, KVClient]]:
    """A client of a shard on this host with room for a frame, and the shard's address."""
    config = ClientConfig(
        deadline_seconds=DEADLINE,
        stall_seconds=DEADLINE,
        landing_bytes=2 * size + MIB,
        staging_bytes=2 * size + 64 * MIB,
    )
    async with shard(size + size // 4 + 16 * MIB) as address, KVClient(fixed(address), config) as client:
        yield address, client


def _key() -> PartKey:
    return PartKey(ChunkKey(new_branch(), 0), "kv")


async def _get(size: int) -> Case:
    copying, key = Copying(size), _key()
    async with _client(size) as (_, client):
        await client.put({key: Frame.of(copying.source)})

        async def get() -> None:
            frame = (await client.get([key]))[key]
            assert isinstance(frame, Frame), frame

        case = await _against_copying(size, copying, get)
        assert not client.counters["get.streamed"], "did not go through memory"
    return case


async def _get_unverified(size: int) -> Case:
    copying, key = Copying(size), _key()
    # As frames land: where buffers stand to each other within a page doubles or halves the speed of a copy.
    into = Landing(size).take(size)
    async with _client(size) as (address, client), rpc.channel(address) as channel:
        await client.put({key: Frame.of(copying.source)})
        stub = KVStoreStub(channel)
        info = wire.arena_of((await stub.Stats(pb.KVStoreStatsRequest(), timeout=DEADLINE)).arena)
        assert info is not None, "the shard shares no memory"
        with ArenaReader(info) as reader:
            proof = pb.ArenaProof(arena=reader.id, nonce=reader.nonce)
            request = pb.GetRequest(keys=[wire.key_message(key)], arenas=[proof])

            async def get() -> None:
                async for answer in stub.Get(request, timeout=DEADLINE):
                    extents = wire.extents_of(answer.plan.shared.extents)
                    miss = await asyncio.to_thread(reader.copy, extents, [into])
                    assert miss is None, miss

            case = await _against_copying(size, copying, get)
            assert np.array_equal(np.frombuffer(into, np.uint8), copying.source)
    return case


async def _put(size: int) -> Case:
    copying = Copying(size)
    frame, keys = Frame.of(copying.source), [_key()]
    async with _client(size) as (_, client):

        async def put() -> None:
            await client.put({keys[0]: frame})

        async def make_room() -> None:
            await client.delete(keys)
            keys[0] = _key()

        case = await _against_copying(size, copying, put, make_room)
        assert not client.counters["put.streamed"], "did not go through memory"
    return case


@bench("kv.shm.get", bar=">= 0.6", about="same-host get, verified, into warm memory, over a plain memory copy")
def get_verified() -> Iterator[Case]:
    yield from (asyncio.run(_get(size)) for size in SIZES)


@bench("kv.shm.get.unverified", bar=">= 0.9", about="same-host get, generations only, over a plain memory copy")
def get_unverified() -> Iterator[Case]:
    yield from (asyncio.run(_get_unverified(size)) for size in SIZES)


@bench("kv.shm.put", bar=">= 0.3", about="same-host put from an array, checksummed, over a plain memory copy")
def put_checked() -> Iterator[Case]:
    yield from (asyncio.run(_put(size)) for size in SIZES)


BUDGET = 512 * MIB
COMMANDS = 100_000


@bench("kv.usable", bar=">= 0.9", about="share of the budget in use when nothing more fits, after 100,000 commands")
def usable() -> Iterator[Case]:
    """The baseline is what whole blocks alone would give for the same parts."""
    for name, sizes in (
        ("4 KiB to 16 MiB", (4 << 10, 16 * MIB)),
        ("64 KiB to 64 MiB", (64 << 10, 64 * MIB)),
        ("4 KiB to 256 KiB, half deleted, then 4 MiB", (4 << 10, 256 << 10)),
    ):
        value, blocks = _filled(sizes, last=4 * MIB if "then" in name else 0)
        yield Case(name, value, "share", blocks)


def _filled(sizes: tuple[int, int], last: int) -> tuple[float, float]:
    """Share of a budget that parts have after random commands, and that they would have in whole blocks.

    Sizes are drawn evenly by their logarithm. At the end parts are put until ten in a row were refused: of the same
    sizes, or of `last` bytes after a random half was deleted.
    """
    random, tier = Random(1), RamTier(RamConfig(BUDGET, prefix="worldkv-bench"))
    held: list[Held] = []

    def put(size: int) -> bool:
        try:
            # Immutable parts: nothing makes room by itself, so a refusal means that there is none.
            room = tier.reserve("bench", PartKey(ChunkKey(new_branch(), 0), "part"), size)
        except OverBudget:
            return False
        held.append(room if isinstance(room, Held) else room.commit(0))
        return True

    def delete() -> None:
        at = random.randrange(len(held))
        held[at], held[-1] = held[-1], held[at]
        tier.delete("bench", [held.pop().key])

    def draw() -> int:
        return int(sizes[0] * (sizes[1] / sizes[0]) ** random.random())

    for _ in range(COMMANDS):
        if (random.random() < 0.5 or not put(draw())) and held:
            delete()
    if last:
        for _ in range(len(held) // 2):
            delete()
    refused = 0
    while refused < 10:
        refused = 0 if put(last or draw()) else refused + 1
    tier.check_integrity()
    used = tier.stats().used_bytes
    blocks = sum(-(-part.size // BLOCK_BYTES) * BLOCK_BYTES for part in held)
    tier.close()
    return used / BUDGET, used / max(blocks, BUDGET)
