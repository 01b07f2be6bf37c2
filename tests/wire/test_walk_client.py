"""The client of walks against a toy service: what it gives, and what it does when connections break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.toy_sessions import FRAMES, HEIGHT, WIDTH, ToySessions, serving
from worldkv.actions import Action, Walker, parse_path
from worldkv.client import WalkClient, WalkClientConfig
from worldkv.client.listening import EVENTS
from worldkv.client.walk_events import Applied, Drawn, Notice, NoticeKind, Recalled, Remembered
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OverBudget, Unavailable
from worldkv.store import Level, Miss
from worldkv.wire_sessions import MAX_PICTURE_BYTES

CONFIG = WalkClientConfig(deadline_seconds=20, reconnect_seconds=10)
TURN = Action(turn=9.0)


@asynccontextmanager
async def service(**ways: object) -> AsyncIterator[tuple[ToySessions, WalkClient]]:
    toy = ToySessions(**ways)
    async with serving(toy) as address, WalkClient(address, config=CONFIG) as client:
        yield toy, client


def indices(drawn: list[Drawn]) -> list[int]:
    return [each.key.index for each in drawn]


async def test_ten_lines_walk():
    async with service() as (toy, client):
        async with client.open(scene="rooms:7", tour="R90") as walk:
            assert (walk.opened.model, walk.frames, walk.next) == ("toy", FRAMES, 4)
            drawn = [each async for each in walk.path("R90_L90")]
            (made,) = toy.sittings.values()
            assert [a for move in made.moves[4:] for a in move][:23] == parse_path("R90_L90")
    assert indices(drawn) == [*range(4, 12)]
    assert (made.opened.scene, made.opened.tour) == ("rooms:7", "R90")
    assert toy.sittings == {}, "the session is closed at the end of the block"
    assert walk.remembered == Remembered(12, Level.TWO)


async def test_a_world_begins_from_words_and_a_picture():
    async with service() as (toy, client):
        async with client.open("a harbour", picture=b"boats"):
            pass
        with pytest.raises(InvalidInput, match=f"at most {MAX_PICTURE_BYTES} bytes, got {MAX_PICTURE_BYTES + 1}"):
            async with client.open("a harbour", picture=bytes(MAX_PICTURE_BYTES + 1)):
                pass
    assert [(each.scene, each.picture) for each in toy.asked] == [("a harbour", b"boats")]


async def test_a_chunk_says_what_it_was_drawn_from():
    async with service() as (_, client), client.open() as walk:
        await walk.move(TURN)
        drawn = await walk.move([TURN, Action(), TURN])
        assert drawn.key == walk.world.lineage.key(1)
        assert drawn.walker == walk.walker == Walker(1.0, 2.0, yaw=45.0)
        np.testing.assert_array_equal(drawn.poses[-1], drawn.walker.pose)
        first = walk.world.lineage.key(0)
        assert drawn.recalled == (Recalled(first, 0.5, False, 1.5, 30.0, 0.75),)
        assert (drawn.missed, drawn.demoted) == (((first, Miss.LATE),), (first,))
        assert (drawn.spent.draw, drawn.spent.turn, drawn.held, drawn.mode) == (0.125, 0, (0, 7, 0, 0), "full")
        assert (drawn.seconds, drawn.recall_seconds, drawn.left_out) == (0.25, 0.125, 0)
        assert (drawn.counts.recalled, dict(drawn.counts.missed)) == (1, {Miss.LATE: 1})
        assert walk.next == 2


@pytest.mark.parametrize(
    ("form", "kind", "value"), [("jpeg", np.uint8, 2), ("rgb8", np.uint8, 2), ("rgb32f", np.float32, np.float32(0.02))]
)
async def test_pictures_come_in_the_form_that_was_asked_for(form, kind, value):
    async with service() as (_, client), client.open(pictures=form) as walk:
        *_, last = [each async for each in walk.path([TURN] * 3 * FRAMES)]
        assert last.pictures.shape == (FRAMES, HEIGHT, WIDTH, 3)
        assert last.pictures.dtype == kind
        assert (last.pictures == value).all()


@pytest.mark.parametrize(("kind", "jpeg"), [(np.uint8, None), (np.float32, None), (np.uint8, 95)])
async def test_pictures_that_are_shown_arrive(kind, jpeg):
    pictures = np.zeros((FRAMES, HEIGHT, WIDTH, 3), kind)
    pictures[1] = 1
    places = [Walker(float(i), 0.0) for i in range(FRAMES)]
    async with service() as (_, client), client.open() as walk:
        drawn = await walk.show(pictures, places, jpeg=jpeg)
        assert (drawn.pictures == pictures).all()
        assert walk.walker == places[-1]


async def test_what_makes_no_sense_is_not_sent():
    async with service() as (toy, client), client.open() as walk:
        with pytest.raises(InvalidInput, match="one action or 3"):
            await walk.move([TURN] * 2)
        with pytest.raises(InvalidInput, match="pictures"):
            await walk.show(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), [])
        with pytest.raises(InvalidInput, match="uint8 or float32"):
            await walk.show(np.zeros((FRAMES, HEIGHT, WIDTH, 3)), [])
        with pytest.raises(InvalidInput, match="ahead"):
            await anext(walk.path("R90", ahead=-1))
        with pytest.raises(InvalidInput, match="mode"):
            await client.open(mode="best").__aenter__()
        for wrong in ({"seed": -1}, {"seed": 1 << 64}, {"at": -1}):
            with pytest.raises(InvalidInput, match=r"= .*: expected 0 to 2\^64 - 1"):
                await client.open(**wrong).__aenter__()
        for call in (walk.rewind, partial(walk.fork, "fork")):
            with pytest.raises(InvalidInput, match="at = -1"):
                await call(-1)
        (made,) = toy.sittings.values()
        assert made.taken == []
        await walk.move(TURN)


async def test_a_path_keeps_moves_under_way():
    async with service() as (toy, client), client.open() as walk:
        path = walk.path([TURN] * FRAMES * 10, ahead=3)
        await anext(path)
        await walk.move(TURN)  # all that were sent before it have been taken
        (made,) = toy.sittings.values()
        assert len(made.taken) == 5
        await path.aclose()


async def test_events_tell_of_everything_in_order():
    async with service() as (_, client), client.open() as walk:
        events = walk.events()
        number = await walk.hold(TURN)
        seen = [await anext(events) for _ in range(7)]
        assert seen[0] == Applied(number, 0)
        assert indices([each for each in seen if isinstance(each, Drawn)]) == [0, 1, 2]
        assert [each for each in seen if isinstance(each, Remembered)] == [Remembered(n, Level.ONE) for n in (1, 2, 3)]
        number = await walk.pause()
        assert await anext(events) == Applied(number, 3)
    assert [each async for each in events] == []


async def test_events_that_nobody_reads_stop_no_move():
    async with service() as (_, client), client.open() as walk:
        events = walk.events()
        for _ in range(60):
            await walk.move(TURN)
    assert indices([each async for each in events if isinstance(each, Drawn)]) == [*range(60)]


async def test_events_that_were_let_go_of_hold_nothing_up():
    async with service() as (_, client), client.open() as walk, asyncio.timeout(20):
        await walk.move(TURN)
        events, unread = walk.events(), walk.events()
        for _ in range(12):
            await walk.hold(TURN)
        async for _ in walk.events():
            break
        seen = [await anext(events) for _ in range(EVENTS)]
        del unread
        seen += [await anext(events) for _ in range(12 * 7 - EVENTS)]
        assert indices([each for each in seen if isinstance(each, Drawn)]) == [*range(1, 37)]


async def test_rewind_and_fork():
    async with service() as (_, client), client.open(world="mine") as walk:
        first = [each async for each in walk.path([TURN] * FRAMES * 4)]
        await walk.rewind(2)
        assert (walk.next, walk.world.lineage.start) == (2, 2)
        again = await walk.move(TURN)
        assert again.key.index == 2
        assert again.key.branch == walk.world.lineage.head != first[0].key.branch
        forked = await walk.fork("other", 1)
        assert (forked.name, forked.lineage.start) == ("other", 1)
        with pytest.raises(AlreadyExists):
            await walk.fork("mine")
        with pytest.raises(InvalidInput, match="not drawn"):
            await walk.rewind(9)
        assert (await walk.move(TURN)).key.index == 3


async def test_a_rewind_waits_quietly_for_a_move_that_was_given_up(monkeypatch):
    async with service(slow=0.3) as (_, client), client.open() as walk:
        moving = asyncio.create_task(walk.move(TURN))
        await asyncio.sleep(0)
        moving.cancel()
        waits, wait = list[object](), asyncio.wait

        async def counted(*given: object, **named: object) -> object:
            waits.append(given)
            return await wait(*given, **named)

        monkeypatch.setattr(asyncio, "wait", counted)
        await walk.rewind(1)
        assert len(waits) < 20  # the servers wait for theirs, too
        assert (await walk.move(TURN)).key.index == 1


async def test_what_is_held_is_not_said_again_after_a_rewind():
    async with service(deaf=True) as (toy, client), client.open() as walk:
        events, made = walk.events(), toy.sittings[walk.session]
        await walk.hold(TURN)
        await walk.rewind(0)
        while not toy.joins:  # noqa: ASYNC110 - neither waits for the session to be joined, and only then it can be cut
            await asyncio.sleep(0.001)
        made.out.put_nowait(Unavailable("cut"))
        async for event in events:
            if isinstance(event, Notice) and event.kind is NoticeKind.DISCONNECTED:
                break
        toy.deaf = False
        await walk.move(TURN)
        assert made.moves == [(TURN,) * FRAMES]


async def test_a_walk_that_could_not_be_closed_goes_on_and_says_so():
    async with service() as (toy, client), client.open() as walk:
        await walk.move(TURN)
        events, made = walk.events(), toy.sittings.pop(walk.session)
        with pytest.raises(NotFound):
            await walk.close()
        toy.sittings[walk.session] = made
        made.out.put_nowait(Unavailable("cut"))
        await walk.move(TURN)
        kinds = list[NoticeKind]()
        async for each in events:
            if isinstance(each, Drawn):
                break
            kinds += [each.kind] if isinstance(each, Notice) else []
    assert kinds == [NoticeKind.DISCONNECTED, NoticeKind.RECONNECTED]


async def test_errors_arrive_as_what_they_left_as():
    async with service(room=1) as (_, client), client.open():
        with pytest.raises(OverBudget, match="1 sessions"):
            await client.open().__aenter__()
        with pytest.raises(NotFound, match="no session"):
            await client.join("nobody").__aenter__()


async def test_nobody_there_is_said_in_plain_words():
    async with WalkClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"nothing answers on 127\.0\.0\.1:1, `worldkv up`"):
            await client.open().__aenter__()


async def test_sessions_are_listed_page_by_page():
    async with service() as (_, client):
        async with client.open(), client.open(world="mine"), client.open() as walk:
            await walk.move(TURN)
            found = await client.sessions()
    assert [(each.world, each.next) for each in found] == [("world-0", 0), ("mine", 0), ("world-2", 1)]


async def test_a_second_client_takes_the_session_over():
    async with service() as (toy, client), client.open() as walk:
        events = walk.events()
        await walk.move(TURN)
        async with client.join(walk.session) as other:
            assert (other.frames, other.next, other.walker) == (FRAMES, 1, walk.walker)
            with pytest.raises(Conflict, match="another client"):
                [each async for each in events]
            with pytest.raises(Conflict):
                await walk.move(TURN)
            assert (await other.move(TURN)).key.index == 1
        assert len(toy.sittings) == 1, "neither of them closes it"


async def test_who_joins_after_a_rewind_is_told_of_what_came_before_it():
    async with service() as (_, client), client.open() as walk:
        [_ async for _ in walk.path([TURN] * FRAMES * 4)]
        await walk.rewind(2)
        await walk.move(TURN)
        async with client.join(walk.session) as other:
            events, there = other.events(), other.walker
            first = await anext(each async for each in other.events() if isinstance(each, Drawn))
            assert (first.key.index, other.next, other.walker) == (0, 3, there)
            last = await other.move(TURN)
            assert (other.next, other.walker) == (4, last.walker)
            await other.close()
        told = [each.key async for each in events if isinstance(each, Drawn)]
        assert told == [*walk.world.lineage.keys(4)]
        assert told[-1] == last.key


async def test_a_walk_that_was_left_lives_on():
    async with service() as (toy, client):
        async with client.open() as walk:
            await walk.move(TURN)
            await walk.leave()
            with pytest.raises(Unavailable, match="ended"):
                await walk.move(TURN)
        assert [*toy.sittings] == [walk.session]
        async with client.join(walk.session) as again:
            assert (await again.move(TURN)).key.index == 1


async def test_a_walk_that_was_left_at_once_lives_on():
    async with service() as (toy, client):
        async with client.open() as walk:
            events, path = walk.events(), walk.path([TURN])
            asked = asyncio.ensure_future(anext(path))
            await walk.leave()
        assert [*toy.sittings] == [walk.session]
        assert [each async for each in events] == []
        with pytest.raises(Unavailable, match="ended"):
            await asked


async def test_an_error_of_the_user_is_what_he_sees():
    async def fail(client: WalkClient, toy: ToySessions) -> None:
        async with client.open():
            toy.sittings.clear()  # nor can the session be closed
            raise ZeroDivisionError

    async with service() as (toy, client):
        with pytest.raises(ZeroDivisionError):
            await fail(client, toy)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 4))
async def test_every_move_is_drawn_once_wherever_connections_break(cuts, ahead):
    async with service(cuts=cuts) as (toy, client), client.open(pictures="rgb8") as walk:
        events = walk.events()
        drawn = [each async for each in walk.path([TURN] * FRAMES * 8, ahead=ahead)]
        assert indices(drawn) == [*range(8)]
        assert [int(each.pictures[0, 0, 0, 0]) for each in drawn] == [*range(8)]
        (made,) = toy.sittings.values()
        assert made.next == 8, "nothing was drawn that nobody asked for"
    told = [each async for each in events]
    assert indices([each for each in told if isinstance(each, Drawn)]) == [*range(8)]
    kinds = [each.kind for each in told if isinstance(each, Notice)]
    assert kinds == [NoticeKind.DISCONNECTED, NoticeKind.RECONNECTED] * (len(kinds) // 2)


async def test_a_walk_goes_on_when_the_service_is_there_again():
    toy = ToySessions()
    async with AsyncExitStack() as later:
        async with serving(toy) as address:
            client = await later.enter_async_context(WalkClient(address, config=CONFIG))
            walk = await later.enter_async_context(client.open())
            await walk.move(TURN)
        moving = asyncio.create_task(walk.move(TURN))
        async with serving(toy, address):
            assert (await moving).key.index == 1
            assert (await walk.move(TURN)).key.index == 2
            await walk.close()


async def test_a_hold_outlives_its_connection():
    async with service(cuts=[1, 1]) as (toy, client), client.open() as walk:
        events = walk.events()
        await walk.hold(Action(turn=90.0))
        number = await walk.hold(TURN)
        told = list[object]()
        while len(indices([each for each in told if isinstance(each, Drawn)])) < 3:
            told.append(await anext(events))
        made = toy.sittings[walk.session]
        assert made.taken[-1:] == [number]
        assert made.moves[-3:] == [(TURN,) * FRAMES] * 3
