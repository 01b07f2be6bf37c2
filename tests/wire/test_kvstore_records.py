"""World records and session states of a shard, with a Redis that goes away, and over the wire."""

import asyncio
from typing import Any

import pytest
import xxhash

from services.kvstore import server
from services.kvstore.records import Records, Tenants, TieredCatalog
from tests.wire.shard import BRANCH, Caller, body, calling, part, until
from tests.wire.test_kvstore_tiers import Below
from worldkv import rpc, wire
from worldkv.catalog import RamCatalog, RamSnapshots, World
from worldkv.chunk import Lineage
from worldkv.errors import ChecksumMismatch, Conflict, InvalidInput, NotFound, OverBudget, Unavailable
from worldkv.format import join
from worldkv.store import Level
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb


def world(name: str = "room", chunks: int = 0) -> World:
    return World(name, Lineage.begin(BRANCH), chunks=chunks)


class Failing:
    """Whatever it stands before, unless it is down."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.down = inner, False

    def __getattr__(self, name: str) -> Any:
        if self.down and name != "list":
            raise Unavailable("down")
        return getattr(self.inner, name)


async def test_while_redis_is_away_records_are_read_as_they_were_seen_and_nothing_is_written():
    lower = Failing(RamCatalog())
    worlds = TieredCatalog(lower)
    await worlds.swap("room", 0, world())
    lower.down = True
    assert (await worlds.read("room")).level == Level.ONE
    writing = [worlds.swap("room", n, world(chunks=n)) for n in (0, 1, 2)]
    for nobody in (*writing, worlds.remove("room"), worlds.read("other"), worlds.swap("other", 0, world("other"))):
        with pytest.raises(Unavailable):
            await nobody
    lower.down = False
    await lower.swap("room", 1, world(chunks=100))  # by another shard
    assert (await worlds.read("room")).world.chunks == 100
    with pytest.raises(Conflict):
        await worlds.swap("room", 1, world())
    assert (await worlds.swap("room", 2, world(chunks=101))).world.version == 3
    assert worlds.waiting == []


async def test_what_redis_lost_is_written_again_with_its_version_unless_another_wrote_a_newer_one():
    lower = Failing(RamCatalog())
    worlds = TieredCatalog(lower)
    for name in ("room", "hall"):
        for version in range(3):
            await worlds.swap(name, version, world(name, chunks=version))
    lower.inner = RamCatalog()
    lower.down = True
    worlds.lost()
    assert (await worlds.read("room")).world.chunks == 2
    with pytest.raises(Unavailable, match="has lost it"):
        await worlds.swap("room", 3, world())
    with pytest.raises(Unavailable, match="has lost it"):
        await anext(worlds.list())
    assert [each.name for each in worlds.waiting] == ["hall", "room"]
    lower.down = False
    for version in range(4):
        await lower.inner.swap("hall", version, world("hall", chunks=100))
    await worlds.settle()
    found = [(each.name, each.version, each.chunks) async for each in worlds.list()]
    assert found == [("hall", 4, 100), ("room", 3, 2)]
    assert worlds.waiting == []


@pytest.mark.parametrize("call", ["read", "remove"])
async def test_what_redis_loses_while_it_is_asked_for_is_written_again_or_gone(call, monkeypatch):
    lower = Held(RamCatalog())
    worlds = TieredCatalog(lower)
    lower.asked = True
    for name in ("room", "hall"):
        await worlds.swap(name, 0, world(name))
    lower.asked = False

    async def remove(name: str, expected: int) -> None:
        lower.asked = True
        await lower.flow.wait()

    monkeypatch.setattr(lower, "remove", remove, raising=False)
    asking = asyncio.create_task(worlds.read("room") if call == "read" else worlds.remove("room", 1))
    await until(lambda: lower.asked)
    lower.inner = RamCatalog()
    worlds.lost()
    lower.flow.set()
    await asyncio.gather(asking, return_exceptions=True)
    await worlds.settle()
    assert [each.name async for each in worlds.list()] == (["hall", "room"] if call == "read" else ["hall"])


async def test_a_world_that_went_on_from_where_it_was_written_again_is_left_alone():
    lower = Failing(RamCatalog())
    worlds, record = TieredCatalog(lower), world()
    for version in range(5):
        await worlds.swap("room", version, record)
    lower.inner = RamCatalog()
    worlds.lost()
    await lower.inner.swap("room", 0, record)  # another shard had seen it
    forked = World("room", record.lineage.fork(3))
    await lower.inner.swap("room", 1, forked)
    await worlds.settle()
    assert (await worlds.read("room")).world.lineage == forked.lineage


async def test_no_world_is_removed_while_redis_is_away_and_one_that_redis_lost_comes_back():
    lower = Failing(RamCatalog())
    worlds = TieredCatalog(lower)
    await worlds.swap("room", 0, world())
    await worlds.swap("hall", 0, world("hall"))
    lower.down = True
    with pytest.raises(Unavailable):
        await worlds.remove("room", 1)
    assert (await worlds.read("room")).world.version == 1
    lower.down = False
    await worlds.remove("room", 1)
    with pytest.raises(NotFound):
        await worlds.read("room")
    lower.inner = RamCatalog()
    worlds.lost()
    await worlds.settle()
    assert [each.name async for each in lower.list()] == ["hall"]


async def test_no_state_is_saved_while_redis_is_away():
    worlds, states = Failing(RamCatalog()), Failing(RamSnapshots(1000))
    async with calling(records=lambda tenant: Records(worlds, states)) as caller:
        assert await save(caller, snapshot(b"one")) == Level.ONE
        states.down = True
        with pytest.raises(Unavailable):
            await save(caller, snapshot(b"two"))
        states.down = False
        assert await save(caller, snapshot(b"three")) == Level.ONE
    assert [join((await states.load("s", previous)).state) for previous in (False, True)] == [b"three", b"one"]


async def test_what_redis_lost_is_written_again_when_a_shard_ends(monkeypatch):
    monkeypatch.setattr(server, "TICK_SECONDS", 1000.0)
    worlds = Failing(RamCatalog())
    async with calling(records=lambda tenant: Records(worlds, RamSnapshots(1000))) as caller:
        await caller.shard.records("default").worlds.swap("room", 0, world())
        worlds.inner = RamCatalog()
        caller.shard.records.lost()
    assert (await worlds.read("room")).world.version == 1


async def test_a_redis_that_takes_no_records_stops_neither_the_shard_nor_its_end(monkeypatch, caplog):
    class Full(Failing):
        full = False

        async def swap(self, name: str, expected: int, record: World) -> Any:
            if self.full and name != "small":
                raise OverBudget("full")
            return await self.inner.swap(name, expected, record)

    monkeypatch.setattr(server, "TICK_SECONDS", 0.01)
    below, worlds = Below(), Full(RamCatalog())
    async with calling(lower=below, records=lambda tenant: Records(worlds, RamSnapshots(1000))) as caller:
        tiered = caller.shard.records("default").worlds
        assert isinstance(tiered, TieredCatalog)
        for name in ("room", "small"):
            await tiered.swap(name, 0, world(name))
        below.down, worlds.full, worlds.inner = True, True, RamCatalog()
        caller.shard.records.lost()
        await until(lambda: [each.name for each in tiered.waiting] == ["room"])
        await caller.keep(part(), body(1000))
        tenants = {"tenant": "default"}
        await until(lambda: caller.registry.get_sample_value("worldkv_kvstore_tenant_bytes", tenants) == 1000)
        assert [each.levelname for each in caplog.records if "'room' is not in Redis" in each.message] == ["WARNING"]
        below.down = False
    assert below.held.keys() == {("default", part())}
    assert (await worlds.read("small")).world.version == 1
    assert "records are not in Redis at the end" in caplog.text


async def test_a_damaged_record_keeps_no_other_from_redis():
    class Damaged(Failing):
        async def read(self, name: str) -> Any:
            if self.down:
                raise Unavailable("down")
            if name == "room":
                raise ChecksumMismatch("not what was written")
            return await self.inner.read(name)

    lower = Damaged(RamCatalog())
    tenants = Tenants(1000, lambda tenant: Records(lower, Failing(RamSnapshots(1000))))
    worlds = tenants("default").worlds
    for name in ("room", "hall"):
        await worlds.swap(name, 0, world(name))
    lower.inner = RamCatalog()
    tenants.lost()
    with pytest.raises(Unavailable, match="does not take 1 world records"):
        await tenants.settle()
    assert (await lower.inner.read("hall")).world.name == "hall"
    assert (await worlds.read("room")).world.name == "room"


class Held(Failing):
    """Answers the first call only when `flow` is set."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.flow, self.asked = asyncio.Event(), False

    async def read(self, name: str) -> Any:
        if self.down:
            raise Unavailable("down")
        first, self.asked = not self.asked, True
        if first:
            await self.flow.wait()
        return await self.inner.read(name)


