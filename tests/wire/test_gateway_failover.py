"""Walks whose generators die, freeze or come back: the client's stream goes on, and nothing is drawn twice."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.gateways import Client, Fleet, fleet, setting, until
from worldkv.errors import NotFound, Unavailable
from worldkv.v1 import sessions_pb2 as pb

STAGES = ("taken", "applied", "drawn", "kept", "said")


@pytest.mark.parametrize("stage", STAGES)
async def test_a_walk_goes_on_when_its_generator_dies(tmp_path, stage):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        home = made.home(session)
        async with gateway.walk(session) as client:
            await client.move(1, number=1)
            await client.drawn(1)
            home.dies = lambda now: now == stage
            for way in (2, 3, 4):
                await client.move(way, number=way)
            notice = await client.next("notice")
            assert notice.kind == pb.NOTICE_KIND_MOVED
            drawn = await client.drawn(3)
        assert notice.chunk == (2 if stage in ("kept", "said") else 1)
        assert [(each.key.index, each.number) for each in drawn] == [(1, 2), (2, 3), (3, 4)]
        assert [each.pictures_dropped for each in drawn] == [stage in ("kept", "said"), False, False]
        record = made.tier.record("default", session)
        assert record.moves == [1, 2, 3, 4]
        assert all(each.key.branch == record.lineage.key(each.key.index).branch for each in drawn)
        assert gateway.figure("moved_total") == 1


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), numbered=st.booleans(), tells=st.booleans(), odds=st.floats(0.02, 0.15))
def test_what_is_drawn_is_what_was_sent_however_often_generators_die(tmp_path, seed, numbered, tells, odds):
    asyncio.run(_through_deaths(tmp_path, random.Random(seed), numbered, tells, odds))


async def _start_again(made: Fleet, settings: Callable[[], dict[str, Any]]) -> None:
    """Start generators that died again, under their names; does not end."""
    while True:
        for name, running in [*made.running.items()]:
            if running.toy.dead.is_set():
                await running.task
                await made.start(name, **settings())
        await asyncio.sleep(0.01)


async def _through_deaths(folder: Path, rng: random.Random, numbered: bool, tells: bool, odds: float) -> None:
    """Walk through generators of which each dies soon, and is started again under its name."""
    moves = [float(n) for n in range(1, 25)]

    def mortal() -> dict[str, Any]:
        return {"dies": lambda stage: rng.random() < odds / len(STAGES), "tells": tells}

    async with fleet(folder, "a", "b", **mortal()) as made, made.gateway() as gateway:
        undertaker = asyncio.create_task(_start_again(made, mortal))
        session = (await gateway.open()).session
        async with gateway.walk(session) as client, asyncio.timeout(60):

            async def send() -> None:
                for way in moves:
                    await client.move(way, number=int(way) if numbered else 0)
                    await asyncio.sleep(rng.random() * 0.01)

            sending = asyncio.create_task(send())
            drawn = await client.drawn(len(moves))
            await sending
        undertaker.cancel()
        assert made.tier.record("default", session).moves == moves
    assert [each.number for each in drawn] == [int(way) if numbered else 0 for way in moves]
    assert [each.key.index for each in drawn] == [*range(len(moves))]


async def test_a_held_action_goes_on_elsewhere(tmp_path):
    async with setting(tmp_path, "a", "b", draw_seconds=0.01) as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.hold(5, number=9)
            applied = await client.next("applied")
            assert (applied.number, applied.chunk) == (9, 0)
            await client.drawn(3)
            await made.kill(made.home(session).name)
            notice = await client.next("notice")
            indices = [each.key.index for each in await client.drawn(3)]
            assert indices[-1] >= notice.chunk
            await client.move(1, number=10)
            while (drawn := await client.next("drawn")).number != 10:
                pass
        record = made.tier.record("default", session)
        assert record.moves == [5] * drawn.key.index + [1]


async def test_a_pause_is_a_pause_elsewhere(tmp_path):
    async with setting(tmp_path, "a", "b", draw_seconds=0.001) as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.hold(5, number=1)
            await client.drawn(1)
            await client.hold(0, number=2, pause=True)
            while (await client.next("applied")).number != 2:
                pass
            await made.kill(made.home(session).name)
            await client.next("notice")
            while (await client.next("applied")).number != 2:
                pass
            kept = len(made.tier.record("default", session).moves)
            await client.move(1, number=3)
            while (drawn := await client.next("drawn")).number != 3:
                pass
            assert drawn.key.index == kept


async def test_a_frozen_generator_is_noticed(tmp_path):
    async with fleet(tmp_path, "a", "b") as made, made.gateway(silent_seconds=0.3) as gateway:
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.move(1, number=1)
            await client.drawn(1)
            home = made.home(session)
            home.frozen = True
            await client.move(2, number=2)
            assert (await client.next("notice")).chunk == 1
            (drawn,) = await client.drawn(1)
            home.frozen = False
            await client.move(3, number=3)
            await client.drawn(1)
        assert drawn.number == 2
        assert made.tier.record("default", session).moves == [1, 2, 3], "who thaws draws into nobody's world"


async def test_a_walk_goes_back_to_a_generator_that_starts_again(tmp_path):
    async with setting(tmp_path, "a") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.move(1, number=1)
            await client.drawn(1)
            await made.kill("a")
            await client.move(2, number=2)
            await made.start("a")
            (drawn,) = await client.drawn(1)
        assert (drawn.key.index, drawn.number) == (1, 2)


async def test_a_walk_that_nobody_takes_over_ends(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway(failover_seconds=0.5) as gateway:
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.next("joined")
            await made.kill("a")
            with pytest.raises(Unavailable, match=r"lost generator a .*no other took it over within 0.5 s"):
                await client.hear()
        assert gateway.figure("lost_total") == 1
        assert gateway.figure("walks") == 0


async def test_a_move_that_ends_every_generator_ends_its_walk_too(tmp_path):
    def deadly() -> dict[str, Any]:
        return {"dies": lambda stage: stage == "drawn", "greets": True}

    async with fleet(tmp_path, "a", "b", **deadly()) as made, made.gateway(failover_seconds=1.0) as gateway:
        undertaker = asyncio.create_task(_start_again(made, deadly))
        session = (await gateway.open()).session
        async with gateway.walk(session) as client, asyncio.timeout(30):
            await client.move(1, number=1)
            with pytest.raises(Unavailable, match="lost generator"):
                await client.next("drawn")
        undertaker.cancel()


async def test_a_session_that_is_gone_with_its_generator_is_not_found(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.next("joined")
            made.tier.records.clear()
            await made.kill(made.home(session).name)
            with pytest.raises(NotFound):
                await client.hear()


async def test_other_walks_do_not_notice_a_death(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        sessions = [(await gateway.open()).session for _ in range(2)]
        home = made.home(sessions[0])
        assert made.home(sessions[1]) is not home
        async with gateway.walk(sessions[1]) as client:
            await client.next("joined")
            await made.kill(home.name)
            await client.move(1)
            answers = [await client.hear() for _ in range(2)]
        assert [each.WhichOneof("message") for each in answers] == ["applied", "drawn"]


async def test_a_fork_during_failover_does_not_part_a_walk(tmp_path):
    async with setting(tmp_path, "a", "b", "c") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            await client.move(1, number=1)
            await client.drawn(1)
            forking = gateway.stub.Fork(pb.ForkRequest(session=session, world="w"))
            await made.kill(made.home(session).name)
            await client.move(2, number=2)
            (drawn,) = await client.drawn(1)
            await asyncio.gather(forking, return_exceptions=True)
        assert drawn.number == 2
        assert made.tier.record("default", session).moves == [1, 2]
        assert sum(toy.calls.count("Resume") for toy in made.toys()) == 1


async def test_a_client_that_comes_back_gets_what_it_has_not_seen(tmp_path):
    async with setting(tmp_path, "a") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            for number in (1, 2, 3):
                await client.move(number, number=number)
            await client.drawn(3)
        async with gateway.walk(session, seen=1) as client:
            await client.move(3, number=3)  # it does not know that this was drawn
            await client.move(4, number=4)
            assert [each.number for each in await client.drawn(3)] == [2, 3, 4]
        assert made.tier.record("default", session).moves == [1, 2, 3, 4]


async def test_a_session_that_was_taken_back_goes_on_elsewhere_from_there(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client:
            for number in (1, 2, 3):
                await client.move(number, number=number)
            await client.drawn(3)
            await gateway.stub.Rewind(pb.RewindRequest(session=session, at=1))
            await client.move(4, number=4)
            await client.drawn(1)
            made.home(session).dies = lambda stage: stage == "kept"
            await client.move(5, number=5)
            await client.move(6, number=6)
            drawn = await client.drawn(2)
        assert [(each.key.index, each.number) for each in drawn] == [(2, 5), (3, 6)]
        assert made.tier.record("default", session).moves == [1, 4, 5, 6]


async def test_what_was_dropped_when_a_session_was_taken_back_holds_nothing_up(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway(most_unanswered=2) as gateway:
        session = (await gateway.open()).session
        toy = made.home(session)
        async with gateway.walk(session) as client:
            toy.draw_seconds = 0.2
            for number in (1, 2, 3):
                await client.move(number, number=number)
            await client.drawn(1)
            await gateway.stub.Rewind(pb.RewindRequest(session=session, at=0))
            toy.draw_seconds = 0
            for number in (4, 5, 6):
                await client.move(number, number=number)
            while (await client.next("drawn")).number != 6:
                pass


@pytest.mark.parametrize("late_seconds", [0.0, 0.5])
async def test_what_waits_when_its_own_client_goes_back_is_dropped_without_an_error(tmp_path, late_seconds):
    async with setting(tmp_path, "a") as (made, gateway):
        session = (await gateway.open()).session
        toy = made.home(session)
        async with gateway.walk(session) as client:
            await client.move(1, number=1)
            await client.drawn(1)
            toy.draw_seconds, toy.late_seconds = 0.3, late_seconds
            for number in (2, 3):
                await client.move(number, number=number)
            await until(lambda: len(toy.live["default", session].taken) == 3)
            await gateway.stub.Rewind(pb.RewindRequest(session=session, at=0))
            await client.move(4, number=4)
            told = [await client.hear()]
            while not told[-1].HasField("drawn"):
                told.append(await client.hear())
        assert (told[-1].drawn.number, told[-1].drawn.key.index) == (4, 0)
        assert not any(each.HasField("notice") for each in told)
        assert made.tier.record("default", session).moves == [4]


async def test_what_waits_when_somebody_else_goes_back_is_drawn_from_there(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway(most_unanswered=2) as gateway, made.gateway() as other:
        session = (await gateway.open()).session
        toy = made.home(session)
        async with gateway.walk(session) as client, asyncio.timeout(20):
            await client.move(1, number=1)
            await client.drawn(1)
            toy.draw_seconds = 0.3
            for number in (2, 3):
                await client.move(number, number=number)
            await until(lambda: len(toy.live["default", session].taken) == 3)
            await other.stub.Rewind(pb.RewindRequest(session=session, at=0))
            assert (await client.next("notice")).kind == pb.NOTICE_KIND_MOVED
            await client.move(4, number=4)
            drawn = await client.drawn(3)
        assert [(each.number, each.key.index) for each in drawn] == [(2, 0), (3, 1), (4, 2)]
        assert made.tier.record("default", session).moves == [2, 3, 4]


@pytest.mark.parametrize("at", [0, 1])
async def test_what_was_drawn_before_a_session_was_taken_back_and_comes_after_is_told_nobody(tmp_path, at):
    async with setting(tmp_path, "a") as (made, gateway):
        session = (await gateway.open()).session
        toy = made.home(session)
        async with gateway.walk(session) as client, asyncio.timeout(20):
            for way in (1, 2, 3):
                await client.move(way, number=way)
            await client.drawn(3)
            live = toy.live["default", session]
            late = pb.WalkResponse()
            late.CopyFrom(live.hand[2])
            await gateway.stub.Rewind(pb.RewindRequest(session=session, at=at))
            live.say(late)
            await client.move(4, number=4)
            (drawn,) = await client.drawn(1)
        assert (drawn.key.index, drawn.number) == (at, 4)
        assert drawn.key.branch != late.drawn.key.branch


async def test_a_session_that_was_drawn_on_elsewhere_before_it_came_here_is_told_whole(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as client, asyncio.timeout(20):
            for way in (1, 2, 3):
                await client.move(way, number=way)
            await client.drawn(3)
            record = made.tier.record("default", session)
            before = record.lineage
            record.lineage, record.moves = before.fork(2), [1, 2, 9]  # the third was not kept, and drawn anew elsewhere
            await made.kill(made.home(session).name)
            notice = await client.next("notice")
            assert (notice.kind, notice.chunk) == (pb.NOTICE_KIND_MOVED, 2)
            (other,) = await client.drawn(1)
            assert (other.key.index, other.number, other.pictures_dropped) == (2, 0, True)
            assert other.key.branch == record.lineage.key(2).branch != before.key(2).branch
            await client.move(4, number=4)
            (drawn,) = await client.drawn(1)
        assert (drawn.key.index, drawn.number) == (3, 4)
        assert record.moves == [1, 2, 9, 4]


async def test_a_slow_client_costs_pictures_and_no_steps(tmp_path):
    async with setting(tmp_path, "a", picture_bytes=200_000, behind=4) as (made, gateway):
        session = (await gateway.open()).session
        toy = made.home(session)
        async with gateway.walk(session) as client:
            sending = asyncio.create_task(_send(client, 200))
            await until(lambda: toy.dropped)  # nobody reads: that has come to the generator
            drawn = await client.drawn(200)
            await sending
        assert [each.number for each in drawn] == [*range(1, 201)]
        assert sum(each.pictures_dropped for each in drawn) == toy.dropped > 0


async def test_moves_that_wait_are_bounded(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway(most_unanswered=4) as gateway:
        session = (await gateway.open()).session
        toy = made.home(session)
        toy.draw_seconds = 3600
        async with gateway.walk(session) as client:
            await client.next("joined")
            sending = asyncio.create_task(_send(client, 100))
            live = toy.live["default", session]
            await until(lambda: len(live.taken) == 4)
            await asyncio.sleep(0.1)
            assert len(live.taken) == 4
            sending.cancel()


async def _send(client: Client, count: int) -> None:
    for number in range(1, count + 1):
        await client.move(number, number=number)
