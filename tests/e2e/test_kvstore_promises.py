"""What a shard promises while its Redis is slow or gone, as a process, with what becomes of it afterwards."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.shard_process import (
    CONFIG,
    Process,
    data,
    kv,
    nothing_waits,
    part,
    put,
    right,
    shard_over,
    wait_until,
)
from tests.redis_process import redis_process
from tests.slow_proxy import SlowProxy, slow_proxy
from worldkv.catalog import World
from worldkv.chunk import Lineage
from worldkv.client import KVClient, fixed
from worldkv.errors import Unavailable
from worldkv.format import Frame
from worldkv.store import Level, Miss

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(300)]


@pytest.fixture
def redis():
    with redis_process() as made:
        yield made


@asynccontextmanager
async def slowed(**settings: str) -> AsyncIterator[tuple[Process, KVClient, SlowProxy]]:
    """A shard over a Redis that may be slowed, and that has what a shard before it wrote: KV 0 of 2 MB."""
    with redis_process() as redis:
        async with slow_proxy(redis.socket) as proxy, shard_over(proxy, **settings) as (made, client):
            await put(client, kv(0), size=2_000_000)
            await made.end(signal.SIGTERM)
            await made.start()
            async with KVClient(fixed(made.address), CONFIG) as again:
                yield made, again, proxy


async def test_a_get_from_a_slow_redis_is_answered_in_time_with_what_there_is():
    async with slowed() as (_, client, proxy):
        assert await put(client, part(1)) == {Level.REDIS}
        proxy.rate = 100_000
        found = await client.get([part(1), kv(0)], deadline_seconds=1.5)
        assert (found[kv(0)], isinstance(found[part(1)], Miss)) == (Miss.LATE, False)
        proxy.rate = 0
        assert await right(client, kv(0), size=2_000_000) == [None]


async def test_a_put_over_a_slow_redis_is_answered_in_time_and_copied_up_later():
    async with slowed() as (made, client, proxy):
        proxy.rate = 50_000
        for n in (1, 2):
            frame = Frame.of(data(part(n), 500_000))
            assert await client.put({part(n): frame}, deadline_seconds=1.5) == {part(n): Level.ONE}
        assert not await nothing_waits(made)
        proxy.rate = 0
        await wait_until(lambda: nothing_waits(made))
        assert await put(client, part(1), part(2), size=500_000) == {Level.REDIS}
        assert await put(client, part(3)) == {Level.REDIS}


async def test_what_a_slow_redis_cannot_take_is_bounded_and_counted():
    async with slowed(TIERS__QUEUE_BYTES="1_000_000") as (made, client, proxy):
        proxy.rate = 50_000
        await put(client, *(kv(n) for n in range(1, 41)), size=200_000)
        await asyncio.sleep(1.2)  # figures are taken once a second
        assert await made.gauge("queued_bytes") <= 1_000_000
        assert await made.gauge("dropped_total") >= 30
        assert await right(client, *(kv(n) for n in range(1, 41)), size=200_000) == [None] * 40
        proxy.rate = 0

        async def nothing_queued() -> bool:
            return not await made.gauge("queued")

        await wait_until(nothing_queued)


async def test_the_breaker_opens_for_a_redis_that_answers_too_late_and_closes_again():
    async with slowed() as (made, client, proxy):
        proxy.latency = 3
        assert await put(client, part(1)) == {Level.ONE}
        assert await put(client, *map(part, range(2, 10))) == {Level.ONE}
        assert await right(client, kv(0), size=2_000_000) == [Miss.TIER_DOWN]
        assert await made.gauge("redis_breaker_open") == 1
        proxy.latency = 0
        await wait_until(lambda: nothing_waits(made))
        assert await right(client, kv(0), size=2_000_000) == [None]
        assert await made.gauge("redis_breaker_open") == 0
        assert await made.gauge("redis_breaker_trips_total") >= 1
        assert await put(client, part(20)) == {Level.REDIS}


async def test_a_deletion_that_was_acknowledged_outlives_the_shard_and_redis_and_no_other_is():
    with redis_process("--appendonly", "yes", "--appendfsync", "always") as redis:
        async with shard_over(redis) as (made, client):
            await put(client, *map(part, range(3)))
            assert await client.delete([part(0)]) == 1
            redis.kill()
            with pytest.raises(Unavailable, match=r"delete again: .*not for good: Redis does not answer"):
                await client.delete([part(1)])
            assert await right(client, part(1), part(2)) == [Miss.DELETED, None], "it hides, and the shard is asked on"
            await made.end(signal.SIGKILL)
            redis.start()
            await made.start()
            async with KVClient(fixed(made.address), CONFIG) as again:
                assert await right(again, part(0), part(1), part(2)) == [Miss.DELETED, None, None]
                assert await again.delete([part(1)]) == 1
                assert await right(again, part(1)) == [Miss.DELETED]


async def test_without_redis_known_worlds_are_read_and_what_changes_any_is_refused_in_its_name(redis):
    async with shard_over(redis) as (_, client):
        await client.worlds.swap("harbour", 0, World("harbour", Lineage.begin(b"b" * 16), chunks=2))
        await put(client, part(0), kv(0), part(1))
        redis.kill()
        assert (await client.worlds.read("harbour")).level == Level.ONE
        assert await right(client, part(0), kv(0), part(1)) == [None] * 3
        for call in (
            client.worlds.swap("harbour", 1, World("harbour", Lineage.begin())),
            client.worlds.swap("quay", 0, World("quay", Lineage.begin())),
            client.worlds.read("quay"),
            client.worlds.remove("harbour"),
            anext(client.worlds.list()),
            anext(client.scan(b"b" * 16)),
        ):
            with pytest.raises(Unavailable, match="Redis"):
                await call
        assert client.counters["failures"] == 0, "the shard answers"
        assert await right(client, part(0)) == [None]
        redis.start()

        async def made_again() -> bool:
            try:
                return (await client.worlds.swap("quay", 0, World("quay", Lineage.begin()))).level == Level.REDIS
            except Unavailable:
                return False

        await wait_until(made_again)
        assert [each.name async for each in client.worlds.list()] == ["harbour", "quay"]
        assert (await client.worlds.read("harbour")).world.version == 1


async def test_every_figure_is_explained_and_there_is_no_other(redis):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    async with shard_over(redis) as (made, client):
        await put(client, part(0))
        page = await made.page()
    shown = set(re.findall(r"^# TYPE (worldkv_kvstore_\w+|grpc_server_\w+) ", page, re.MULTILINE))
    explained = set(re.findall(r"`(worldkv_kvstore_\w+|grpc_server_\w+)`", text))
    assert {name for name in shown if not name.endswith("_created")} == explained
    assert re.search(r"^worldkv_kvstore_redis_put_pieces_total 1.0$", page, re.MULTILINE)