async def test_a_world_removed_while_it_is_written_up_does_not_come_back():
    lower = Held(RamCatalog())
    worlds = TieredCatalog(lower)
    await worlds.swap("room", 0, world())
    lower.inner = RamCatalog()
    worlds.lost()
    lower.asked = False
    writing = asyncio.create_task(worlds.settle())
    await until(lambda: lower.asked)
    removing = asyncio.create_task(worlds.remove("room"))
    await asyncio.sleep(0.01)
    lower.flow.set()
    await asyncio.gather(writing, removing)
    with pytest.raises(NotFound):
        await worlds.read("room")


async def test_worlds_over_the_wire():
    async with calling() as caller:
        stub = caller.stub
        for name in ("b", "a", "c"):
            message = wire.world_message(world(name))
            answer = await stub.SwapWorld(pb.SwapWorldRequest(world=message))
            assert (answer.world.version, answer.level) == (1, Level.ONE)
        assert (await stub.ReadWorld(pb.ReadWorldRequest(name="a"))).world.name == "a"
        page = await stub.ListWorlds(pb.ListWorldsRequest(page_size=2))
        assert ([each.name for each in page.worlds], page.next_page_token) == (["a", "b"], "b")
        page = await stub.ListWorlds(pb.ListWorldsRequest(page_size=2, page_token="b"))
        assert ([each.name for each in page.worlds], page.next_page_token) == (["c"], "")
        for error, request in (
            (Conflict, pb.SwapWorldRequest(world=wire.world_message(world("a")), expected=7)),
            (InvalidInput, pb.SwapWorldRequest(world=chunk_pb2.World(name="a"))),
            (InvalidInput, pb.SwapWorldRequest(world=wire.world_message(world("a")), expected=1 << 63)),
        ):
            with pytest.raises(error), rpc.translated():
                await stub.SwapWorld(request)
        await stub.RemoveWorld(pb.RemoveWorldRequest(name="a"))
        for kind, name in ((NotFound, "a"), (InvalidInput, ""), (InvalidInput, "x" * 200)):
            with pytest.raises(kind), rpc.translated():
                await stub.ReadWorld(pb.ReadWorldRequest(name=name))


