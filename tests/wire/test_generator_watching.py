"""A generator seen from aside: watchers, chunks seen again, worlds listed and taken along."""

import io
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.generator.config import LiveConfig
from services.generator.live.watching import Watchers
from tests.wire.generator import Stream, generating, inside
from worldkv import rpc, wire
from worldkv.errors import InvalidInput, NotFound, OverBudget, Unavailable
from worldkv.store import PartKey
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import watch_id
from worldkv.worlds import export_world


@asynccontextmanager
async def watching(caller, opened, seen=0):
    stream = Stream(caller.sessions.Walk(metadata=caller.metadata))
    await stream.say(join=pb.Join(session=opened.watch, seen=seen, watch=True))
    try:
        yield stream
    finally:
        stream.close()


async def told(call: Any) -> list[Any]:
    with rpc.translated():
        return [answer async for answer in call]


async def test_watchers_are_told_what_the_walker_is_told():
    async with generating() as caller:
        opened = await caller.open()
        assert opened.watch == watch_id(opened.session)
        watches = partial(watching, caller, opened)
        async with caller.walk(opened.session) as walker, watches() as one, watches() as two:
            joined = await one.next("joined")
            assert joined.session == opened.watch
            await two.next("joined")
            drawn = await walker.steps(3)
            for watcher in (one, two):
                assert [await watcher.next("drawn") for _ in drawn] == drawn
                assert not any(opened.session.encode() in each.SerializeToString() for each in watcher.told)
            (resident,) = (await caller.call("GeneratorStats")).sessions
            assert (resident.watch, resident.joined) == (opened.watch, True)
        async with watches(seen=2) as late:
            assert (await late.next("drawn")).key.index == 2


@pytest.mark.parametrize("said", [{"move": pb.Move(actions=[pb.Action()])}, {"hold": pb.Hold()}, {"join": pb.Join()}])
async def test_who_watches_has_no_effect(said):
    async with generating() as caller:
        opened = await caller.open()
        async with caller.walk(opened.session) as walker, watching(caller, opened) as watcher:
            await watcher.next("joined")
            await watcher.say(**said)
            with pytest.raises(InvalidInput, match="no effect"):
                await watcher.ended()
            assert (await walker.step()).key.index == 0


async def test_a_session_is_found_by_watchers_of_its_tenant_alone():
    async with generating() as caller:
        opened = await caller.open()
        for stranger, watch in ((caller.of("other"), opened.watch), (caller, "w" + 32 * "0"), (caller, opened.session)):
            opened.watch = watch
            async with watching(stranger, opened) as watcher:
                with pytest.raises(NotFound):
                    await watcher.ended()


async def test_watchers_are_few_and_told_when_it_ends():
    async with generating(watchers=2) as caller:
        opened = await caller.open()
        async with watching(caller, opened) as one, watching(caller, opened) as two:
            for each in (one, two):
                await each.next("joined")
            async with watching(caller, opened) as three:
                with pytest.raises(OverBudget, match="2 watch"):
                    await three.ended()
            two.close()
            await caller.call("Suspend", session=opened.session)
            with pytest.raises(Unavailable, match="sleeps"):
                await one.ended()
        async with caller.walk(opened.session) as walker, watching(caller, opened) as asleep:
            await asleep.next("joined")
            await walker.step()
            assert (await asleep.next("drawn")).key.index == 0
            await caller.call("Rewind", session=opened.session, at=0)
            with pytest.raises(Unavailable, match="taken back"):
                await asleep.ended()
        async with watching(caller, opened) as last:
            await last.next("joined")
            await caller.call("Close", session=opened.session)
            await last.ended()


