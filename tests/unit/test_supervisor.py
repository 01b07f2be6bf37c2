"""The supervisor over parts of a test: whatever dies or freezes, in the end all that is wanted is there."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cluster.config import SupervisionConfig
from services.cluster.roster import KINDS, Pulse, Roster, Where, name_of, parsed
from services.cluster.supervisor import Supervisor
from worldkv.client import Member
from worldkv.errors import InvalidConfig, InvalidInput, NotFound, Unavailable

QUICK = SupervisionConfig(
    ping_seconds=0.01,
    silent_seconds=0.1,
    start_seconds=0.2,
    end_seconds=0.1,
    rest_seconds=0.001,
    longest_rest_seconds=0.01,
    steady_seconds=0.05,
)
SMALL = {"kvstore": 2, "retriever": 1, "generator": 1, "gateway": 1}
PATIENCE = 30.0


class FakeUnits:
    """Parts that are entries of a table; a test kills, freezes and spoils them.

    running    by name
    trouble    how many of the next starts fail, by name
    log        what was done, in order: ("start" or "stop", name)
    published  every roster that any part was told, in order, by name
    given      seconds that each had when it was last stopped, by name
    stuck      names whose starts never end
    """

    def __init__(self) -> None:
        self.running: dict[str, Roster] = {}
        self.frozen: set[str] = set()
        self.deaf: set[str] = set()
        self.trouble: dict[str, int] = {}
        self.log: list[tuple[str, str]] = []
        self.published: dict[str, list[Roster]] = {}
        self.ports = iter(range(1, 1 << 16))
        self.where: dict[str, Where] = {}
        self.slow_ends = 0.0
        self.stuck: set[str] = set()
        self.given: dict[str, float] = {}

    async def start(self, name: str, roster: Roster) -> Where:
        if name not in self.running:
            self.log.append(("start", name))
            await asyncio.sleep(1e9 if name in self.stuck else 0)
            if self.trouble.get(name, 0) > 0:
                self.trouble[name] -= 1
                raise Unavailable(f"{name}: no room")
            self.running[name], self.where[name] = roster, Where(f"127.0.0.1:{next(self.ports)}")
            self.published.setdefault(name, []).append(roster)
        return self.where[name]

    async def stop(self, name: str, seconds: float) -> None:
        self.given[name] = seconds
        if name in self.running:
            self.log.append(("stop" if seconds else "kill", name))
            await asyncio.sleep(self.slow_ends if seconds else 0)
            self.frozen.discard(name)
            self.deaf.discard(name)
            self.running.pop(name, None)

    async def ping(self, name: str) -> Pulse:
        await self._answers(name)
        idle = 1e9 if name in self.deaf else 0.0
        return Pulse(self.where[name], idle, {"parts": "1"}, self.running[name])

    async def publish(self, name: str, roster: Roster) -> None:
        await self._answers(name)
        self.running[name] = roster
        self.published[name].append(roster)

    async def _answers(self, name: str) -> None:
        if name not in self.running:
            raise NotFound(f"{name} has died")
        while name in self.frozen:  # noqa: ASYNC110 - a test thaws it
            await asyncio.sleep(0.005)
        if name not in self.running:
            raise NotFound(f"{name} has died")


@asynccontextmanager
async def supervised(units: FakeUnits, wanted=SMALL, **more):
    made = Supervisor(units, QUICK, wanted, **more)
    made.begin()
    try:
        yield made
    finally:
        await made.leave()


async def settled(made: Supervisor) -> None:
    async with asyncio.timeout(PATIENCE):
        await made.until_ready()


async def until(true) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


def names(members) -> list[str]:
    return [member.name for member in members]


async def test_each_kind_starts_when_somebody_of_the_kinds_before_it_serves_and_knows_them():
    units = FakeUnits()
    units.trouble["kvstore-1"] = 1
    async with supervised(units) as made:
        await settled(made)
        starts = [parsed(name)[0] for what, name in units.log if what == "start" and name != "kvstore-1"]
        assert starts == ["kvstore", "retriever", "generator", "gateway"]
        first = units.published["gateway-1"][0]
        assert all(first.members[kind] for kind in ("kvstore", "retriever", "generator"))
        assert names(made.roster.members["kvstore"]) == ["kvstore-1", "kvstore-2"]
        assert all(roster == made.roster for roster in units.running.values())


async def test_what_dies_is_started_again_under_its_name_and_the_others_learn_where_it_is_now():
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        before, old = made.roster, units.where["kvstore-2"]
        del units.running["kvstore-2"]
        await until(lambda: "kvstore-2" in units.running and units.running["generator-1"] == made.roster != before)
        assert names(made.roster.members["kvstore"]) == ["kvstore-1", "kvstore-2"]
        assert made.roster.members["kvstore"][1].address == units.where["kvstore-2"].address != old.address
        assert [part.restarts for part in made.parts()] == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("how", ["frozen", "deaf"])
async def test_what_gives_no_sign_of_life_is_killed_and_started_again(how):
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        getattr(units, how).add("generator-1")
        await until(lambda: ("kill", "generator-1") in units.log and "generator-1" in units.running)
        await settled(made)
        assert units.log.count(("start", "generator-1")) == 2
        assert units.log.count(("start", "kvstore-1")) == 1


async def test_a_frozen_part_keeps_no_other_from_learning_of_the_membership():
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        units.frozen.add("retriever-1")
        await made.scale({"kvstore": 3})
        assert units.running["gateway-1"] == made.roster
        assert len(made.roster.members["kvstore"]) == 3


async def test_a_part_that_does_not_start_is_told_in_words_and_goes_on_being_tried():
    units = FakeUnits()
    units.trouble["gateway-1"] = 6
    async with supervised(units) as made:
        with pytest.raises(Unavailable, match=r"gateway-1 does not start: gateway-1: no room"):
            await settled(made)
        await until(lambda: "gateway-1" in units.running)
        await until(lambda: all(part.state == "ready" for part in made.parts()))


async def test_shards_that_leave_are_published_as_leaving_before_they_are_told_to_end_and_until_they_have():
    units = FakeUnits()
    units.slow_ends = 0.05
    async with supervised(units, {**SMALL, "kvstore": 3}) as made:
        await settled(made)
        calls = asyncio.create_task(made.scale({"kvstore": 1}))
        await until(lambda: ("stop", "kvstore-2") in units.log)
        during = made.roster
        assert names(during.leaving["kvstore"]) == ["kvstore-2", "kvstore-3"]
        assert names(during.members["kvstore"]) == ["kvstore-1"]
        assert all(units.running[name] == during for name in ("kvstore-1", "kvstore-2", "generator-1"))
        await calls
        assert set(units.running) == {"kvstore-1", "retriever-1", "generator-1", "gateway-1"}
        assert not made.roster.leaving["kvstore"]
        assert units.running["generator-1"] == made.roster


async def test_a_shard_that_hands_over_is_told_of_every_new_roster(monkeypatch):
    units, over = FakeUnits(), asyncio.Event()
    stop = units.stop

    async def stop_slowly(name: str, seconds: float) -> None:
        if name == "kvstore-3":
            await over.wait()
        await stop(name, seconds)

    monkeypatch.setattr(units, "stop", stop_slowly)
    async with supervised(units, {**SMALL, "kvstore": 3}) as made:
        await settled(made)
        calls = asyncio.create_task(made.scale({"kvstore": 1}))
        await until(lambda: "kvstore-2" not in units.running)
        await until(lambda: units.running["kvstore-3"] == made.roster)
        assert names(made.roster.leaving["kvstore"]) == ["kvstore-3"]
        over.set()
        await calls


async def test_a_part_that_is_wanted_again_while_it_ends_comes_again():
    units = FakeUnits()
    units.slow_ends = 0.05
    async with supervised(units) as made:
        await settled(made)
        less = asyncio.create_task(made.scale({"kvstore": 1}))
        await until(lambda: ("stop", "kvstore-2") in units.log)
        await made.scale({"kvstore": 2})
        await less
        assert "kvstore-2" in units.running
        assert names(made.roster.members["kvstore"]) == ["kvstore-1", "kvstore-2"]


async def test_numbers_that_cannot_be_are_refused_and_change_nothing():
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        for wanted in ({"kvstore": 0}, {"gateway": 0}, {"generator": 100_000}, {"generator": 2, "retriever": 0}):
            with pytest.raises(InvalidConfig):
                await made.scale(wanted)
        assert len(units.running) == 5
        await made.scale({"generator": 0})
        assert "generator-1" not in units.running


async def test_without_generators_gateways_wait_and_nobody_waits_for_them():
    units = FakeUnits()
    async with supervised(units, {**SMALL, "generator": 0}) as made:
        await settled(made)
        assert "gateway-1" not in units.running
        await made.scale({"generator": 1})
        await settled(made)
        assert "gateway-1" in units.running


async def test_all_ends_in_order_and_shards_that_end_together_hand_nothing_to_each_other():
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        await asyncio.gather(made.stop(), made.stop())
        ends = [parsed(name)[0] for what, name in units.log if what == "stop"]
        assert ends == ["gateway", "generator", "retriever", "kvstore", "kvstore"]
        assert made.ended.is_set()
        assert not units.running
        assert not list(made.parts())
        for name in ("kvstore-1", "kvstore-2"):
            assert names(units.published[name][-1].members["kvstore"]) == [name]
        with pytest.raises(Unavailable):
            await made.scale({"kvstore": 2})


async def test_what_does_not_serve_is_not_ended_in_order():
    units = FakeUnits()
    units.stuck = {"kvstore-2", "gateway-1"}
    async with supervised(units) as made:
        await until(lambda: "generator-1" in units.running)
        await made.scale({"kvstore": 1})
        assert units.given["kvstore-2"] == 0
        await made.stop()
        assert units.given["gateway-1"] == 0
        assert units.given["generator-1"] == units.given["kvstore-1"] == QUICK.end_seconds


async def test_an_end_goes_on_if_nobody_waits_for_it():
    units = FakeUnits()
    units.slow_ends = 0.05
    async with supervised(units) as made:
        await settled(made)
        asking = asyncio.create_task(made.stop())
        await until(lambda: ("stop", "gateway-1") in units.log)
        asking.cancel()
        async with asyncio.timeout(PATIENCE):
            await made.ended.wait()
        assert not units.running


async def test_the_next_supervisor_takes_over_what_runs_and_counts_on():
    units = FakeUnits()
    async with supervised(units) as made:
        await settled(made)
        await made.scale({"kvstore": 3})
        last = made.roster
    started = len(units.log)
    found = {name: await units.ping(name) for name in units.running if name != "generator-1"}
    del units.running["generator-1"]  # it died while nobody looked
    async with supervised(units, {**SMALL, "kvstore": 1}, found=found, number=2) as made:
        await settled(made)
        assert units.log[started:] == [("start", "generator-1")]
        assert made.roster.number > last.number
        assert len(made.roster.members["kvstore"]) == 3  # as it was scaled, not as it was begun
        await until(lambda: all(roster == made.roster for roster in units.running.values()))


async def test_members_elsewhere_are_told_without_a_number_and_neither_started_nor_ended():
    units, elsewhere = FakeUnits(), {"kvstore": (Member("far", "10.0.0.1:7070"),)}
    async with supervised(units, elsewhere=elsewhere) as made:
        await settled(made)
        assert not any(name.startswith("kvstore") for name in units.running)
        assert made.roster.text("kvstore") == 'number = 0\nshards = ["far=10.0.0.1:7070"]\nleaving = []\n'
        assert next(part.state for part in made.parts()) == "elsewhere"
        with pytest.raises(InvalidInput, match="run elsewhere"):
            await made.scale({"kvstore": 2})
        await made.stop()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["die", "freeze", "deafen", "fail", "scale", "pause", "successor"]),
        st.sampled_from(KINDS),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=25)
@given(EVENTS)
async def test_whatever_dies_or_freezes_in_the_end_all_that_is_wanted_is_there(events):
    units, wanted = FakeUnits(), dict(SMALL)
    seen: list[Roster] = []
    made = Supervisor(units, QUICK, wanted, listener=seen.append)
    made.begin()
    scaling: list[asyncio.Task[None]] = []
    try:
        for what, kind, number in events:
            name = name_of(kind, number)
            if what == "die":
                units.running.pop(name, None)
            elif what in ("freeze", "deafen") and name in units.running:
                (units.frozen if what == "freeze" else units.deaf).add(name)
            elif what == "fail":
                units.trouble[name] = 2
            elif what == "scale":
                wanted[kind] = number
                scaling.append(asyncio.create_task(made.scale({kind: number})))
                await asyncio.sleep(0)
            elif what == "successor":
                await asyncio.gather(*scaling, return_exceptions=True)
                await made.leave()
                alive = [each for each in units.running if each not in units.frozen]
                for each in list(units.frozen):
                    await units.stop(each, 0)
                found = {each: await units.ping(each) for each in alive}
                newest = max((pulse.roster for pulse in found.values()), key=lambda each: each.number, default=None)
                wanted = dict(newest.wanted) if newest else wanted
                made = Supervisor(units, QUICK, wanted, found=found, number=made.roster.number, listener=seen.append)
                made.begin()
            else:
                await asyncio.sleep(random.Random(number).random() / 50)
        goal = {name_of(kind, n) for kind, count in wanted.items() for n in range(1, count + 1)}
        await until(
            lambda: (
                set(units.running) == goal
                and not units.frozen | units.deaf
                and all(roster == made.roster for roster in units.running.values())
            )
        )
        for kind in KINDS:
            told = {member.name: member.address for member in made.roster.members[kind]}
            assert told == {name: units.where[name].address for name in goal if parsed(name)[0] == kind}
            assert not made.roster.leaving[kind]
        numbers = [roster.number for roster in seen]
        assert numbers == sorted(set(numbers))
    finally:
        for task in scaling:
            task.cancel()
        await asyncio.gather(*scaling, return_exceptions=True)
        await made.leave()
    for rosters in units.published.values():
        numbers = [roster.number for roster in rosters]
        assert numbers == sorted(numbers)
