"""Bytes between a client and a real server: by which way, how they fail, whose they are."""

import asyncio
from dataclasses import replace

import pytest

from tests.wire.shards import BRANCH, CONFIG, found, frame, kv, part, shards
from tests.wire.toy_kvstore import Toy
from worldkv.chunk import ChunkKey
from worldkv.client import KVClient
from worldkv.errors import (
    ChecksumMismatch,
    Conflict,
    InvalidInput,
    OverBudget,
    Unavailable,
)
from worldkv.format import Frame, join
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import kvstore_pb2 as pb


@pytest.mark.parametrize("size", [1, 40_000, 1 << 20, 3_000_001])
@pytest.mark.parametrize("way", ["shared", "streamed"])
async def test_bytes_go_and_come_by_either_way(size, way):
    async with shards("a", replace(CONFIG, shared=way == "shared")) as (client, toys, *_):
        given = frame(size)
        assert await client.put({kv(): given}) == {kv(): Level.ONE}
        assert await found(client, kv()) == join(given)
        into = way if size > 1000 else "streamed"
        assert client.counters == {
            f"put.{into}": 1,
            f"put.{into}.bytes": size,
            f"get.{way}": 1,
            f"get.{way}.bytes": size,
        }
        toys["a"].tier.check_integrity()


async def test_frames_larger_than_the_staging_memory_are_streamed():
    async with shards("a", replace(CONFIG, staging_bytes=100_000)) as (client, *_):
        await client.put({kv(0): frame(1_000_000), kv(1): frame(50_000)})
        assert await found(client, kv(0)) == join(frame(1_000_000))
        assert client.counters["put.streamed"] == 1


async def test_many_frames_share_a_little_staging_memory():
    async with shards("a", replace(CONFIG, staging_bytes=1 << 20)) as (client, *_):
        items = {kv(n): frame(500_000, n) for n in range(12)}
        await asyncio.gather(client.put(items), client.put({part(n): frame(300_000, n) for n in range(5)}))
        assert client.counters["put.shared"] == 17
        for key, given in items.items():
            assert await found(client, key) == join(given)


async def test_a_shard_that_does_not_see_our_memory_is_sent_streams():
    async with shards("a") as (client, toys, *_):
        toys["a"].sees = False
        await client.put({kv(0): frame(50_000), part(0): frame(50_000)})
        await client.put({kv(1): frame(50_000)})
        assert client.counters["put.streamed"] == 3
        assert await found(client, kv(0)) == join(frame(50_000))


async def test_a_shard_without_shared_memory_is_read_as_streams():
    async with shards("a") as (client, toys, *_):
        toys["a"].shares = False
        await client.put({kv(0): frame()})
        assert await found(client, kv(0)) == join(frame())
        assert client.counters["get.streamed"] == 1


async def test_a_shard_started_again_shares_its_new_memory():
    async with shards("a") as (client, toys, *_):
        await client.put({kv(0): frame()})
        old, toys["a"].tier = toys["a"].tier, Toy().tier
        old.close()
        assert await found(client, kv(0)) is Miss.NEVER_STORED
        await client.put({kv(1): frame()})
        assert await found(client, kv(1)) == join(frame()), "as a stream: the proof is of the old memory"
        assert await found(client, kv(1)) == join(frame())
        assert (client.counters["get.streamed"], client.counters["get.shared"]) == (1, 1)


@pytest.mark.parametrize("shared", [True, False])
async def test_damaged_bytes_are_a_counted_miss_and_the_shard_is_told(shared):
    async with shards("a", replace(CONFIG, shared=shared)) as (client, toys, *_):
        await client.put({kv(0): frame(), kv(1): frame()})
        toys["a"].damage = {kv(0)}
        answers = await client.get([kv(0), kv(1)])
        assert answers[kv(0)] is Miss.CORRUPT
        assert isinstance(answers[kv(1)], Frame)
        assert client.counters[f"get.{'shared' if shared else 'streamed'}.corrupt"] == 1


async def test_frames_own_their_memory_for_as_long_as_they_are_used():
    async with shards("a") as (client, *_):
        await client.put({kv(n): frame(100_000, n) for n in range(3)})
        first = (await client.get([kv(0)]))[kv(0)]
        assert isinstance(first, Frame)
        view = first.buffers[0]
        assert view.readonly
        del first
        for _ in range(3):
            await client.get([kv(1), kv(2)])
        assert bytes(view) == join(frame(100_000, 0))
        del view
        assert 0 < client.ring.landing.idle_bytes <= CONFIG.landing_bytes


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (pb.REFUSAL_REASON_NO_ROOM, OverBudget),
        (pb.REFUSAL_REASON_CORRUPT, ChecksumMismatch),
        (pb.REFUSAL_REASON_LEVEL_DOWN, Unavailable),
        (pb.REFUSAL_REASON_DELETED, Conflict),
        (99, Unavailable),
    ],
)
async def test_refusals_arrive_as_errors(reason, error):
    async with shards("a") as (client, toys, *_):
        toys["a"].refuses = reason
        with pytest.raises(error, match=str(kv())):
            await client.put({kv(): frame()})


async def test_tenants_do_not_meet():
    async with shards("a") as setting:
        await setting.client.put({kv(): frame()})
        async with KVClient(lambda: setting.state["now"], replace(CONFIG, tenant="other")) as other:
            assert await found(other, kv()) is Miss.NEVER_STORED


async def test_what_is_not_a_key_or_a_frame_is_refused():
    async with shards("a") as (client, toys, *_):
        toys["a"].calls.clear()
        with pytest.raises(InvalidInput, match="no bytes"):
            await client.put({kv(): Frame.of(b"")})
        with pytest.raises(InvalidInput, match="16 bytes"):
            await client.get([PartKey(ChunkKey(b"short", 0), "kv")])
        with pytest.raises(InvalidInput):
            await client.put({PartKey(ChunkKey(BRANCH, -1), "kv"): frame()})
        assert not toys["a"].calls


async def test_a_put_given_up_leaves_no_staging_memory_taken():
    async with shards("a") as (client, toys, *_):
        await client.put({kv(9): frame(50_000)})
        toys["a"].frozen = True
        putting = asyncio.create_task(client.put({kv(n): frame(200_000) for n in range(4)}))
        await asyncio.sleep(0.1)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        toys["a"].frozen = False
        staging = client.ring._stages._segments
        taken = staging[0].reserve(staging[0].room)
        assert taken is not None, "all of it is free again"
        staging[0].release(taken)
        await client.put({kv(n): frame(200_000) for n in range(4)})