async def test_a_slow_watcher_misses_pictures_and_then_all():
    watchers = Watchers(LiveConfig(behind_bytes=100, watch_behind=10))
    slow = watchers.join(())
    chunk = pb.WalkResponse(drawn=pb.Drawn(pictures=[pb.Picture(data=bytes(60))]))
    before = chunk.SerializeToString()
    for _ in range(9):
        watchers.put(chunk)
    assert (slow.dropped, len(watchers)) == (8, 1), "pictures of the newest chunk may wait"
    assert chunk.SerializeToString() == before, "others may still be sent it"
    watchers.put(chunk)
    assert len(watchers) == 0
    with pytest.raises(OverBudget, match="wait for this watcher"):
        await anext(slow.messages())


async def test_chunks_are_seen_again():
    tiers = inside()
    async with generating(tiers, looking_share=1.0) as caller:
        opened = await caller.open(world="rooms", format=pb.PICTURE_FORMAT_RGB8)
        async with caller.walk(opened.session) as walker:
            drawn = await walker.steps(5)
            while (await walker.next("remembered")).end < 5:
                pass
        (walking,) = caller.made.live
        await walking.resident.memory.settle()
        store, keys = tiers("default").store, [wire.chunk_of(each.key) for each in drawn]
        await store.delete([PartKey(keys[2], "kv")])
        seen = await told(caller.sessions.Look(pb.LookRequest(session=opened.session, pictures=1 << 16)))
        assert [each.key for each in seen] == [each.key for each in drawn]
        assert [list(each.poses) for each in seen] == [list(each.poses) for each in drawn]
        assert [each.state for each in seen] == [pb.CHUNK_STATE_KEPT] * 2 + [2] + [pb.CHUNK_STATE_KEPT] * 2
        for again, first in zip(seen, drawn, strict=True):
            assert len(again.pictures) == len(first.pictures)
            for one, other in zip(again.pictures, first.pictures, strict=True):
                array = np.asarray(Image.open(io.BytesIO(one.data))).astype(int)
                true = np.frombuffer(other.data, np.uint8).reshape(array.shape).astype(int)
                assert abs(array - true).mean() < 6
        wanted = pb.LookRequest(session=opened.watch, at=3, count=9, height=8, pictures=2)
        small = await told(caller.sessions.Look(wanted))
        assert [each.key.index for each in small] == [3, 4]
        assert [(each.width, each.height) for each in small[0].pictures] == [(12, 8)] * 2
        assert not (await told(caller.sessions.Look(pb.LookRequest(session=opened.session))))[0].pictures
        await store.delete([PartKey(keys[1], "part")])
        seen = await told(caller.sessions.Look(pb.LookRequest(session=opened.session, count=3, pictures=1)))
        assert [(each.state, len(each.pictures)) for each in seen] == [(1, 1), (3, 0), (2, 1)]
        with pytest.raises(NotFound):
            await told(caller.sessions.Look(wanted, metadata=caller.of("other").metadata))


async def test_worlds_are_listed_by_pages_and_exported(tmp_path):
    tiers = inside()
    async with generating(tiers) as caller:
        for name in ("b", "a", "c"):
            opened = await caller.open(world=name)
            async with caller.walk(opened.session) as walker:
                await walker.steps(2)
            await caller.call("Close", session=opened.session)
        first = await caller.call("Worlds", page_size=2)
        assert ([each.name for each in first.worlds], first.next_page_token) == (["a", "b"], "b")
        assert first.worlds[0].chunks == 2
        rest = await caller.call("Worlds", page_size=2, page_token="b")
        assert ([each.name for each in rest.worlds], rest.next_page_token) == (["c"], "")
        assert not (await caller.of("other").call("Worlds")).worlds
        tier = tiers("default")
        await export_world(tier.store, tier.worlds, "b", tmp_path / "b.wkw")
        pieces = await told(caller.sessions.Export(pb.ExportRequest(world="b")))
        assert b"".join(each.data for each in pieces) == (tmp_path / "b.wkw").read_bytes()
        for world, error in (("nowhere", NotFound), ("~x", InvalidInput)):
            with pytest.raises(error):
                await told(caller.sessions.Export(pb.ExportRequest(world=world)))
        with pytest.raises(NotFound):
            await told(caller.sessions.Export(pb.ExportRequest(world="b"), metadata=caller.of("other").metadata))