def snapshot(state: bytes, **wrong: Any) -> list[bytes]:
    known: dict[str, Any] = {"session": "s", "chunks": 3, "size": len(state)}
    head = pb.SnapshotHead(**{**known, "checksum": xxhash.xxh3_64_intdigest(state), **wrong})
    return [
        pb.SaveSnapshotRequest(head=head).SerializeToString(),
        *wire.pieces(0, [memoryview(state)], wire.PIECE_BYTES),
    ]


async def save(caller: Caller, frames: list[bytes]) -> int:
    call = caller.channel.stream_unary("/worldkv.v1.KVStore/SaveSnapshot", None, pb.SaveSnapshotResponse.FromString)
    with rpc.translated():
        return int((await call(iter(frames), timeout=10)).level)


async def test_states_of_sessions_over_the_wire():
    async with calling() as caller:
        for state in (b"", body(2_500_000)):
            assert await save(caller, snapshot(state)) == Level.ONE
        call = caller.channel.unary_stream("/worldkv.v1.KVStore/LoadSnapshot", pb.LoadSnapshotRequest.SerializeToString)
        for previous, state in ((False, body(2_500_000)), (True, b"")):
            head, *rest = [wire.load_response(frame) async for frame in call(
                pb.LoadSnapshotRequest(session="s", previous=previous), timeout=10
            )]  # fmt: skip
            assert (head.size, head.chunks) == (len(state), 3)
            assert b"".join(piece.data for piece in rest) == state
        for words, frames in (
            ("ended after 0 of 5", snapshot(b"12345")[:1]),
            ("begins with a head", snapshot(b"12345")[1:]),
            ("checksum", snapshot(b"12345", checksum=1)),
            ("came 5", snapshot(b"12345", size=4)),
            ("second head", snapshot(b"12345")[:1] * 2),
            ("over the limit", snapshot(b"", size=1 << 40)),
            ("name of a session", snapshot(b"", session="")),
        ):
            with pytest.raises(Exception, match=words):
                await save(caller, frames)
        assert (await caller.stub.DeleteSnapshots(pb.DeleteSnapshotsRequest(session="s"))).dropped == 2
