"""What a client sees of walks besides its own: as one who watches, who looks again, who takes a world along."""

import asyncio

import numpy as np
import pytest

from tests.wire.test_walk_client import service
from tests.wire.toy_sessions import FRAMES, HEIGHT, WIDTH
from worldkv.actions import Action
from worldkv.client import WalkClient
from worldkv.client.walk_events import Applied, Drawn, Remembered
from worldkv.client.walk_line import WalkLine
from worldkv.errors import NotFound
from worldkv.wire_sessions import watch_id


async def test_somebody_else_watches():
    async with (
        service() as (_, client),
        client.open(tour="R30") as walk,
        client.watch(watch_id(walk.session)) as watched,
    ):
        assert watched.opened.session == watch_id(walk.session)
        first = await anext(watched)
        assert isinstance(first, Drawn)
        assert (first.key.index, first.pictures.shape) == (0, (FRAMES, HEIGHT, WIDTH, 3))
        own = await walk.move(Action(forward=1))
        while not (isinstance(event := await anext(watched), Drawn) and event.key == own.key):
            pass
        assert np.array_equal(event.pictures, own.pictures)
        assert watched.next == walk.next
        with pytest.raises(NotFound):
            async with client.watch(watch_id("nobody")):
                pass


async def test_who_stops_waiting_for_an_event_misses_none():
    async with service() as (_, client), client.open() as walk, client.watch(watch_id(walk.session)) as watched:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watched), 0.01)
        await walk.move(Action(forward=1))
        kinds = [type(await anext(watched)) for _ in range(3)]
        assert kinds == [Applied, Drawn, Remembered]


async def test_who_gives_up_before_it_begins_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    began, ended = asyncio.Event(), asyncio.Event()

    async def run(line: WalkLine) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(WalkLine, "run", run)
    async with WalkClient("localhost:1") as client:
        watching = asyncio.create_task(client.watch("w").__aenter__())
        await began.wait()
        watching.cancel()
        await asyncio.wait([watching])
    assert ended.is_set()


async def test_chunks_are_seen_again_and_worlds_taken_along():
    async with service() as (_, client), client.open(world="rooms", tour="R90") as walk:
        seen = [each async for each in walk.look(1, 2)]
        assert [(each.key.index, each.kept, len(each.pictures)) for each in seen] == [(1, "kept", 1), (2, "kept", 1)]
        (first,) = [each async for each in client.look(walk.session, count=1, pictures=None)]
        assert (first.kept, len(first.pictures), first.pictures_per_second) == ("demoted", FRAMES, 30)
        assert [world.name for world in await client.worlds()] == ["rooms"]
        assert b"".join([piece async for piece in client.export("rooms")]) == b"roomsand its chunks"
        with pytest.raises(NotFound):
            await anext(client.export("nowhere"))
