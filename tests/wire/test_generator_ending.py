"""Sessions that end: what they held is let go of, and what was kept of them can be walked on from."""

import asyncio

import pytest

from services.generator import server
from tests.wire.generator import generating, inside
from tests.wire.shard import until
from tests.wire.test_generator_moving import WALK, steps
from worldkv.errors import Conflict, NotFound


async def test_a_session_that_was_closed_meanwhile_is_not_rewound():
    tiers = inside()
    async with generating(tiers) as caller:
        session, live = (await caller.open(**WALK)).session, caller.made.live
        await steps(caller, session, 2)
        walking = live.find("default", session)
        async with walking.lock:
            closing = asyncio.create_task(live.close("default", session))
            await asyncio.sleep(0)
            rewinding = asyncio.create_task(live.rewind(walking, 1))
            await asyncio.sleep(0)
        await closing
        with pytest.raises(NotFound, match="closed"):
            await rewinding
        with pytest.raises(NotFound):
            await tiers("default").snapshots.load(session)


@pytest.mark.parametrize("way", ["Suspend", "Close", "nothing", "a move"])
async def test_a_session_whose_chunk_will_never_be_kept_goes_on_from_the_last_that_was(way, monkeypatch):
    async def refuse(items):
        raise Conflict("for ever")

    tiers = inside()
    async with generating(tiers, idle_seconds=0.5) as caller:
        opened = await caller.open(**WALK, lockstep=False)
        walking = caller.made.live.find("default", opened.session)
        async with caller.walk(opened.session) as walk:
            await walk.step()
            await until(lambda: walking.resident.kept.end == 1)
            monkeypatch.setattr(tiers("default").store, "put", refuse)
            await walk.step()
            await until(lambda: walking.resident.memory.refused)
            if way == "a move":
                await walk.move()
            elif way != "nothing":
                with pytest.raises(Conflict):
                    await caller.call(way, session=opened.session)
            with pytest.raises(Conflict, match="for ever"):
                await walk.ended()
        await until(lambda: not caller.made.live.maker.engine.resident_bytes)
        monkeypatch.undo()
        resumed = (await caller.call("Resume", session=opened.session)).opened
        assert (resumed.next, resumed.world.name) == (1, opened.world.name)


@pytest.mark.parametrize("way", ["Suspend", "Close"])
async def test_free_memory_is_given_back_when_a_session_lets_go_of_its_own(way, monkeypatch):
    given = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(server, "_give_back", lambda: loop.call_soon_threadsafe(given.set))
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        assert not given.is_set()
        await caller.call(way, session=session)
        await asyncio.wait_for(given.wait(), 20)
