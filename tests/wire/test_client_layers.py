"""KV parts read a layer at a time, from real shards: in order, verified, and why not where they do not come."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.kvstore.held import Held
from services.kvstore.ram import RamConfig
from tests.wire.shard import CONFIG, Caller, calling, kv, part
from tests.wire.test_kvstore_tiers import Below
from worldkv.chunk import KVPart, Segment
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.errors import InvalidInput
from worldkv.format import Frame, decode_header, encode_kv
from worldkv.store import Miss, PartKey

LAYERS = 8
SPEC = "0" * 32


def segment(kind: Any, layer: int, size: int, seed: int, group: int = 0) -> Segment:
    data = np.random.default_rng((seed, layer, kind == "v", group)).integers(0, 256, size, np.uint8)
    return Segment(kind, layer, group, "float16", (size, 1, 1), "int8", data)


def frame(key: PartKey, size: int = 3000, layers: int = LAYERS, seed: int = 0) -> Frame:
    """A KV part, keys of all layers before all values, as they are coded."""
    segments = [segment(kind, layer, size, seed + key.chunk.index) for kind in "kv" for layer in range(layers)]
    return encode_kv(key.chunk, SPEC, KVPart(tuple(segments)))


@asynccontextmanager
async def reading(*callers: Caller, shared: bool = True, **config: Any) -> AsyncIterator[KVClient]:
    async with KVClient(fixed(*(each.address for each in callers)), ClientConfig(shared=shared, **config)) as client:
        yield client


async def read(client: KVClient, *keys: PartKey, **how: Any) -> list[tuple[PartKey, Segment | Miss]]:
    return [each async for each in client.segments(keys, **how)]


def names(found: list[tuple[PartKey, Segment | Miss]]) -> list[Any]:
    return [
        (key.chunk.index, each) if isinstance(each, Miss) else (key.chunk.index, each.kind, each.layer)
        for key, each in found
    ]


def held(caller: Caller, key: PartKey) -> Held:
    return caller.shard.tiers.ram._ledger.held["default", key]


def spoil(caller: Caller, key: PartKey, at: int) -> None:
    """Change a byte of a part where it lies."""
    for view in caller.shard.tiers.ram.arena.views(held(caller, key).extents):
        if at < view.nbytes:
            view[at] ^= 1
            return
        at -= view.nbytes


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 3000, 100_000])
async def test_layers_come_in_order_whatever_shards_have_the_parts(shared, size):
    keys = [kv(n) for n in (2, 0, 1)]
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(calling()) for _ in range(2)]
        client = await stack.enter_async_context(reading(*callers, shared=shared))
        await client.put({key: frame(key, size) for key in keys})
        found = await read(client, *keys)
        wanted = [(n, kind, layer) for layer in range(LAYERS) for n in (2, 0, 1) for kind in "kv"]
        assert names(found) == wanted
        for key, each in found:
            assert isinstance(each, Segment)
            expected = segment(each.kind, each.layer, size, key.chunk.index)
            assert (each.data.tolist(), each.shape, each.codec) == (expected.data.tolist(), expected.shape, "int8")
            assert not each.data.flags.writeable
        assert client.counters["slice.shared" if shared else "slice.streamed"] >= len(wanted)
        assert not client.counters["slice.streamed" if shared else "slice.shared"]
        some = await read(client, *keys, layers={1, 6, 99}, kinds=["v"])
        assert names(some) == [(n, "v", layer) for layer in (1, 6) for n in (2, 0, 1)]
        assert await read(client) == []


@pytest.mark.parametrize("shared", [True, False])
async def test_headers_and_segments_of_any_length_are_read(shared):
    tall, empty = kv(0), kv(1)
    data = KVPart((segment("k", 0, 0, 0), segment("v", 0, 5, 0), segment("k", 1, 0, 0)))
    async with calling() as caller, reading(caller, shared=shared) as client:
        await client.put({tall: frame(tall, 10, layers=400), empty: encode_kv(empty.chunk, SPEC, data)})
        found = await read(client, tall, empty)
        assert len(found) == 800 + 3
        assert names(found)[:5] == [(0, "k", 0), (0, "v", 0), (1, "k", 0), (1, "v", 0), (0, "k", 1)]
        none = encode_kv(kv(2).chunk, SPEC, KVPart(()))
        await client.put({kv(2): none})
        assert await read(client, kv(2)) == []


async def test_why_there_is_nothing_of_a_part_is_told_once():
    async with calling() as caller, reading(caller) as client:
        await client.put({kv(0): frame(kv(0)), kv(1): frame(kv(1)), kv(2): frame(kv(2))})
        await client.delete([part(1), kv(2)])
        found = names(await read(client, kv(1), kv(3), kv(0), kv(2), layers=[0]))
        assert found == [(1, Miss.DELETED), (3, Miss.NEVER_STORED), (2, Miss.EVICTED), (0, "k", 0), (0, "v", 0)]
        assert names(await read(client, kv(0), deadline_seconds=0)) == [(0, Miss.LATE)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("what", ["header", "first", "fifth"])
async def test_damage_ends_a_part_at_the_damage_and_touches_no_other(shared, what):
    async with calling() as caller, reading(caller, shared=shared) as client:
        await client.put({key: frame(key) for key in (kv(0), kv(1))})
        rows = {(row.layer, row.kind): row for row in decode_header(frame(kv(0))).rows}
        at = {"header": 40, "first": rows[0, "k"].offset + 2999, "fifth": rows[2, "k"].offset}[what]
        spoil(caller, kv(0), at)
        found = names(await read(client, kv(0), kv(1)))
        good = {"header": 0, "first": 0, "fifth": 4}[what]
        assert [each for each in found if each[0] == 0] == [
            *[(0, kind, layer) for layer in range(LAYERS) for kind in "kv"][:good],
            (0, Miss.CORRUPT),
        ]
        assert [each for each in found if each[0] == 1] == [(1, kind, n) for n in range(LAYERS) for kind in "kv"]
        assert (await client.get([kv(0)]))[kv(0)] is Miss.CORRUPT, "the shard has dropped it"


async def test_what_is_damaged_in_memory_comes_from_redis():
    below = Below()
    async with calling(lower=below) as caller, reading(caller) as client:
        await client.put({kv(0): frame(kv(0))})
        while not below.held:
            await client.stats()
        for at in (40, decode_header(frame(kv(0))).rows[3].offset):
            spoil(caller, kv(0), at)
            found = await read(client, kv(0))
            assert names(found) == [(0, kind, n) for n in range(LAYERS) for kind in "kv"]
            for _, each in found:
                assert isinstance(each, Segment)
                assert np.array_equal(each.data, segment(each.kind, each.layer, 3000, 0).data)


async def test_what_memory_has_no_room_for_is_read_from_redis_once():
    below = Below()
    small = replace(CONFIG, ram=RamConfig(budget_bytes=1 << 20, prefix="worldkv-test"))
    async with calling(small, lower=below) as caller, reading(caller) as client:
        below.held["default", kv(0)] = b"".join(frame(kv(0), 100_000).buffers)
        below.asked = 0
        assert len(await read(client, kv(0))) == 2 * LAYERS
        assert below.asked == 2, "once for the header, once for all layers"


@pytest.mark.parametrize("again", [False, True])
async def test_a_part_that_goes_meanwhile_is_a_miss_also_if_another_came(again):
    async with calling() as caller, reading(caller) as client:
        await client.put({kv(0): frame(kv(0), 100_000)})
        found: list[tuple[PartKey, Segment | Miss]] = []
        async for some in client.segments([kv(0)]):
            if not found:
                await client.delete([kv(0)])
                await client.put(
                    {kv(7): frame(kv(7), 100_000)} | ({kv(0): frame(kv(0), 100_000, seed=9)} if again else {})
                )
            found.append(some)
        told = names(found)
        assert told[-1] == (0, Miss.EVICTED)
        assert told[:-1] == [(0, kind, n) for n in range(LAYERS) for kind in "kv"][: len(told) - 1]
        for _, each in found[:-1]:
            assert isinstance(each, Segment)
            assert np.array_equal(each.data, segment(each.kind, each.layer, 100_000, 0).data)


async def test_whoever_leaves_early_leaves_nothing_behind():
    async with calling() as caller, reading(caller, shared=False) as client:
        await client.put({key: frame(key, 100_000) for key in (kv(0), kv(1))})
        reader = client.segments([kv(0), kv(1)])
        assert names([await anext(reader)]) == [(0, "k", 0)]  # type: ignore[call-overload]
        await reader.aclose()  # type: ignore[attr-defined]
        assert len(await read(client, kv(0), kv(1))) == 4 * LAYERS


async def test_only_kv_parts_have_layers():
    async with calling() as caller, reading(caller) as client:
        for keys, kinds in (([part(0)], "kv"), ([kv(0)], ["poses"])):
            with pytest.raises(InvalidInput, match="kinds k and v"):
                await read(client, *keys, kinds=kinds)
