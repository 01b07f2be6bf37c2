"""A walk whose memory is in other processes: a real shard, a real replica of the index, and what becomes of them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import pytest
import torch

from services.generator.session import Session, SessionConfig, Step
from tests.e2e.retriever_process import ReplicaProcess, replica
from tests.e2e.shard_process import CONFIG, Process, shard
from tests.toys import toy_model
from worldkv.actions import Action, Walker
from worldkv.chunk import ChunkKey, Lineage
from worldkv.client import KVClient, RetrieverClient, RetrieverClientConfig, Retry, fixed
from worldkv.coding import Coding
from worldkv.finder import Finder, LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import Pose
from worldkv.store import PartKey, RamStore, Store
from worldkv.window import WindowConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TURN = Action(turn=20.0)
CLIENT = RetrieverClientConfig(deadline_seconds=30, failover_seconds=60, retry=Retry(rest_seconds=0.1))


class Tier(NamedTuple):
    """The memory tier as processes, and clients of both."""

    shard: Process
    replica: ReplicaProcess
    store: KVClient
    finders: RetrieverClient


@asynccontextmanager
async def tier() -> AsyncIterator[Tier]:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        found = await stack.enter_async_context(replica(made.address))
        store = await stack.enter_async_context(KVClient(fixed(made.address), CONFIG))
        index = await stack.enter_async_context(RetrieverClient(fixed(found.address), CLIENT))
        yield Tier(made, found, store, index)


def walk(store: Store, finder: Finder, lineage: Lineage) -> Session:
    """Nothing stays decoded, so that every step asks the store."""
    model = toy_model()
    memory = Memory(
        model.spec, WindowConfig(), MemoryConfig(Coding("int8", "int8"), hot_bytes=0), store, finder, lineage
    )
    return Session(model, SessionConfig(seed=3), Walker(6.0, 6.0), memory)


def walk_here(lineage: Lineage) -> Session:
    return walk(RamStore(1 << 30), LocalFinder(ScanIndex(), Pose(), lineage), lineage)


def walk_there(made: Tier, lineage: Lineage) -> Session:
    finder = made.finders.finder(lineage, "pose", spec=toy_model().spec.digest, deadline_seconds=10)
    return walk(made.store, finder, lineage)


def recalled(step: Step) -> list[ChunkKey]:
    return [each.hit.key for each in step.recalled]


async def test_a_walk_draws_the_same_wherever_its_memory_is():
    lineage = Lineage.begin()
    here = walk_here(lineage)
    async with tier() as made:
        there = walk_there(made, lineage)
        for _ in range(10):
            a, b = await here.step(TURN), await there.step(TURN)
            assert recalled(a) == recalled(b)
            assert torch.equal(a.pictures, b.pictures)
        assert there.memory.stats.recalled == here.memory.stats.recalled > 0
        assert there.memory.stats.missed.total() == there.memory.stats.unanswered == 0


async def test_a_walk_outlives_its_index_and_finds_everything_again():
    lineage = Lineage.begin()
    here = walk_here(lineage)
    async with tier() as made:
        there = walk_there(made, lineage)
        for _ in range(5):
            await here.step(TURN)
            await there.step(TURN)
        await made.replica.end(signal.SIGKILL)
        for _ in range(4):
            await here.step(TURN)
            assert (await there.step(TURN)).recalled == ()
        assert there.memory.stats.unanswered == 4
        await made.replica.start()
        async with asyncio.timeout(60):
            while not (last := recalled(await there.step(TURN))):
                await here.step(TURN)
        assert last == recalled(await here.step(TURN)), "the new index names what the old one would have"


async def test_a_walk_goes_on_from_latents_when_the_keys_and_values_are_gone():
    lineage = Lineage.begin()
    async with tier() as made:
        there = walk_there(made, lineage)
        for _ in range(7):
            await there.step(TURN)
        await made.store.delete([PartKey(key, "kv") for key in lineage.keys(7)])
        step = await there.step(TURN)
        assert there.memory.stats.reencoded == 1
        assert len(step.recalled) == 1


async def test_a_chunk_that_was_deleted_is_recalled_no_more_and_forgotten():
    lineage = Lineage.begin()
    async with tier() as made:
        there = walk_there(made, lineage)
        for _ in range(7):
            await there.step(TURN)
        gone = [*lineage.keys(5)][1:]
        await made.store.delete([PartKey(key, "part") for key in gone])
        for _ in range(6):
            assert not set(recalled(await there.step(TURN))) & set(gone)
        (told,) = (await made.finders.stats()).values()
        assert told.chunks < 13
