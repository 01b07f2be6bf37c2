"""Shards as processes that come, leave, freeze and die, with nothing but RAM."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from benchmarks import kv_scale
from benchmarks.kv_scale import Shards, frame, keys, readable, shards
from tests.wire.shards import until
from worldkv.catalog import Snapshot, World
from worldkv.chunk import Lineage
from worldkv.client import ClientConfig, KVClient, MembershipFile, Retry
from worldkv.errors import Unavailable
from worldkv.format import Frame, join
from worldkv.store import Level, Miss

pytestmark = pytest.mark.slow

CONFIG = ClientConfig(
    deadline_seconds=20,
    stall_seconds=0.5,
    landing_bytes=32 << 20,
    staging_bytes=32 << 20,
    retry=Retry(rest_seconds=0.3),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_scale, "SIZES", {"part": 5_000, "kv": 80_000})


@asynccontextmanager
async def running(*names: str, config: ClientConfig = CONFIG) -> AsyncIterator[tuple[Shards, KVClient]]:
    """These shards, members and ready, and a client of theirs."""
    async with shards(64 << 20) as made:
        made.start(*names)
        made.become(names)
        async with KVClient(MembershipFile(made.members), config) as client:
            await made.ready()
            yield made, client


async def test_every_chunk_is_readable_after_1_to_3_to_1_shards():
    assert await kv_scale.scale(10) == {"1 to 3": 1.0, "while 2 leave": 1.0, "3 to 1": 1.0}


async def test_a_shard_told_to_end_hands_on_what_it_has_even_if_nobody_said_that_it_leaves():
    async with running("b") as (made, client):
        wanted, gone = keys(0, 10), keys(10, 11)
        await client.put({key: frame(key) for key in (*wanted, *gone)})
        await client.delete(gone)
        await client.worlds.swap("harbour", 0, World("harbour", Lineage.begin()))
        for n in range(3):
            await client.sessions.save("walk", Snapshot(n, Frame.of(b"%d" % n)))
        made.start("a")
        made.become("ab")
        await made.ready()
        await made.end("b")
        made.become("a")
        assert await readable(client, wanted) == 1.0
        assert (await client.worlds.read("harbour")).world.version == 1
        assert [join((await client.sessions.load("walk", older)).state) for older in (False, True)] == [b"2", b"1"]
        assert set((await client.get(gone)).values()) == {Miss.DELETED}


async def test_kill_of_a_shard_loses_no_immutable_part_world_or_session():
    async with running("a", "b", "c") as (made, client):
        wanted = keys(0, 12)
        levels = await client.put({key: frame(key) for key in wanted})
        assert {levels[key] for key in wanted if key.kind == "part"} == {Level.TWO}
        await client.worlds.swap("harbour", 0, World("harbour", Lineage.begin()))
        await client.sessions.save("walk", Snapshot(1, Frame.of(b"state")))
        made.kill("b")
        found = await client.get(wanted)
        assert all(isinstance(found[key], Frame) for key in wanted if key.kind == "part")
        assert {each for each in found.values() if not isinstance(each, Frame)} <= {Miss.TIER_DOWN}
        made.become("ac")
        assert set((await client.get(keys(0, 12))).values()) >= {Miss.NEVER_STORED}, "KV that was there alone is gone"
        assert (await client.worlds.read("harbour")).world.version == 1
        assert join((await client.sessions.load("walk")).state) == b"state"
        await client.put({key: frame(key) for key in wanted})
        assert await readable(client, wanted) == 1.0


async def test_kill_in_the_middle_of_puts_and_gets_leaves_whole_frames_and_typed_errors():
    async with running("a", "b") as (made, client):
        wanted = keys(0, 30)

        async def churn(part: int) -> None:
            for key in wanted[part::4]:
                await client.put({key: frame(key)})
                found = (await client.get([key]))[key]
                assert isinstance(found, Miss) or join(found) == join(frame(key))

        async def kill() -> None:
            await asyncio.sleep(0.1)
            made.kill("a")

        await asyncio.gather(kill(), *(churn(part) for part in range(4)))
        made.become("b")
        assert all(isinstance(each, Miss) or join(each) for each in (await client.get(wanted)).values())


async def test_a_frozen_shard_costs_little_and_thaws():
    config = replace(CONFIG, retry=Retry(rest_seconds=5))
    async with running("a", "b", config=config) as (made, client):
        wanted = keys(0, 10)
        await client.put({key: frame(key) for key in wanted})
        made.running["a"].send_signal(signal.SIGSTOP)
        try:
            found = await client.get(wanted)
            assert all(isinstance(found[key], Frame) for key in wanted if key.kind == "part")
            failures = client.counters["failures"]
            await client.get(wanted)
            assert client.counters["failures"] == failures, "it rests"
            with pytest.raises(Unavailable, match="a"):
                await client.delete([wanted[0]])
        finally:
            made.running["a"].send_signal(signal.SIGCONT)

        async def thawed() -> bool:
            return await readable(client, wanted[2:]) == 1.0

        await until(thawed)
        await client.delete([wanted[0]])


async def test_a_shard_that_was_started_again_is_found_and_its_new_memory_used():
    async with running("a") as (made, client):
        wanted = keys(0, 4)
        await client.put({key: frame(key) for key in wanted})
        made.kill("a")
        with pytest.raises(Unavailable):
            await client.put({wanted[0]: frame(wanted[0])})
        made.start("a")
        made.become("a")
        await made.ready()
        assert set((await client.get(wanted)).values()) == {Miss.NEVER_STORED}
        await client.put({key: frame(key) for key in wanted})
        for _ in range(2):
            assert await readable(client, wanted) == 1.0
        before = client.counters["get.shared"]
        assert await readable(client, wanted) == 1.0
        assert client.counters["get.shared"] == before + len(wanted)


async def test_clients_of_two_kinds_read_the_same_bytes():
    async with running("a") as (made, client):
        wanted = keys(0, 4)
        await client.put({key: frame(key) for key in wanted})
        async with KVClient(MembershipFile(made.members), replace(CONFIG, shared=False)) as far:
            assert await readable(far, wanted) == 1.0
            assert far.counters["get.streamed"] == len(wanted)
            assert not far.counters["get.shared"]
