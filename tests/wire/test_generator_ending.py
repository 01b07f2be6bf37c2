"""Sessions that end: what they held is let go of, and what was kept of them can be walked on from."""

import asyncio

import pytest

from services.generator import server
from services.generator.live.table import Live
from tests.wire.generator import generating, inside
from tests.wire.shard import until
from tests.wire.test_generator_moving import WALK, steps
from worldkv import tasks
from worldkv.errors import Conflict, NotFound, Unavailable


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
            await walk.move()
            await until(lambda: walking.resident.memory is None or walking.resident.memory.refused)
            if way == "a move":
                if walking.ended is None:  # it may have ended by itself
                    await walk.move()
            elif way != "nothing":
                with pytest.raises((Conflict, NotFound)):  # it may have ended by itself
                    await caller.call(way, session=opened.session)
            with pytest.raises(Conflict, match="for ever"):
                await walk.ended()
        await until(lambda: not caller.made.live.maker.engine.resident_bytes)
        monkeypatch.undo()
        resumed = (await caller.call("Resume", session=opened.session)).opened
        assert (resumed.next, resumed.world.name) == (1, opened.world.name)


async def test_a_session_that_a_defect_ended_comes_back_when_it_has_let_go(monkeypatch, caplog):
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        live, gate = caller.made.live, asyncio.Event()
        resident = live.find("default", session).resident
        let_go = resident.let_go

        async def let_go_slowly():
            await gate.wait()
            await let_go()

        def break_down(*_):
            raise RuntimeError("a defect")

        monkeypatch.setattr(resident, "let_go", let_go_slowly)
        async with caller.walk(session) as walk:
            await walk.step()
            monkeypatch.setattr(resident.session, "begin", break_down)
            await walk.move()
            with pytest.raises(Unavailable, match="resume it"):
                await walk.ended()
        resuming = asyncio.create_task(caller.call("Resume", session=session))
        await until(lambda: resuming.done() or session in live._resuming)
        assert not live.tenants(), "it holds nothing while the one before it has not let go"
        gate.set()
        assert (await resuming).opened.next == 1
        await steps(caller, session, 1)
    assert "ended by a defect" in caplog.text


@pytest.mark.parametrize("way", ["Suspend", "Close"])
async def test_free_memory_is_given_back_when_a_session_lets_go_of_its_own(way, monkeypatch):
    given = asyncio.Event()
    loop = asyncio.get_running_loop()

    def give_back(garbage: bool) -> None:
        assert garbage
        loop.call_soon_threadsafe(given.set)

    monkeypatch.setattr(server, "give_back", give_back)
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        assert not given.is_set()
        await caller.call(way, session=session)
        await asyncio.wait_for(given.wait(), 20)


async def test_a_defect_in_a_chore_is_told_and_does_not_end_it(monkeypatch, caplog):
    tidied = list[bool]()

    def break_down_once(_):
        tidied.append(True)
        if len(tidied) == 1:
            raise RuntimeError("a defect")

    monkeypatch.setattr(server, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "REST_SECONDS", 0.01)
    monkeypatch.setattr(Live, "tidy", break_down_once)
    async with generating():
        await until(lambda: len(tidied) > 1)
    assert "ended by a defect" in caplog.text
