"""Memory that a client shares with shards: mapped once and given back, and never waited for longer than a call has."""

import asyncio
import threading
from dataclasses import replace

import pytest

from tests.wire.shards import CONFIG, found, frame, kv, part, shards, until
from tests.wire.toy_kvstore import Toy
from worldkv.errors import DeadlineExceeded
from worldkv.format import join
from worldkv.shared import ArenaReader
from worldkv.store import Level


class Mapped:
    """Readers of arenas as they are made, each when `may` is set, and those that were closed."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.made: list[ArenaReader] = []
        self.closed: list[ArenaReader] = []


@pytest.fixture
def mapped(monkeypatch):
    seen = Mapped()

    class Reader(ArenaReader):
        def __init__(self, info):
            assert seen.may.wait(30)
            super().__init__(info)
            seen.made.append(self)

        def close(self):
            super().close()
            seen.closed.append(self)

    monkeypatch.setattr("worldkv.client.connection.ArenaReader", Reader)
    yield seen
    seen.may.set()
    assert {*seen.made} == {*seen.closed}


async def test_memory_is_mapped_once_whatever_passes_through(mapped):
    async with shards("a") as (client, toys, *_):
        await client.put({kv(n): frame(5000, n) for n in range(2)})
        toys["a"].passes = {kv(0)}
        for _ in range(3):
            assert await found(client, kv(0)) == join(frame(5000, 0))
            assert await found(client, kv(1)) == join(frame(5000, 1))
        assert (client.counters["get.streamed"], client.counters["get.shared"]) == (3, 3)
        assert len(mapped.made) == 1


async def test_the_memory_of_a_shard_that_was_started_again_takes_the_place_of_the_old(mapped):
    async with shards("a") as (client, toys, *_):
        await client.stats()
        old, toys["a"].tier = toys["a"].tier, Toy().tier
        old.close()
        await client.put({kv(): frame()})
        for _ in range(2):
            assert await found(client, kv()) == join(frame())
        assert client.counters["get.shared"] == 1
        assert mapped.closed == mapped.made[:1]
        toys["a"].shares = False
        for _ in range(2):
            assert await found(client, kv()) == join(frame())
        assert mapped.closed == mapped.made[:2]


async def test_bytes_come_as_streams_until_memory_is_mapped(mapped):
    async with shards("a", replace(CONFIG, deadline_seconds=5)) as (client, *_):
        mapped.may.clear()
        await client.put({kv(): frame(50_000)})
        assert await found(client, kv()) == join(frame(50_000))
        assert not mapped.made
        assert (client.counters["put.streamed"], client.counters["get.streamed"]) == (1, 1)
        mapped.may.set()

        async def there() -> bool:
            told = (await client.stats())["a"]
            return told is not None and told.shared

        await until(there)
        assert await found(client, kv()) == join(frame(50_000))
        assert client.counters["get.shared"] == 1


async def test_a_call_given_up_leaves_the_mapping_to_the_next(mapped):
    async with shards("a") as (client, *_):
        mapped.may.clear()
        asking = asyncio.create_task(client.stats())
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        mapped.may.set()
        told = await client.stats()
        assert told["a"] is not None
        assert told["a"].shared
        assert len(mapped.made) == 1


async def test_a_frozen_shard_is_known_by_its_silence_also_if_room_is_waited_for():
    config = replace(CONFIG, deadline_seconds=10, stall_seconds=0.3, staging_bytes=1 << 20)
    async with shards("ab", config) as setting:
        await setting.client.stats()
        frozen = setting.toys["a"]
        chunk = next(n for n in range(99) if setting.order(kv(n))[0] is frozen)
        frozen.frozen = True
        both = kv(chunk), part(chunk)  # of which one has room at a time
        assert await setting.client.put(dict.fromkeys(both, frame(600_000))) == dict.fromkeys(both, Level.ONE)
        frozen.frozen = False


@pytest.mark.slow
async def test_what_one_shard_has_is_kept_though_another_is_too_late():
    async with shards("ab") as setting:
        await setting.client.stats()
        first, second = setting.order(part())
        second.frozen = True
        assert await setting.client.put({part(): frame()}, deadline_seconds=0.5) == {part(): Level.ONE}
        with pytest.raises(DeadlineExceeded):
            await setting.client.put({part(): frame()}, least=Level.TWO, deadline_seconds=0.5)
        first.frozen = True
        with pytest.raises(DeadlineExceeded):
            await setting.client.put({part(1): frame(), part(2): frame()}, deadline_seconds=0.5)
        first.frozen = second.frozen = False


async def test_a_client_that_ends_while_it_maps_leaves_nothing_mapped(mapped):
    async with shards("a") as (client, *_):
        mapped.may.clear()
        await client.put({kv(): frame()}, deadline_seconds=1)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.05)
        mapped.may.set()
        await closing
        assert len(mapped.made) == len(mapped.closed) == 1
