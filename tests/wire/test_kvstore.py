"""The shard as callers see it, message by message."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest

from services.kvstore.gets import Gets
from services.kvstore.ram import RamConfig
from tests.wire.shard import BRANCH, CONFIG, body, calling, inline, item, kv, part, until
from worldkv import rpc, wire
from worldkv.errors import InvalidInput, Outdated
from worldkv.shared import ArenaReader, Extent, Staging, copy_checked
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb

SMALL = replace(CONFIG, ram=RamConfig(budget_bytes=1 << 20, prefix="worldkv-test"))


@pytest.mark.parametrize("size", [1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_456_789])
@pytest.mark.parametrize("piece_bytes", [1 << 16, 1 << 20, 3 << 20])
async def test_what_was_put_is_read_again_whatever_the_pieces(size, piece_bytes):
    data = body(size)
    async with calling() as caller:
        assert await caller.keep(kv(), data, piece_bytes) == Level.ONE
        assert await caller.get(kv(), piece_bytes=1 << 16) == [data]
        assert await caller.get(kv()) == [data]
        assert (await caller.stats()).used_bytes == size


async def test_items_of_a_put_are_answered_once_and_keys_of_a_get_in_order():
    data = {kv(n): body(40_000 + n, n) for n in range(20)}
    async with calling() as caller:
        put = [inline(n, key, each, 1 << 14) for n, (key, each) in enumerate(data.items())]
        assert await caller.put(*put) == dict.fromkeys(range(20), Level.ONE)
        keys = [kv(99), *reversed(data), part(3)]
        assert await caller.get(*keys) == ["NEVER_STORED", *(data[key] for key in reversed(data)), "NEVER_STORED"]
        assert await caller.get() == []


async def test_putting_what_is_held_changes_nothing():
    async with calling() as caller:
        assert await caller.keep(part(), body(2000)) == Level.ONE
        assert await caller.keep(part(), body(500, 9)) == Level.ONE
        assert await caller.get(part()) == [body(2000)]


async def test_why_a_key_has_no_bytes():
    async with calling() as caller:
        for n in range(3):
            await caller.put(inline(0, part(n), body(10)), inline(1, kv(n), body(3_000_000, n)))
        await caller.stub.Delete(pb.DeleteRequest(keys=[wire.key_message(part(2))]))
        assert await caller.get(kv(0), part(0), kv(2), part(2), kv(3)) == [
            "EVICTED",
            body(10),
            "DELETED",
            "DELETED",
            "NEVER_STORED",
        ]
        assert await caller.keep(kv(2), body(10)) == "DELETED"


async def test_tenants_do_not_see_each_other():
    async with calling() as caller:
        await caller.keep(kv(), body(100))
        caller.tenant = "other"
        assert await caller.get(kv()) == ["NEVER_STORED"]
        assert (await caller.stub.Delete(pb.DeleteRequest(keys=[wire.key_message(kv())]))).dropped == 1
        caller.tenant = "Not A Tenant"
        with pytest.raises(InvalidInput, match="Not A Tenant"):
            await caller.get(kv())


async def test_a_reader_of_this_host_copies_from_the_arena():
    data = body(3_000_000)
    async with calling() as caller:
        await caller.keep(kv(), data)
        arena = wire.arena_of((await caller.stats()).arena)
        with ArenaReader(arena) as reader:
            proofs = [pb.ArenaProof(arena=arena.id, nonce=reader.nonce)]
            (plan,) = await caller.get(kv(), arenas=proofs)
            assert isinstance(plan, pb.Plan)
            into = bytearray(len(data))
            extents = wire.extents_of(plan.shared.extents)
            assert reader.copy(extents, [memoryview(into)], plan.checksum) is None
            assert into == data
            (piece,) = await caller.get(kv(), arenas=proofs, slices=[pb.Slice(offset=1_048_000, length=2000)])
            assert isinstance(piece, pb.Plan)
            assert sum(each.length for each in piece.shared.extents) == 2000
            wrong = [pb.ArenaProof(arena=arena.id, nonce=b"x" * 16)]
            assert await caller.get(kv(), arenas=wrong) == [data]
            await caller.stub.Delete(pb.DeleteRequest(keys=[wire.key_message(kv())]))
            assert reader.copy(extents, [memoryview(into)], plan.checksum) is Miss.EVICTED


def staged(key: PartKey, staging: Staging, extents: Sequence[Extent], checksum: int, **fields: Any) -> list[bytes]:
    where = pb.StagedExtents(name=staging.name, nonce=staging.nonce, extents=wire.extent_messages(extents))
    known: dict[str, Any] = {"checksum": checksum, "size": sum(each.length for each in extents), "staged": where}
    return [pb.PutRequest(item=pb.PutItem(key=wire.key_message(key), **{**known, **fields})).SerializeToString()]


async def test_a_writer_of_this_host_stages_its_bytes():
    async with calling() as caller:
        with Staging(4 << 20, prefix="worldkv-test-staging") as staging:
            with staging.fill(body(3_000_000)) as filled:
                assert filled
                room, checksum = filled
                first = staged(kv(0), staging, room.extents, checksum)
                wrong = staged(kv(1), staging, room.extents, checksum ^ 1)
                assert await caller.put(first, wrong, inline(2, kv(2), body(10))) == {
                    0: Level.ONE,
                    1: "CORRUPT",
                    2: Level.ONE,
                }
                assert await caller.get(kv(0), kv(1)) == [body(3_000_000), "NEVER_STORED"]
                other = pb.StagedExtents(name=staging.name, nonce=b"x" * 16, extents=wire.extent_messages(room.extents))
                assert await caller.put(staged(kv(3), staging, room.extents, 0, staged=other)) == {0: "NOT_SHARED"}
                with pytest.raises(InvalidInput, match="not the 7 bytes"):
                    await caller.put(staged(kv(3), staging, room.extents, checksum, size=7))
                for name, words in (("../etc/passwd", "without folders"), ("", "without folders")):
                    odd = pb.StagedExtents(name=name, nonce=b"", extents=wire.extent_messages(room.extents))
                    with pytest.raises(InvalidInput, match=words):
                        await caller.put(staged(kv(3), staging, room.extents, 0, staged=odd))
                outside = [room.extents[0]._replace(offset=1 << 40)]
                with pytest.raises(InvalidInput, match="outside"):
                    await caller.put(staged(kv(3), staging, outside, checksum))
        assert (await caller.stats()).parts == 2
        await caller.shard.segments.sweep()
        assert len(caller.shard.segments) == 0


async def test_a_shard_looks_twice_at_what_a_writer_left_early(monkeypatch):
    looks: list[bool] = []

    def copying(source: Any, target: Any, steady: bool = False) -> int:
        looks.append(steady)
        found = copy_checked(source, target, steady)
        if steady:  # as if others' bytes had come between sum and copy
            target[0][:4] = b"else"
        return found

    monkeypatch.setattr("services.kvstore.puts.copy_checked", copying)
    async with calling() as caller:
        with Staging(4 << 20, prefix="worldkv-test-staging") as staging:
            room = staging.reserve(100_000)
            assert room
            digest = copy_checked([memoryview(body(100_000))], room.views)
            staging.release(room, answered=False)
            assert await caller.put(staged(kv(0), staging, room.extents, digest)) == {0: Level.ONE}
            assert looks == [True, False]
            assert await caller.get(kv(0)) == [body(100_000)]
            room.views[0][7] ^= 1
            assert await caller.put(staged(kv(1), staging, room.extents, digest)) == {0: "CORRUPT"}


async def test_a_level_that_cannot_be_had_is_refused():
    async with calling() as caller:
        for level in (chunk_pb2.LEVEL_TWO, chunk_pb2.LEVEL_REDIS):
            assert await caller.keep(kv(), body(100), level=level) == "LEVEL_DOWN"
        assert await caller.get(kv()) == ["NEVER_STORED"]
        assert await caller.keep(kv(), body(100), level=chunk_pb2.LEVEL_ONE) == Level.ONE


async def test_a_part_larger_than_the_budget_is_refused_and_what_is_after_it_kept():
    async with calling(SMALL) as caller:
        put = inline(0, kv(0), body(2 << 20)), inline(1, kv(1), body(100)), inline(2, part(2), body(2 << 20))
        assert await caller.put(*put) == {0: "NO_ROOM", 1: Level.ONE, 2: "NO_ROOM"}
        assert await caller.get(kv(0), kv(1)) == ["NEVER_STORED", body(100)]


async def test_writes_under_an_older_membership_are_refused():
    async with calling() as caller:
        assert await caller.keep(kv(0), body(10), membership=5) == Level.ONE
        assert await caller.keep(kv(1), body(10), membership=4) == "MEMBERSHIP"
        assert await caller.keep(kv(1), body(10)) == Level.ONE
        record = chunk_pb2.World(name="w", lineage=chunk_pb2.Lineage(parts=[chunk_pb2.LineagePart(branch=BRANCH)]))
        for call, request in (
            (caller.stub.Delete, pb.DeleteRequest(keys=[wire.key_message(kv(0))], membership=4)),
            (caller.stub.SwapWorld, pb.SwapWorldRequest(world=record, membership=4)),
            (caller.stub.RemoveWorld, pb.RemoveWorldRequest(name="w", membership=4)),
            (caller.stub.DeleteSnapshots, pb.DeleteSnapshotsRequest(session="s", membership=4)),
        ):
            with pytest.raises(Outdated, match="4, but 5"), rpc.translated():
                await call(request)
        assert (await caller.stats()).membership == 5
        assert await caller.get(kv(0)) == [body(10)]


BAD_GETS = {
    "too many": (pb.GetRequest(keys=[wire.key_message(kv(n)) for n in range(1025)]), "got 1025"),
    "twice": (pb.GetRequest(keys=[wire.key_message(kv(n)) for n in (7, 8, 7)]), "/7"),
    "slices": (pb.GetRequest(keys=[wire.key_message(kv())], slices=[pb.Slice()] * 2), "got 2"),
    "small pieces": (pb.GetRequest(keys=[wire.key_message(kv())], piece_bytes=3), "asked for 3"),
    "odd key": (pb.GetRequest(keys=[chunk_pb2.PartKey()]), "16 bytes"),
}


@pytest.mark.parametrize("wrong", BAD_GETS)
async def test_a_get_that_is_none_is_refused_by_its_value(wrong):
    request, words = BAD_GETS[wrong]
    async with calling() as caller:
        with pytest.raises(InvalidInput, match=words), rpc.translated():
            async for _ in caller.getting(request):
                pass


async def test_a_call_without_a_deadline_is_refused():
    async with calling() as caller, grpc.aio.insecure_channel(caller.address) as bare:
        caller.channel = bare
        with pytest.raises(InvalidInput, match="needs a deadline"), rpc.translated():
            async for _ in caller.getting(pb.GetRequest(), None):
                pass


@pytest.mark.parametrize(
    ("offset", "length", "begin", "end"),
    [(0, 0, 0, None), (0, 5, 0, 5), (1_000_000, 1_500_000, 1_000_000, 2_500_000), (2_999_999, 9, 2_999_999, None)],
)
async def test_a_slice_is_these_bytes_of_the_part(offset, length, begin, end):
    data = body(3_000_000)[:3_000_000]
    async with calling() as caller:
        await caller.keep(kv(), data)
        assert await caller.get(kv(), slices=[pb.Slice(offset=offset, length=length)]) == [data[begin:end]]
        assert await caller.get(kv(), slices=[pb.Slice(offset=1 << 40)]) == [b""]


async def test_a_byte_flipped_in_memory_is_a_counted_miss_for_who_asks_to_verify():
    async with calling() as caller:
        await caller.keep(kv(), body(100_000))
        held = caller.shard.tiers.ram.find("default", kv())
        (view,) = caller.shard.tiers.ram.arena.views(held.extents)
        view[777] ^= 1
        assert (await caller.get(kv()))[0] != body(100_000)
        assert await caller.get(kv(), verify=True) == ["CORRUPT"]
        assert await caller.get(kv()) == ["CORRUPT"]
        assert await caller.keep(kv(), body(100_000)) == Level.ONE
        assert await caller.get(kv(), verify=True) == [body(100_000)]


async def test_several_slices_of_a_part_come_in_the_order_asked_for():
    data = body(300_000)
    async with calling() as caller:
        await caller.keep(kv(), data)
        slices = [pb.Slice(offset=at, length=length) for at, length in ((200_000, 10), (0, 5), (299_999, 50))]
        assert await caller.get(*[kv()] * 3, slices=slices) == [data[200_000:200_010], data[:5], data[-1:]]


async def test_a_put_given_up_in_the_middle_leaves_nothing():
    async with calling() as caller:

        async def slowly() -> AsyncIterator[bytes]:
            yield item(kv(), body(3_000_000), 1 << 20).SerializeToString()
            yield next(iter(wire.pieces(0, [memoryview(body(3_000_000))], 1 << 20)))
            await asyncio.sleep(60)

        call = caller.putting(slowly())
        await until(lambda: caller.shard.tiers.ram.stats().reserved_bytes)
        call.cancel()
        await until(lambda: not caller.shard.tiers.ram.stats().reserved_bytes)
        assert (await caller.stats()).parts == 0


async def test_a_get_given_up_in_the_middle_pins_nothing():
    async with calling() as caller:
        await caller.keep(kv(), body(6_000_000))
        call = caller.getting(pb.GetRequest(keys=[wire.key_message(kv())], piece_bytes=1 << 16))
        await call.read()
        held = caller.shard.tiers.ram.find("default", kv())
        call.cancel()
        await until(lambda: not held.pins)


async def test_a_part_deleted_while_it_is_sent_arrives_whole_and_its_room_comes_back():
    data = body(6_000_000)
    async with calling() as caller:
        await caller.keep(kv(), data)
        ram, request = caller.shard.tiers.ram, pb.GetRequest(keys=[wire.key_message(kv())])
        gets = Gets(caller.shard.tiers, caller.shard.metrics, CONFIG.serving)
        answers = gets.serve("default", gets.wanted(request), 10)
        await anext(answers)
        await caller.stub.Delete(pb.DeleteRequest(keys=request.keys))
        assert ram.stats().pinned_bytes == len(data)
        assert b"".join([wire.piece(frame).data async for frame in answers]) == data
        assert ram.stats().pinned_bytes == 0


async def test_stats_and_metrics_tell_what_happened():
    config = replace(CONFIG, service=replace(CONFIG.service, metrics=""))
    async with calling(config) as caller:
        await caller.keep(part(), body(100), membership=3)
        await caller.get(part(), kv())
        stats = await caller.stats()
        assert (stats.shard, stats.membership, stats.level) == ("a", 3, chunk_pb2.LEVEL_ONE)
        assert (stats.used_bytes, stats.budget_bytes, stats.parts, stats.waiting) == (100, 8 << 20, 1, 0)
        caller.shard.metrics.refresh(caller.shard.tiers, caller.shard.tiers.ram.stats())

        def value(name: str, **labels: str) -> float | None:
            return caller.registry.get_sample_value(f"worldkv_kvstore_{name}", labels)

        assert value("hits_total", part="part", tier="ram") == 1
        assert value("misses_total", part="kv", reason="never stored") == 1
        assert value("bytes_total", direction="in", way="inline") == 100
        assert value("used_bytes") == 100


async def test_a_shard_that_nobody_asks_looks_for_garbage(monkeypatch):
    class Circle:
        def __init__(self) -> None:
            self.own = self

    monkeypatch.setattr("services.kvstore.server.GIVE_BACK_SECONDS", 0.02)
    gc.disable()
    try:
        async with calling() as shard:
            await shard.get(part())
            gone = weakref.ref(Circle())
            await until(lambda: gone() is None)
    finally:
        gc.enable()
