"""Memory that a client shares with shards: mapped once and given back, and never waited for longer than a call has."""

import asyncio
import threading
from dataclasses import replace

import pytest

from tests.wire.shards import CONFIG, found, frame, kv, shards, until
from tests.wire.toy_kvstore import Toy
from worldkv.format import join
from worldkv.shared import ArenaReader


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


async def test_a_client_that_ends_while_it_maps_leaves_nothing_mapped(mapped):
    async with shards("a") as (client, *_):
        mapped.may.clear()
        await client.put({kv(): frame()}, deadline_seconds=1)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.05)
        mapped.may.set()
        await closing
        assert len(mapped.made) == len(mapped.closed) == 1
