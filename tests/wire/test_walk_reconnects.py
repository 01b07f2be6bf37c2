"""How long the client of walks looks for a session that it lost, and what it makes of one that went on elsewhere."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from grpc import StatusCode, aio

from tests.wire.test_walk_client import service
from tests.wire.toy_sessions import FRAMES, Sitting, ToySessions, serving
from worldkv.actions import Action
from worldkv.client import WalkClient, WalkClientConfig
from worldkv.client.walk_events import Drawn, Event, Notice, NoticeKind, Remembered
from worldkv.client.walk_line import Link, WalkLine
from worldkv.errors import Unavailable, WorldKVError

TURN = Action(turn=9.0)


async def test_who_cannot_be_reached_for_too_long_is_given_up():
    toy, config = ToySessions(), WalkClientConfig(reconnect_seconds=0.2)
    async with serving(toy) as address:
        client = WalkClient(address, config=config)
        opening = client.open()
        walk = await opening.__aenter__()
        await walk.move(TURN)
    with pytest.raises(Unavailable, match=r"answers on|cut"):
        await walk.move(TURN)
    await opening.__aexit__(None, None, None)
    await client.close()


async def test_a_walk_that_breaks_after_every_join_is_given_up():
    toy, config = ToySessions(cuts=[2] * 10_000, deaf=True, greets=True), WalkClientConfig(reconnect_seconds=0.3)
    async with serving(toy) as address, WalkClient(address, config=config) as client, asyncio.timeout(20):
        opening = client.open()
        walk = await opening.__aenter__()
        with pytest.raises(Unavailable, match="cut"):
            await walk.move(TURN)
        await opening.__aexit__(None, None, None)
    assert len(toy.joins) > 1


@pytest.mark.slow
async def test_a_walk_in_which_nothing_is_asked_outlives_any_number_of_losses():
    toy, config = ToySessions(), WalkClientConfig(reconnect_seconds=0.2)
    async with serving(toy) as address, WalkClient(address, config=config) as client, client.open() as walk:
        events = walk.events()
        for _ in range(3):
            await asyncio.sleep(2 * config.reconnect_seconds)
            toy.sittings[walk.session].out.put_nowait(Unavailable("cut"))
            while (await anext(events)).kind is not NoticeKind.RECONNECTED:
                pass
        assert (await walk.move(TURN)).key.index == 0


async def test_silence_is_broken_by_a_new_connection():
    toy = ToySessions(deaf=True)
    config = WalkClientConfig(silence_seconds=0.1)
    async with serving(toy) as address, WalkClient(address, config=config) as client, client.open() as walk:
        events = walk.events()
        moving = asyncio.create_task(walk.move(TURN))
        async for event in events:
            if isinstance(event, Notice) and event.kind is NoticeKind.RECONNECTED:
                toy.deaf = False
                break
        assert (await moving).key.index == 0


class Torn:
    """A call that ends with a status of gRPC's own."""

    def __init__(self, code: StatusCode, details: str) -> None:
        self.error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details)

    async def write(self, _: object) -> NoReturn:
        raise asyncio.InvalidStateError

    def cancel(self) -> None:
        pass

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> NoReturn:
        raise self.error


@pytest.mark.parametrize(
    ("code", "details", "kind", "words"),
    [
        (StatusCode.INTERNAL, "Internal error from Core", Unavailable, "the connection broke: INTERNAL: Internal"),
        (StatusCode.UNKNOWN, "Stream removed", Unavailable, "the connection broke: UNKNOWN: Stream removed"),
        (StatusCode.INTERNAL, "internal error", WorldKVError, "INTERNAL: internal error"),
        (StatusCode.UNIMPLEMENTED, "Method not found!", WorldKVError, "UNIMPLEMENTED: Method not found!"),
    ],
)
async def test_a_walk_that_broke_inside_grpc_is_lost_and_no_bug(monkeypatch, code, details, kind, words):
    link = Link("localhost:1", WalkClientConfig(reconnect_seconds=0.0))
    monkeypatch.setattr(link, "stub", SimpleNamespace(Walk=lambda metadata: Torn(code, details)))
    line = WalkLine(link, "session", asyncio.sleep, lambda *_: None)
    with pytest.raises(kind, match=re.escape(words)) as told:
        await line.run()
    await link.channel.close()
    assert type(told.value) is kind


async def test_a_walk_goes_on_elsewhere_from_what_was_kept():
    async with service() as (toy, client), client.open() as walk:
        events = walk.events()
        before = [each async for each in walk.path([TURN] * FRAMES * 4)]
        toy.sittings[walk.session].move(2)
        after = await walk.move(TURN)
        assert after.key.index == 2, "drawn a second time, for it was not kept the first time"
        assert after.key.branch != before[2].key.branch
        assert walk.next == 3
        told = [await anext(events) for _ in range(15)]
        assert Notice(NoticeKind.MOVED, 2, "elsewhere") in told


async def cut(made: Sitting, events: AsyncIterator[Event]) -> None:
    """Break the connection of a walk, and wait until it knows."""
    made.out.put_nowait(Unavailable("cut"))
    async for event in events:
        if isinstance(event, Notice) and event.kind is NoticeKind.DISCONNECTED:
            return


@pytest.mark.parametrize("drawn_meanwhile", [0, 1, 2])
async def test_a_walk_that_moved_while_nobody_was_joined_misses_nothing(drawn_meanwhile):
    async with service() as (toy, client), client.open() as walk:
        before = [each async for each in walk.path([TURN] * FRAMES * 4)]
        events, made = walk.events(), toy.sittings[walk.session]
        await cut(made, events)
        made.move(2)
        for _ in range(drawn_meanwhile):
            made.draw([TURN] * FRAMES, 0)
        last = await walk.move(TURN)
        await walk.close()
        told = [each.key async for each in events if isinstance(each, Drawn)]
        assert told == [made.world.lineage.key(2 + i) for i in range(drawn_meanwhile + 1)]
        assert told[-1] == last.key
        assert not {each.key for each in before} & {*told}


async def test_a_walk_that_moved_twice_while_nobody_was_joined_misses_nothing():
    async with service(greets=True) as (toy, client), client.open() as walk:
        before = [each async for each in walk.path([TURN] * FRAMES * 4)]
        events, made = walk.events(), toy.sittings[walk.session]
        await cut(made, events)
        made.move(3)
        made.draw([TURN] * FRAMES, 0)
        made.world = replace(made.world, lineage=made.world.lineage.fork(4))  # it slept, or moved again
        last = await walk.move(TURN)
        await walk.close()
        told = [each async for each in events]
    assert [each.key for each in told if isinstance(each, Drawn)] == [made.world.lineage.key(3), last.key]
    assert before[3].key != made.world.lineage.key(3)
    assert last.key == made.world.lineage.key(4)
    moved = [place for place, each in enumerate(told) if isinstance(each, Notice) and each.kind is NoticeKind.MOVED]
    assert [told[place].chunk for place in moved] == [3]
    kept = [place for place, each in enumerate(told) if isinstance(each, Remembered) and each.end > 3]
    assert moved[0] < kept[0], "who holds another chunk 3 is told so before he hears that a chunk 3 is kept"
