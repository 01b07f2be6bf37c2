"""A memory over processes that are slow, stopped or gone: steps go on in time, and nothing that was drawn is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from tests.e2e.retriever_process import ReplicaProcess, replica
from tests.e2e.shard_process import CONFIG, Process, shard, wait_until
from tests.remembering import RAW, SPEC, again, kv_of, numbers, part_of, query, same, tasks
from worldkv.actions import Action
from worldkv.chunk import Lineage
from worldkv.client import KVClient, RetrieverClient, RetrieverClientConfig, Retry, fixed
from worldkv.coding import Coding, decode_kv, encode_kv
from worldkv.errors import Conflict
from worldkv.memory import Kept, Memory, MemoryConfig, Recalled
from worldkv.pose import camera
from worldkv.store import Level, Miss, PartKey
from worldkv.window import WindowConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHUNK = SPEC.raw_bytes
INDEX = RetrieverClientConfig(deadline_seconds=30, failover_seconds=60, retry=Retry(rest_seconds=0.1))
LIVE = MemoryConfig(
    RAW, hot_bytes=0, recall_seconds=0.5, keep_seconds=0.05, queue_bytes=100 * CHUNK, retry_seconds=0.05
)


class Tier(NamedTuple):
    """Two shards and a replica, and clients of them."""

    shards: list[Process]
    replica: ReplicaProcess
    store: KVClient
    finders: RetrieverClient

    def memory(self, config: MemoryConfig, lineage: Lineage | None = None) -> Memory:
        lineage = lineage or Lineage.begin()
        finder = self.finders.finder(lineage, "pose", spec=SPEC.digest, deadline_seconds=10)
        return Memory(SPEC, WindowConfig(), config, self.store, finder, lineage)


@asynccontextmanager
async def tier(shards: int = 1) -> AsyncIterator[Tier]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20))) for _ in range(shards)]
        addresses = [each.address for each in made]
        found = await stack.enter_async_context(replica(",".join(addresses)))
        config = replace(CONFIG, deadline_seconds=2, stall_seconds=1)
        store = await stack.enter_async_context(KVClient(fixed(*addresses), config))
        index = await stack.enter_async_context(RetrieverClient(fixed(found.address), INDEX))
        yield Tier(made, found, store, index)


async def remember(memory: Memory, *indices: int) -> None:
    for index in indices:
        await memory.remember(part_of(memory.lineage, index), kv_of(index))


async def recall(memory: Memory, index: int) -> list[Recalled]:
    """What is recalled where a chunk was drawn; the chunk itself is the nearest."""
    return await memory.recall(query(9 * index + 3), (), again)


def right(found: list[Recalled]) -> bool:
    return all(same(each.entry, kv_of(each.hit.key.index)) for each in found)


@pytest.mark.parametrize("layered_bytes", [0, 1 << 30])
async def test_what_is_remembered_is_recalled_whole_or_layer_by_layer(layered_bytes: int) -> None:
    async with tier(2) as made:
        memory = made.memory(replace(LIVE, layered_bytes=layered_bytes, recall_seconds=None, coding=Coding("int8")))
        await remember(memory, *range(5))
        await memory.settle()
        assert memory.kept == Kept(5, Level.TWO)
        found = await recall(memory, 3)
        assert 3 in numbers(found)
        for each in found:
            kept = encode_kv(kv_of(each.hit.key.index), memory.config.coding, SPEC, each.hit.key.index == 0)
            assert same(each.entry, decode_kv(kept, SPEC))
        assert memory.stats.fetched_bytes > 0
        await memory.close()


async def test_a_stopped_shard_delays_no_step_and_what_is_late_comes_when_it_goes_on() -> None:
    async with tier() as made:
        memory = made.memory(replace(LIVE, hot_bytes=10 * CHUNK, reencode=False))
        await remember(memory, *range(4))
        await memory.settle()
        memory._hot.clear()
        made.shards[0].process.send_signal(signal.SIGSTOP)
        try:
            assert await recall(memory, 1) == []
            await remember(memory, 4)
            assert (memory.unkept, memory.kept.end) == (1, 4)
        finally:
            made.shards[0].process.send_signal(signal.SIGCONT)
        assert memory.stats.missed == {Miss.LATE: 2}
        async with asyncio.timeout(60):
            await memory.settle()
            while not (found := await recall(memory, 1)):
                pass
        assert right(found)
        assert memory.kept.end == 5
        await memory.close()


async def test_a_session_reads_its_own_writes_before_they_are_acknowledged() -> None:
    async with tier() as made:
        memory = made.memory(LIVE)
        await remember(memory, 0)
        await memory.settle()
        while not await recall(memory, 0):  # until the replica has read the world
            pass
        made.shards[0].process.send_signal(signal.SIGSTOP)
        try:
            await remember(memory, 1, 2, 3)
            assert memory.unkept == 3
            found = await recall(memory, 2)
            assert 2 in numbers(found)
            assert right(found)
        finally:
            made.shards[0].process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            await memory.settle()
        assert memory.kept.end == 4
        (told,) = (await made.finders.stats()).values()
        assert told.chunks == 4
        await memory.close()


async def test_what_a_dead_shard_cannot_take_is_kept_when_it_is_back_and_a_full_queue_drops_only_kv() -> None:
    async with tier() as made:
        memory = made.memory(replace(LIVE, queue_bytes=2 * CHUNK, most_unkept=4))
        await made.shards[0].end(signal.SIGKILL)
        await remember(memory, *range(4))
        assert (memory.unkept, memory.stats.dropped) == (4, 2)
        paused = asyncio.create_task(memory.paused())
        await asyncio.sleep(0)
        assert not paused.done()
        await made.shards[0].start()
        async with asyncio.timeout(60):
            await paused
            await memory.settle()
        assert memory.kept == Kept(4, Level.ONE)
        held = [(key.chunk.index, key.kind) async for key in made.store.scan(memory.lineage.head)]
        assert held == [(0, "part"), (0, "kv"), (1, "part"), (1, "kv"), (2, "part"), (3, "part")]
        await memory.close()


async def test_parts_that_one_shard_alone_took_are_copied_to_another_that_returns() -> None:
    async with tier(2) as made:
        memory = made.memory(LIVE)
        await remember(memory, 0)
        await memory.settle()
        assert memory.kept.level == Level.TWO
        await made.shards[1].end(signal.SIGKILL)
        await remember(memory, 1, 2)
        await memory.settle()
        assert memory.kept == Kept(3, Level.ONE)
        await made.shards[1].start()

        async def two() -> bool:
            return memory.kept == Kept(3, Level.TWO)

        await wait_until(two)
        await memory.close()


async def test_a_chunk_that_was_deleted_meanwhile_stops_nothing() -> None:
    async with tier() as made:
        memory = made.memory(LIVE)
        await remember(memory, 0)
        await memory.settle()
        await made.store.delete([PartKey(memory.lineage.key(i), "part") for i in (1, 2)])
        await remember(memory, 1, 2)
        async with asyncio.timeout(60):
            await memory.settle()
        assert isinstance(memory.refused, Conflict)
        assert (memory.unkept, memory.stats.dropped, memory.kept.end) == (0, 2, 1)
        await memory.close()


async def test_what_the_camera_comes_to_is_fetched_before_it_is_there() -> None:
    async with tier() as made:
        memory = made.memory(replace(LIVE, hot_bytes=8 * CHUNK, prefetch=True))
        await remember(memory, *range(30))
        await memory.settle()
        memory._hot.clear()
        for step in range(6):
            poses = np.stack([camera(0, 0, 0, 45 + 9 * step + 3 * frame) for frame in range(3)])
            found = await memory.recall(replace(query(), poses=poses), {0}, again)
            assert right(found)
            await memory.ahead(30 + step, poses, Action(turn=3.0), found, poses, {0, 30 + step})
            await asyncio.sleep(0.3)
        assert memory.stats.ahead.used > 0
        await memory.close()
        assert not [name for name in tasks() if name.startswith(("fetch", "ahead", "keep"))]
