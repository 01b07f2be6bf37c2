"""Sessions whose generator was taken for dead: they go on elsewhere, and what is back later does nothing to them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from services.generator.live import table
from services.generator.live.resident import Resident
from tests.wire.generator import Stream, generating, inside
from tests.wire.shard import until
from tests.wire.test_generator_moving import WALK, steps
from worldkv import worlds
from worldkv.chunk import ChunkKey
from worldkv.errors import NotFound, Unavailable
from worldkv.wire import lineage_of
from worldkv.worlds import lineages


async def test_a_session_whose_generator_died_goes_on_from_its_last_kept_chunk():
    tiers = inside()
    async with generating(tiers) as dead, generating(tiers) as alive:
        opened = await dead.open(**WALK)
        before = await steps(dead, opened.session, 5)
        resumed = (await alive.call("Resume", session=opened.session)).opened
        assert resumed.next == 5
        assert [part.end for part in resumed.world.lineage.parts] == [5, 0]
        async with alive.walk(opened.session, 5) as walk:
            drawn = await walk.steps(4)
        assert drawn[0].key.branch == resumed.world.lineage.parts[-1].branch
        assert {each.key.branch for one in drawn for each in one.recalled} == {opened.world.lineage.parts[0].branch}
        # It was not dead, and finds out when somebody comes back to it.
        with pytest.raises(Unavailable, match="gone on elsewhere"):
            await steps(dead, opened.session, 1)
        with pytest.raises(NotFound):
            await dead.call("Suspend", session=opened.session)
        assert len(before) == 15
        assert (await alive.call("Close", session=opened.session)).remembered.end == 9


@pytest.mark.parametrize("lockstep", [True, False])
async def test_what_a_session_that_went_on_elsewhere_still_draws_is_kept_for_nobody(lockstep):
    tiers = inside()
    async with generating(tiers) as dead, generating(tiers) as alive:
        session = (await dead.open(**WALK, lockstep=lockstep)).session
        async with dead.walk(session) as walk:
            await walk.steps(3)
            await told_kept(walk, 3)
            assert (await alive.call("Resume", session=session)).opened.next == 3
            with pytest.raises(Unavailable, match="gone on elsewhere"):
                await walk.steps(9)
            assert told(walk) == 3
        with pytest.raises(NotFound):
            await dead.call("Suspend", session=session)
        closed = await alive.call("Close", session=session)
        assert (closed.remembered.end, closed.world.chunks) == (3, 3)


async def test_a_chunk_that_lands_while_the_session_is_taken_over_is_kept_for_nobody(monkeypatch):
    tiers, looked, landed = inside(), asyncio.Event(), asyncio.Event()
    length = lineages.length

    async def slowly(*arguments):
        found = await length(*arguments)
        looked.set()
        await landed.wait()
        return found

    async with generating(tiers) as dead, generating(tiers) as alive:
        opened = await dead.open(**WALK, lockstep=False)
        async with dead.walk(opened.session) as walk:
            await walk.steps(3)
            await told_kept(walk, 3)
            with monkeypatch.context() as patch:
                patch.setattr(lineages, "length", slowly)
                resuming = asyncio.create_task(alive.call("Resume", session=opened.session))
                await looked.wait()
                drawn = (await walk.step()).key
                key = ChunkKey(drawn.branch, drawn.index)
                while not await lineages._holds(tiers("default").store, key):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
                landed.set()
                assert (await resuming).opened.next == 3
            with pytest.raises(Unavailable, match="gone on elsewhere"):
                await walk.steps(9)
            assert told(walk) == 3


def told(walk: Stream) -> int:
    """How many chunks a client was told are kept."""
    return max(each.remembered.end for each in walk.told if each.HasField("remembered"))


async def told_kept(walk: Stream, end: int) -> None:
    while told(walk) < end:
        await walk.hear()


@pytest.mark.parametrize("call", ["Resume", "Close", "Rewind"])
async def test_a_generator_that_was_taken_for_dead_does_nothing_to_what_went_on_elsewhere(call):
    tiers = inside()
    async with generating(tiers) as dead, generating(tiers) as alive:
        session = (await dead.open(**WALK)).session
        await steps(dead, session, 3)
        await alive.call("Resume", session=session)
        await steps(alive, session, 2)
        there = alive
        if call == "Resume":
            resumed, there = await dead.call("Resume", session=session), dead
            assert (resumed.lived, resumed.opened.next) == (False, 5)
        else:
            with pytest.raises(Unavailable, match="gone on elsewhere"):
                await dead.call(call, session=session)
        async with there.walk(session, 5) as walk:
            assert (await walk.step()).key.index == 5


async def test_a_generator_that_was_taken_for_dead_saves_nothing_over_what_went_on_elsewhere():
    tiers = inside()
    async with generating(tiers, idle_seconds=0.3) as dead, generating(tiers) as alive:
        session = (await dead.open(**WALK)).session
        await steps(dead, session, 3)
        await alive.call("Resume", session=session)
        await steps(alive, session, 2)
        await until(lambda: not dead.made.live.of("default"))
        await alive.call("Suspend", session=session)
        async with alive.walk(session, 5) as walk:
            assert (await walk.step()).key.index == 5


@pytest.mark.parametrize("joined", [False, True])
async def test_a_session_that_slept_here_and_went_on_elsewhere_shows_nothing_of_what_is_no_more(joined):
    tiers = inside()
    async with generating(tiers) as here, generating(tiers) as there:
        session = (await here.open(**WALK)).session
        await steps(here, session, 3)
        await here.call("Suspend", session=session)
        async with AsyncExitStack() as stack:
            walk = await stack.enter_async_context(here.walk(session, 3)) if joined else None
            if walk is not None:
                assert (await walk.next("joined")).next == 3
            await there.call("Resume", session=session)
            await there.call("Rewind", session=session, at=1)
            await steps(there, session, 3)
            await there.call("Suspend", session=session)
            if walk is not None:  # it sleeps here still, and finds out when it is told to move
                assert (await walk.step()).key.index == 4
            else:
                with pytest.raises(Unavailable, match="gone on elsewhere"):
                    await steps(here, session, 1)
        resumed = (await here.call("Resume", session=session)).opened
        async with here.walk(session, 0) as walk:
            told = await walk.next("joined")
            drawn = [each.drawn for each in walk.told if each.HasField("drawn")] + [await walk.step()]
        lineage = lineage_of(told.world.lineage)
        assert (told.next, resumed.next) == (4 + joined, 4 + joined)
        assert all(lineage.covers(ChunkKey(each.key.branch, each.key.index)) for each in drawn)


async def test_who_was_silent_lets_go_of_what_went_on_elsewhere():
    tiers = inside()
    async with generating(tiers, idle_seconds=600.0) as silent, generating(tiers) as alive:
        mine, gone = [(await silent.open(scene="rooms:7")).session for _ in range(2)]
        for session in (mine, gone):
            await steps(silent, session, 1)
        await alive.call("Resume", session=gone)
        live = silent.made.live
        live._tidied -= 60
        live.tidy()
        await until(lambda: [each.resident.id for each in live.of("default")] == [mine])
        assert len(await steps(silent, mine, 1)) == 3


async def test_who_was_silent_and_hears_from_no_store_does_not_go_on(monkeypatch):
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        await steps(caller, session, 2)
        live = caller.made.live

        async def read(name):
            raise Unavailable("the store sleeps")

        with monkeypatch.context() as patch:
            patch.setattr(live.maker.tier("default").worlds, "read", read)
            assert len(await steps(caller, session, 1)) == 3, "it is believed as long as it was there all the time"
            patch.setattr(live, "_tidied", live._tidied - 60)
            live.tidy()
            with pytest.raises(Unavailable, match="nobody can say"):
                await steps(caller, session, 1)
            with pytest.raises(Unavailable, match="nobody can say"):
                await asyncio.wait_for(caller.call("Resume", session=session), 20)
        assert len(await steps(caller, session, 1)) == 3


@pytest.mark.parametrize("slow", [False, True])
async def test_who_joins_after_a_rewind_that_nobody_answered_is_told_where_he_stands(slow, monkeypatch):
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        await steps(caller, session, 3)
        fork = worlds.fork

        async def unheard(*arguments):
            await fork(*arguments)
            raise Unavailable("it was done, and the answer is lost")

        with monkeypatch.context() as patch:
            patch.setattr(worlds, "fork", unheard)
            with pytest.raises(Unavailable, match="answer is lost"):
                await caller.call("Rewind", session=session, at=1)
        if slow:  # it takes longer to wake than anybody waits to hear whose a session is
            monkeypatch.setattr(table, "CONFIRM_SECONDS", 0.05)
            monkeypatch.setattr(Resident, "wake", after(0.5, Resident.wake))
        async with caller.walk(session, 1) as walk:
            joined = await walk.next("joined")
            assert joined.next == 1
            assert (await walk.step()).key.branch == joined.world.lineage.parts[-1].branch


def after(seconds: float, wake: Callable[[Resident], Awaitable[None]]) -> Callable[[Resident], Awaitable[None]]:
    """As `wake`, later."""

    async def late(resident: Resident) -> None:
        await asyncio.sleep(seconds)
        await wake(resident)

    return late
