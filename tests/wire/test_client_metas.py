"""What a client learns of a branch from the first bytes of its parts: all of it, in order, and nothing wrong."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.wire.shards import BRANCH, CONFIG, part, shards
from worldkv.chunk import ChunkKey, Meta, Part
from worldkv.client import KVClient, Retry
from worldkv.errors import InvalidInput, Unavailable
from worldkv.format import Frame, encode_part
from worldkv.pose import camera
from worldkv.store import Miss, PartKey


def meta(index: int, **fields: Any) -> Meta:
    poses = np.stack([camera(index, n, 0, yaw=index) for n in range(3)])
    return Meta(ChunkKey(BRANCH, index), "0" * 32, 3 * index, poses, 1.0, 0.75, **fields)


def stored(about: Meta, latents: int = 500) -> Frame:
    return encode_part(Part(about, np.ones((3, 1, 1, latents), np.float16), b"turn left"))


DEPTH = np.arange(12, dtype=np.float32).reshape(3, 2, 2)


async def put(client: KVClient, *about: Meta, **how: int) -> None:
    await client.put({part(each.key.index): stored(each, **how) for each in about})


async def read(client: KVClient, *which: int) -> list[Meta]:
    return [batch.meta(row) async for batch in client.batches(BRANCH, *which) for row in range(len(batch))]


def same(a: Meta, b: Meta) -> bool:
    for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
        if not (np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other):
            return False
    return True


@pytest.mark.parametrize("names", ["a", "abc"])
async def test_metas_come_in_order_each_once_from_the_heads(names):
    async with shards(names) as (client, *_):
        about = [meta(n) for n in range(30)]
        recalled = [replace(each, recalled=tuple(each.key for each in about[:n])) for n, each in enumerate(about)]
        await put(client, *reversed(recalled))
        found = await read(client)
        assert len(found) == 30
        assert all(map(same, found, about))
        assert (client.counters["metas.head"], client.counters["metas.whole"]) == (30, 0)
        assert [each.key.index for each in await read(client, 3, 5)] == [3, 4]
        assert await read(client, 5, 5) == []


async def test_what_a_head_does_not_hold_is_read_from_the_whole_part():
    async with shards("ab") as (client, *_):
        about = [meta(n, depth=DEPTH + n, descriptor=DEPTH[0, 0]) if n % 7 == 3 else meta(n) for n in range(300)]
        await put(client, *about, latents=2000)
        found = await read(client)
        assert all(map(same, found, about))
        assert len(found) == 300
        assert (client.counters["metas.head"], client.counters["metas.whole"]) == (257, 43)


async def test_metas_do_not_keep_the_memory_that_their_parts_came_in():
    async with shards("a") as (client, *_):
        await put(client, meta(0, depth=DEPTH), latents=100_000)
        (found,) = await read(client)
        assert client.ring.landing.idle_bytes > 0
        assert found.depth is not None
        assert found.depth.tolist() == DEPTH.tolist()


async def test_a_damaged_head_is_read_again_as_a_whole_and_elsewhere():
    async with shards("ab") as (client, toys, *_):
        about = [meta(n) for n in range(4)]
        await put(client, *about, latents=2)
        toys["a"].damage = {part(1)}
        assert all(map(same, await read(client), about))
        toys["b"].damage = {part(1), part(2)}
        found = await read(client)
        assert [each.key.index for each in found] == [0, 2, 3]
        assert client.counters["metas.damaged"] == 1


async def test_a_part_that_is_no_part_is_left_out_and_counted():
    async with shards("a") as (client, *_):
        await put(client, meta(0), meta(2))
        await client.put({part(1): Frame.of(b"not a part"), part(3): stored(meta(4))})
        assert [each.key.index for each in await read(client)] == [0, 2]
        assert client.counters["metas.damaged"] == 2


@pytest.mark.parametrize(
    ("name", "wrong"), [("poses", np.ones((3, 4, 4))), ("begin", -1), ("begin", 2**63), ("fov", 4.0)]
)
async def test_a_chunk_that_cannot_be_is_left_out_and_counted_not_those_beside_it(name, wrong):
    async with shards("ab") as (client, *_):
        about = [meta(n) for n in range(20)]
        for each in (about[7], about[19]):
            object.__setattr__(each, name, wrong)
        await put(client, *about)
        assert [each.key.index for each in await read(client)] == [n for n in range(20) if n not in (7, 19)]
        assert client.counters["metas.damaged"] == 2


async def test_chunks_of_other_shapes_come_apart_and_in_order():
    async with shards("a") as (client, *_):
        long = meta(2, descriptor=np.ones(4, np.float32))
        about = [meta(0), meta(1), long, replace(meta(3), poses=meta(3).poses[:1]), meta(4)]
        await put(client, *about[:3], about[4])
        await client.put({part(3): encode_part(Part(about[3], np.ones((1, 1, 1, 500), np.float16)))})
        found = [batch async for batch in client.batches(BRANCH)]
        assert [batch.index.tolist() for batch in found] == [[0, 1], [2], [3], [4]]
        assert all(map(same, await read(client), about))


async def test_a_chunk_that_goes_meanwhile_is_left_out():
    async with shards("a") as (client, *_):
        await put(client, *[meta(n, depth=DEPTH) for n in range(20)], latents=2000)
        found: list[int] = []
        async for batch in client.batches(BRANCH):
            if not found:
                await client.delete([part(n) for n in range(10, 20)])
            found += batch.index.tolist()
        assert found == list(range(16)), "sixteen are read at a time"
        assert client.counters["metas.damaged"] == 0


async def test_a_silent_shard_is_no_hole():
    config = replace(CONFIG, stall_seconds=0.2, retry=Retry(1, 0.001, 0))
    async with shards("ab", config) as (client, toys, *_):
        await put(client, *[meta(n) for n in range(5)])
        toys["a"].frozen = True
        with pytest.raises(Unavailable):
            await read(client)
        toys["a"].frozen = False
        assert len(await read(client)) == 5


async def test_a_part_that_nobody_answers_for_is_no_hole(monkeypatch):
    config = replace(CONFIG, stall_seconds=0.2, retry=Retry(1, 0.001, 0))
    async with shards("a", config) as (client, toys, *_):
        await put(client, meta(0, depth=DEPTH), latents=2000)
        original = client.get

        async def get(keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
            toys["a"].frozen = True
            return await original(keys)

        monkeypatch.setattr(client, "get", get)
        with pytest.raises(Unavailable, match="nobody answers"):
            await read(client)
        toys["a"].frozen = False


async def test_what_is_no_branch_has_no_metas():
    async with shards("a") as (client, *_):
        with pytest.raises(InvalidInput, match="16 bytes"):
            [each async for each in client.batches(b"short")]
