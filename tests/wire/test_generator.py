"""Walks over the wire: moves, holds, shows, tours and joins do what the protos say."""

import asyncio
from dataclasses import replace
from io import BytesIO
from time import sleep

import numpy as np
import pytest
from PIL import Image

from services.generator.config import LiveConfig
from services.generator.live.pictures import encoded
from tests.toys import TOY
from tests.wire.generator import CONFIG, TURN, Stream, generating, pictures
from tests.wire.shard import until
from worldkv.errors import Conflict, InvalidInput, NonFinite, NotFound, OverBudget, Unavailable
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb


def picture(value: float = 0.5, height: int = TOY.height, width: int = TOY.width) -> pb.Picture:
    data = np.full((height, width, 3), value, "<f4").tobytes()
    return pb.Picture(format=pb.PICTURE_FORMAT_RGB32F, width=width, height=height, data=data)


def showing(*shown: pb.Picture, number: int = 0) -> pb.Show:
    return pb.Show(pictures=shown, walkers=[pb.Walker(x=6, z=6, yaw=n) for n in range(len(shown))], number=number)


async def test_a_walk_from_open_to_close():
    async with generating() as caller:
        opened = await caller.open(scene="rooms:7", world="harbour")
        assert (opened.world.name, opened.next, opened.model) == ("harbour", 0, "pocket")
        assert (opened.frames, opened.pictures, opened.width, opened.height) == (3, 3, TOY.width, TOY.height)
        async with caller.walk(opened.session) as walk:
            assert await walk.next("joined") == opened
            drawn = await walk.steps(6)
            while (await walk.next("remembered")).end < 6:
                pass
        assert [each.key.index for each in drawn] == list(range(6))
        assert {each.key.branch for each in drawn} == {opened.world.lineage.parts[-1].branch}
        assert len(set(pictures(drawn))) == 18
        assert all(len(each.poses) == 3 for each in drawn)
        assert drawn[-1].counts.recalled > 0
        assert {each.key.index for each in drawn[-1].recalled} <= {1, 2, 3}
        assert drawn[-1].walker.yaw == pytest.approx(opened.walker.yaw + 6 * 60)
        closed = await caller.call("Close", session=opened.session)
        assert (closed.remembered.end, closed.remembered.level) == (6, chunk_pb2.LEVEL_ONE)
        assert (closed.world.chunks, closed.world.name) == (6, "harbour")
        with pytest.raises(NotFound):
            await caller.call("Close", session=opened.session)
        assert caller.figure("chunks_total", kind="generated") == 6


async def test_a_chunk_is_told_of_before_it_is_said_to_be_kept(monkeypatch):
    def slowly(*arguments):
        sleep(0.2)  # what is drawn is kept long before
        return encoded(*arguments)

    monkeypatch.setattr("services.generator.live.walking.encoded", slowly)
    async with generating() as caller:
        opened = await caller.open(lockstep=False)
        async with caller.walk(opened.session) as walk:
            await walk.steps(3)
            while walk.told[-1].remembered.end < 3:
                await walk.hear()
    drawn = 0
    for each in walk.told:
        if each.HasField("drawn"):
            drawn = each.drawn.key.index + 1
        assert each.remembered.end <= drawn


async def walked(caller, chunks: int = 6, **fields) -> list[bytes]:
    opened = await caller.open(**fields)
    async with caller.walk(opened.session) as walk:
        return pictures(await walk.steps(chunks))


async def test_the_same_seed_and_moves_draw_the_same_walk():
    async with generating() as caller:
        first = await walked(caller, scene="rooms:1", seed=3)
        assert await walked(caller, scene="rooms:1", seed=3) == first
        assert await walked(caller, scene="rooms:1", seed=4) != first


