"""Sessions that are rewound, forked, suspended, resumed elsewhere, and taken over."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.generator.engine import EngineConfig
from services.generator.live.table import YIELD_SECONDS
from services.generator.tier import Inside
from tests.wire.generator import CONFIG, TURN, Caller, generating, inside, pictures
from tests.wire.shard import until
from worldkv.catalog import Snapshot
from worldkv.errors import (
    AlreadyExists,
    ChunkCorrupt,
    Conflict,
    InvalidInput,
    NotFound,
    OverBudget,
    SpecMismatch,
    Unavailable,
)
from worldkv.format import Frame, join
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import walker_of

WALK = {"scene": "rooms:7", "world": "harbour", "seed": 3}


async def steps(caller: Caller, session: str, chunks: int, seen: int = 1 << 40) -> list[bytes]:
    async with caller.walk(session, seen) as walk:
        return pictures(await walk.steps(chunks))


def same_place(one: pb.Walker, other: pb.Walker) -> bool:
    """Whether both stand and look alike; whole turns are nothing."""
    return np.allclose(walker_of(one).pose, walker_of(other).pose, atol=1e-9)


async def uninterrupted(chunks: int) -> list[bytes]:
    async with generating() as caller:
        return await steps(caller, (await caller.open(**WALK)).session, chunks)


async def test_suspended_and_resumed_elsewhere_a_walk_goes_on_exactly():
    tiers, whole = inside(), await uninterrupted(9)
    async with generating(tiers) as first, generating(tiers) as second:
        opened = await first.open(**WALK)
        before = await steps(first, opened.session, 5)
        told = await first.call("Suspend", session=opened.session)
        assert told.remembered.end == 5
        resumed = await second.call("Resume", session=opened.session)
        assert (resumed.lived, resumed.opened.next, resumed.opened.world.name) == (False, 5, "harbour")
        assert resumed.opened.world.lineage.parts[0].branch == opened.world.lineage.parts[0].branch
        assert before + await steps(second, opened.session, 4) == whole
        assert (await second.call("Resume", session=opened.session)).lived


async def test_a_session_that_was_suspended_here_walks_on_when_it_is_told_to():
    whole = await uninterrupted(6)
    async with generating(idle_seconds=0.05) as caller:
        session = (await caller.open(**WALK)).session
        live = caller.made.live
        async with caller.walk(session) as walk:
            before = pictures(await walk.steps(3))
            await until(lambda: live.find("default", session).resident.session is None)
            await until(lambda: live.maker.engine.resident_bytes == 0)
            (listed,) = (await caller.call("List")).sessions
            assert (listed.suspended, listed.joined, listed.next, listed.kept) == (True, True, 3, 3)
            assert [each.joined for each in (await caller.call("GeneratorStats")).sessions] == [True]
            assert before + pictures(await walk.steps(3)) == whole
        assert caller.figure("suspended_total") >= 1


async def test_a_session_whose_world_is_anothers_cannot_be_resumed():
    tiers = inside()
    async with generating(tiers) as first, generating(tiers) as second:
        mine = (await first.open(**WALK)).session
        await steps(first, mine, 3)
        await first.call("Suspend", session=mine)
        other = await second.open(world="harbour")
        assert (other.next, other.world.lineage.parts[0].end) == (3, 3)
        with pytest.raises(Conflict, match="taken over"):
            await second.call("Resume", session=mine)
        for method, fields in (("Fork", {"world": "copy"}), ("Rewind", {"at": 1})):
            with pytest.raises(Conflict):
                await first.call(method, session=mine, **fields)
        assert len(await steps(second, other.session, 2)) == 6


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: data[:-9] + b"x" + data[-8:], lambda data: b""]
)
async def test_a_damaged_state_falls_back_to_the_one_before(damage):
    tiers = inside()
    async with generating(tiers) as first, generating(tiers) as second:
        session = (await first.open(**WALK)).session
        await steps(first, session, 4)
        await first.call("Suspend", session=session)
        snapshots: Any = tiers("default").snapshots
        good = snapshots._held[session]
        harmed = Snapshot(good[0].chunks, Frame.of(damage(join(good[0].state))))
        snapshots._held[session] = [harmed, *good[1:]]
        assert (await second.call("Resume", session=session)).opened.next == 4
        assert len(await steps(second, session, 2)) == 6
        await second.call("Suspend", session=session)
        snapshots._held[session] = [harmed, harmed]
        async with generating(tiers) as third:
            with pytest.raises(ChunkCorrupt):
                await third.call("Resume", session=session)


async def test_nobody_else_finds_a_session_or_what_is_kept_of_it():
    tiers = inside()
    async with generating(tiers) as caller, generating(tiers) as elsewhere:
        opened = await caller.open(**WALK)
        await steps(caller, opened.session, 2)
        stranger = caller.of("stranger")
        for method in ("Fork", "Rewind", "Close", "Suspend", "Resume"):
            with pytest.raises(NotFound):
                await stranger.call(method, session=opened.session)
        with pytest.raises(NotFound):
            await elsewhere.of("stranger").call("Resume", session=opened.session)
        with pytest.raises(NotFound):
            await caller.call("Resume", session="~scene/" + opened.world.lineage.parts[0].branch.hex())
        assert not (await stranger.call("List")).sessions
        theirs = await stranger.open(**WALK)  # the same name is another world
        assert theirs.world.lineage != opened.world.lineage
        assert {each.tenant for each in (await caller.call("GeneratorStats")).sessions} == {"default", "stranger"}


async def test_a_state_of_a_strangers_under_the_id_of_a_session_takes_nothing_from_it():
    tiers = inside()
    async with generating(tiers) as caller:
        opened, stranger = await caller.open(**WALK), caller.of("stranger")
        theirs = (await stranger.open(**WALK)).session
        await steps(stranger, theirs, 1)
        await stranger.call("Suspend", session=theirs)
        states = tiers("stranger").snapshots
        await states.save(opened.session, await states.load(theirs))
        with pytest.raises(NotFound):
            await stranger.call("Resume", session=opened.session)
        async with caller.walk(opened.session) as walk:
            assert (await walk.step()).key.index == 0


async def test_a_rewound_session_goes_on_from_there_on_a_new_branch():
    async with generating() as caller:
        opened = await caller.open(**WALK)
        async with caller.walk(opened.session) as walk:
            drawn = await walk.steps(5)
            back = await caller.call("Rewind", session=opened.session, at=3)
            assert same_place(back.walker, drawn[2].walker)
            assert [part.end for part in back.world.lineage.parts] == [3, 0]
            again = await walk.step()
            assert (again.key.index, again.key.branch) == (3, back.world.lineage.parts[-1].branch)
            assert same_place(again.walker, drawn[3].walker)
            back = await caller.call("Rewind", session=opened.session, at=0)
            assert (len(back.world.lineage.parts), back.walker) == (1, opened.walker)
            assert pictures([await walk.step()]) == pictures(drawn[:1])
        with pytest.raises(InvalidInput, match="got 2"):
            await caller.call("Rewind", session=opened.session, at=2)
        await caller.call("Suspend", session=opened.session)
        assert (await caller.call("Rewind", session=opened.session, at=0)).walker == opened.walker
        assert (await caller.open(world="harbour")).next == 0, "how it is entered is known on its new branch too"


async def test_moves_that_wait_are_dropped_by_a_rewind():
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        walking = caller.made.live.find("default", session)
        async with caller.walk(session) as walk:
            await walk.steps(2)
            await walk.say(hold=pb.Hold(action=TURN))
            await walk.next("drawn")
            await caller.call("Rewind", session=session, at=1)
            assert walking.idle
            assert (await walk.step(number=8)).number in (0, 8)


async def test_a_rewind_ends_the_connection_whose_moves_it_drops():
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        walking = caller.made.live.find("default", session)
        async with caller.walk(session) as walk:
            await walk.steps(2)
            async with walking.lock:
                back = asyncio.create_task(caller.made.live.rewind(walking, 1))
                await asyncio.sleep(0)  # it is next, before what is told from now on
                await walk.move(number=5)
                await until(lambda: len(walking._inbox))
            with pytest.raises(Unavailable, match="taken back"):
                await walk.ended()
        await back
        async with caller.walk(session, 1) as walk:
            again = await walk.step(number=5)
        assert (again.number, again.key.index, again.key.branch) == (5, 1, walking.resident.world.lineage.head)


async def test_a_fork_is_a_second_name_and_disturbs_nobody():
    async with generating() as caller:
        opened = await caller.open(**WALK)
        async with caller.walk(opened.session) as walk:
            await walk.steps(3)
            forked = (await caller.call("Fork", session=opened.session, world="copy", at=2)).world
            assert (forked.name, forked.chunks) == ("copy", 2)
            assert (await walk.step()).key.branch == opened.world.lineage.parts[-1].branch
            named = (await caller.call("Fork", session=opened.session)).world
            assert named.chunks == 4
            empty = (await caller.call("Fork", session=opened.session, at=0)).world
        with pytest.raises(AlreadyExists):
            await caller.call("Fork", session=opened.session, world="copy")
        with pytest.raises(InvalidInput, match="9"):
            await caller.call("Fork", session=opened.session, at=9)
        entered = await caller.open(world="copy")
        assert entered.next == 2
        assert len(await steps(caller, entered.session, 3)) == 9
        assert (await caller.open(world=empty.name)).walker == opened.walker
        assert (await caller.open(world=named.name, at=1)).next == 1


async def test_a_world_of_another_model_is_not_entered_and_its_sessions_not_resumed():
    tiers = inside()
    async with generating(tiers) as caller, generating(tiers, weights=1) as other:
        session = (await caller.open(**WALK)).session
        await steps(caller, session, 2)
        await caller.call("Suspend", session=session)
        with pytest.raises(SpecMismatch):
            await other.open(world="harbour")
        with pytest.raises(SpecMismatch):
            await other.call("Resume", session=session)
        assert (await caller.call("Resume", session=session)).opened.next == 2


@contextmanager
def unanswered(tiers: Inside) -> Iterator[None]:
    """World records are changed, and nobody is told of it."""
    worlds: Any = tiers("default").worlds
    read, swap, gone = worlds.read, worlds.swap, list[bool]()

    async def swap_unanswered(*given: Any) -> None:
        await swap(*given)
        gone.append(True)
        raise Unavailable("the answer was lost")

    async def read_unanswered(name: str) -> Any:
        if gone:
            raise Unavailable("nobody answers")
        return await read(name)

    worlds.read, worlds.swap = read_unanswered, swap_unanswered
    yield
    worlds.read, worlds.swap = read, swap


async def test_a_rewind_of_which_nobody_knows_what_became_is_found_out_about():
    tiers = inside()
    async with generating(tiers) as caller:
        session = (await caller.open(**WALK)).session
        await steps(caller, session, 4)
        with unanswered(tiers), pytest.raises(Unavailable):
            await caller.call("Rewind", session=session, at=2)
        await until(lambda: not caller.made.live.maker.engine.resident_bytes)  # it sleeps, and takes no room
        async with caller.walk(session) as walk:
            await walk.move(number=9)
            drawn = [await walk.next("drawn") for _ in range(3)]
        told = [(each.key.index, each.number) for each in drawn]
        assert told == [(0, 0), (1, 0), (2, 9)], "what may be no more is not sent again"


async def test_a_tour_is_over_when_nobody_knows_what_became_of_a_rewind():
    tiers = inside()
    async with generating(tiers) as caller:
        session = (await caller.open(**WALK, tour="R90")).session
        async with caller.walk(session) as walk:
            assert [(await walk.next("drawn")).number for _ in range(4)] == [0] * 4
        with unanswered(tiers), pytest.raises(Unavailable):
            await caller.call("Rewind", session=session, at=1)
        async with caller.walk(session, 1 << 40) as walk:
            drawn = [await walk.step(number=number) for number in (7, 8)]
        assert [(each.number, each.key.index) for each in drawn] == [(7, 1), (8, 2)]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"scene": "rooms:7"}, InvalidInput, "scene"),
        ({"tour": "R90"}, InvalidInput, "tour"),
        ({"start": pb.Walker()}, InvalidInput, "start"),
        ({"settings": pb.MemorySettings(codec="nobody")}, InvalidInput, "codec"),
        ({"at": 9}, NotFound, "no chunk 8"),
    ],
)
async def test_a_world_that_is_there_is_entered_as_it_is(fields, error, words):
    async with generating() as caller:
        session = (await caller.open(**WALK)).session
        await steps(caller, session, 2)
        await caller.call("Close", session=session)
        with pytest.raises(error, match=words):
            await caller.open(world="harbour", **fields)
        await until(lambda: caller.made.live.maker.engine.resident_bytes == 0)
        assert (await caller.open(world="harbour")).next == 2


@pytest.mark.parametrize("mode", [pb.MEMORY_MODE_WINDOW, pb.MEMORY_MODE_FULL])
async def test_modes_without_recall_are_suspended_exactly_and_rewound_to_what_is_kept(mode):
    tiers = inside()
    async with generating() as caller:
        whole = await steps(caller, (await caller.open(**WALK, mode=mode)).session, 9)
    async with generating(tiers) as first, generating(tiers) as second:
        session = (await first.open(**WALK, mode=mode)).session
        before = await steps(first, session, 7)
        assert (await first.call("Suspend", session=session)).remembered.end == 7
        assert (await second.call("Resume", session=session)).opened.next == 7
        assert before + await steps(second, session, 2) == whole
        await second.call("Rewind", session=session, at=3)
        assert len(await steps(second, session, 1)) == 3
        await second.call("Rewind", session=session, at=0)
        assert await steps(second, session, 2) == whole[:6]


@pytest.mark.slow
async def test_who_comes_when_there_is_no_room_is_told_so_unless_somebody_is_idle():
    config = replace(CONFIG, engine=EngineConfig(most_sessions=1))
    async with generating(config=config) as caller:
        first = (await caller.open()).session
        assert (await caller.call("GeneratorStats")).room == 0
        with pytest.raises(OverBudget, match="limit of 1"):
            await caller.open()
        assert caller.figure("refused_total") == 1
        await asyncio.sleep(YIELD_SECONDS)
        second = (await caller.open()).session
        assert caller.made.live.find("default", first).resident.session is None
        async with caller.walk(first) as walk:
            await walk.move()
            with pytest.raises(OverBudget):
                await walk.ended()
        assert len(await steps(caller, second, 1)) == 3


async def test_sessions_are_listed_a_page_at_a_time():
    async with generating(most=5) as caller:
        opened = sorted([(await caller.open()).session for _ in range(5)])
        with pytest.raises(OverBudget):
            await caller.open()
        page = await caller.call("List", page_size=2)
        found = [each.session for each in page.sessions]
        while page.next_page_token:
            page = await caller.call("List", page_size=2, page_token=page.next_page_token)
            found += [each.session for each in page.sessions]
    assert found == opened


async def test_a_generator_that_ends_suspends_all_and_tells_who_walks():
    tiers, whole = inside(), await uninterrupted(6)
    async with generating(tiers) as survivor:
        async with generating(tiers) as ending:
            session = (await ending.open(**WALK)).session
            async with ending.walk(session) as walk:
                before = pictures(await walk.steps(3))
                draining = asyncio.create_task(ending.made.live.drain())
                with pytest.raises(Unavailable, match="elsewhere"):
                    await walk.ended()
                await draining
            with pytest.raises(Unavailable):
                await ending.open()
        assert before + await steps(survivor, (await resumed(survivor, session)), 3) == whole


async def resumed(caller: Caller, session: str) -> str:
    return str((await caller.call("Resume", session=session)).opened.session)