async def test_pictures_come_in_the_form_that_was_asked_for():
    async with generating() as caller:
        exact = await walked(caller, 1, scene="rooms:1")
        rgb = await walked(caller, 1, scene="rooms:1", format=pb.PICTURE_FORMAT_RGB8)
        jpeg = await walked(caller, 1, scene="rooms:1", format=pb.PICTURE_FORMAT_UNSPECIFIED)
    shape = (TOY.height, TOY.width, 3)
    floats = np.frombuffer(exact[0], "<f4").reshape(shape)
    assert np.array_equal(np.frombuffer(rgb[0], np.uint8).reshape(shape), (floats.clip(0, 1) * 255).round())
    film = np.asarray(Image.open(BytesIO(jpeg[0])), np.float32) / 255
    assert np.abs(film - floats.clip(0, 1)).mean() < 0.1


async def test_moves_are_drawn_in_order_and_say_where_they_take_effect():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        for number in range(1, 6):
            await walk.move(number=number)
        drawn = [await walk.next("drawn") for _ in range(5)]
        applied = [each.applied for each in walk.told if each.HasField("applied")]
    assert [each.number for each in drawn] == [1, 2, 3, 4, 5]
    assert [(each.number, each.chunk) for each in applied] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert all(each.seconds > 0 for each in drawn)


async def test_a_number_that_was_taken_is_passed_over():
    async with generating() as caller:
        session = (await caller.open()).session
        async with caller.walk(session) as walk:
            await walk.step(number=77)
        async with caller.walk(session, seen=1) as walk:
            await walk.move(number=77)
            drawn = await walk.step(number=78)
    assert (drawn.key.index, drawn.number) == (1, 78)


@pytest.mark.slow
async def test_what_waits_behind_a_move_that_fails_is_not_drawn_before_it(monkeypatch):
    async with generating() as caller:
        session = (await caller.open()).session
        walking, engine = caller.made.live.find("default", session), caller.made.live.maker.engine

        async def fail(owner, draft, due):
            monkeypatch.undo()
            raise Unavailable("for once")

        monkeypatch.setattr(engine, "draw", fail)
        async with caller.walk(session) as walk:
            async with walking.lock:
                for number in (1, 2, 3):
                    await walk.move(number=number)
                await until(lambda: len(walking._inbox) == 3)
            with pytest.raises(Unavailable, match="for once"):
                await walk.ended()
        async with caller.walk(session) as walk:
            for number in (1, 2, 3):
                await walk.move(number=number)
            told = [await walk.next("drawn") for _ in range(3)]
        assert [(each.number, each.key.index) for each in told] == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.slow
async def test_too_many_moves_end_the_stream_and_not_the_session():
    async with generating(moves=3) as caller:
        session = (await caller.open()).session
        walking = caller.made.live.find("default", session)
        async with caller.walk(session) as walk, walking.lock:  # nothing is drawn meanwhile
            for number in range(1, 5):
                await walk.move(number=number)
            with pytest.raises(OverBudget, match="3 moves wait"):
                await walk.ended()
        async with caller.walk(session) as walk:
            assert [(await walk.next("drawn")).number for _ in range(3)] == [1, 2, 3]
            assert (await walk.step(number=4)).key.index == 3


BAD = {
    "two actions": {"move": pb.Move(actions=[TURN, TURN])},
    "no action": {"move": pb.Move()},
    "not finite": {"move": pb.Move(actions=[pb.Action(forward=float("nan"))])},
    "too far": {"move": pb.Move(actions=[pb.Action(strafe=1e9)])},
    "too fast": {"hold": pb.Hold(action=pb.Action(turn=-1e5))},
    "a second join": {"join": pb.Join(session="x")},
    "nothing": {},
    "no pictures": {"show": pb.Show()},
    "pictures of nowhere": {"show": pb.Show(pictures=[picture()] * 3)},
    "too few pictures": {"show": showing(picture(), picture())},
    "another size": {"show": showing(*[picture(height=8)] * 3)},
    "too short": {"show": showing(*[pb.Picture(format=2, width=TOY.width, height=TOY.height, data=b"x")] * 3)},
    "not between 0 and 1": {"show": showing(*[picture(2.0)] * 3)},
    "no film": {"show": showing(*[pb.Picture(format=1, width=TOY.width, height=TOY.height, data=b"x")] * 3)},
    "no place": {"show": pb.Show(pictures=[picture()] * 3, walkers=[pb.Walker(pitch=89)] * 3)},
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD.keys())
async def test_what_is_wrong_ends_the_stream_and_harms_no_session(message):
    async with generating() as caller:
        good, other = [(await caller.open()).session for _ in range(2)]
        async with caller.walk(good) as walk, caller.walk(other) as beside:
            await walk.step()
            await walk.say(**message)
            with pytest.raises(InvalidInput):
                await walk.ended()
            assert (await beside.step()).key.index == 0
        async with caller.walk(good, seen=1) as walk:
            assert (await walk.step()).key.index == 1


async def test_pictures_that_are_not_finite_are_refused():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.say(show=showing(*[picture(float("inf"))] * 3))
        with pytest.raises(NonFinite):
            await walk.ended()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scene": "castles:1"}, "rooms:SEED"),
        ({"scene": "rooms:-1"}, "rooms:SEED"),
        ({"scene": "rooms:x" + "x" * 5000}, "4096"),
        ({"mode": 9}, "mode"),
        ({"format": 9}, "format"),
        ({"world": "~mine"}, "~"),
        ({"world": "x" * 200}, "128"),
        ({"at": 3}, "new"),
        ({"tour": "Q9"}, "position 0"),
        ({"tour": "R9999"}, "at most"),
        ({"tour": "_9999999999"}, "at most"),
        ({"tour": "_0" * 5000}, "4096 characters"),
        ({"start": pb.Walker(pitch=89)}, "pitch"),
        ({"start": pb.Walker(x=float("inf"))}, "finite"),
    ],
)
async def test_what_cannot_be_opened_is_named(fields, words):
    async with generating() as caller:
        with pytest.raises(InvalidInput, match=words):
            await caller.open(**fields)
        assert not [each async for each in caller.made.live.maker.tier("default").worlds.list()]
        assert caller.made.live.maker.engine.resident_bytes == 0


async def test_a_walk_begins_with_a_join_to_a_session_that_is_there():
    async with generating() as caller:
        opened = await caller.open()
        for first in ({"move": pb.Move(actions=[TURN])}, {}):
            stream = caller.sessions.Walk(metadata=caller.metadata)
            await stream.write(pb.WalkRequest(**first))
            with pytest.raises(InvalidInput, match="join"):
                await Stream(stream).ended()
        async with caller.walk("unknown") as walk:
            with pytest.raises(NotFound):
                await walk.ended()
        async with caller.of("somebody").walk(opened.session) as walk:
            with pytest.raises(NotFound):
                await walk.ended()


async def test_a_second_client_takes_over_and_is_sent_what_the_first_had_not_seen():
    async with generating() as caller:
        session = (await caller.open()).session
        async with caller.walk(session) as first:
            drawn = await first.steps(3)
            async with caller.walk(session, seen=1) as second:
                assert (await second.next("joined")).next == 3
                assert pictures([await second.next("drawn") for _ in range(2)]) == pictures(drawn[1:])
                with pytest.raises(Conflict):
                    await first.ended()
                assert (await second.step()).key.index == 3


async def test_a_walk_that_says_no_more_ends_when_everything_is_drawn():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        for _ in range(3):
            await walk.move()
        await walk.call.done_writing()
        await walk.ended()
        assert [each.drawn.key.index for each in walk.told if each.HasField("drawn")] == [0, 1, 2]


async def test_a_hold_walks_by_itself_until_it_is_told_to_stop():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.say(hold=pb.Hold(action=TURN, number=5))
        assert (await walk.next("applied")).number == 5
        drawn = [await walk.next("drawn") for _ in range(3)]
        assert [each.number for each in drawn] == [0, 0, 0]
        await walk.say(hold=pb.Hold(pause=True, number=6))
        while (await walk.next("applied")).number != 6:
            pass
        assert (await walk.step(number=7)).number == 7
        walking = caller.made.live.find("default", caller.made.live.of("default")[0].resident.id)
        assert walking.idle
    walkers = [each.drawn.walker.yaw for each in walk.told if each.HasField("drawn")]
    assert np.allclose(np.diff(walkers), 60.0)


async def test_another_hold_is_drawn_before_what_was_drawn_has_been_shown():
    config = replace(CONFIG, live=LiveConfig(pictures_per_second=0.01))
    async with generating(config=config) as caller, caller.walk((await caller.open()).session) as walk:
        await walk.say(hold=pb.Hold(action=TURN, number=5))
        drawn = [await walk.next("drawn")]
        await walk.say(hold=pb.Hold(action=pb.Action(turn=-20.0), number=6))
        drawn.append(await walk.next("drawn"))
    assert np.allclose(np.diff([each.walker.yaw for each in drawn]), [-60.0])


async def test_a_hold_goes_on_after_what_is_shown():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.say(hold=pb.Hold(action=TURN, number=5))
        await walk.say(show=showing(*[picture()] * 3, number=6))
        assert (await walk.next("applied")).number == 5
        while (await walk.next("drawn")).number != 6:
            pass
        assert [(await walk.next("drawn")).number for _ in range(2)] == [0, 0]


async def test_of_holds_that_come_during_one_chunk_the_last_wins():
    async with generating() as caller:
        session = (await caller.open()).session
        walking = caller.made.live.find("default", session)
        async with caller.walk(session) as walk:
            await walk.next("joined")
            async with walking.lock:
                for number, turn in ((1, 5.0), (2, 20.0)):
                    await walk.say(hold=pb.Hold(action=pb.Action(turn=turn), number=number))
                await until(lambda: walking._inbox.numbers == (1, 2))
            assert (await walk.next("applied")).number == 2
            first, second = [await walk.next("drawn") for _ in range(2)]
    assert second.walker.yaw - first.walker.yaw == pytest.approx(60.0)


async def test_a_hold_draws_nothing_while_nobody_is_joined_and_goes_on_after_that():
    async with generating() as caller:
        session = (await caller.open()).session
        walking = caller.made.live.find("default", session)
        async with caller.walk(session) as walk:
            await walk.say(hold=pb.Hold(action=TURN))
            await walk.next("drawn")
        await until(lambda: walking.outbox is None and not walking.lock.locked())
        before = walking.resident.next
        await asyncio.sleep(0.2)
        assert walking.resident.next == before
        async with caller.walk(session, seen=before) as walk:
            assert (await walk.next("drawn")).key.index == before


async def test_shown_pictures_become_the_next_chunk():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.step()
        shown = [picture(value) for value in (0.25, 0.5, 0.75)]
        await walk.say(show=showing(*shown, number=9))
        drawn = await walk.next("drawn")
        assert (drawn.number, drawn.key.index, drawn.walker) == (9, 1, pb.Walker(x=6, z=6, yaw=2))
        assert pictures([drawn]) == [each.data for each in shown]
        assert (await walk.step()).key.index == 2


async def test_a_tour_is_shown_before_the_walker_takes_over():
    async with generating() as caller:
        opened = await caller.open(scene="rooms:7", tour="R90")
        async with caller.walk(opened.session) as walk:
            await walk.move(number=1)
            drawn = [await walk.next("drawn") for _ in range(5)]
        assert [each.number for each in drawn] == [0, 0, 0, 0, 1]
        assert drawn[3].walker.yaw == pytest.approx(opened.walker.yaw + 90)
        assert caller.figure("chunks_total", kind="shown") == 4
        place = caller.made.live.maker.scene("rooms:7")
        assert place.pictures is not None
        seen = place.pictures([place.start])[0].permute(1, 2, 0).numpy()
        first = np.frombuffer(drawn[0].pictures[0].data, "<f4").reshape(seen.shape)
        assert np.allclose(first, seen, atol=1e-5)


async def test_walls_stop_a_walker_however_far_a_step_is():
    async with generating() as caller, caller.walk((await caller.open(scene="rooms:7")).session) as walk:
        drawn = await walk.step(*[pb.Action(forward=10.0)] * 3)
        assert 0 < drawn.walker.x < 12
        assert 0 < drawn.walker.z < 12
