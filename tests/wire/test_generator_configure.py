"""How a session remembers, changed while it walks: what applies when, what is refused, and what survives."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.config import GatewayConfig, RoutingConfig, WebConfig
from services.gateway.server import assembled
from services.generator.engine import EngineConfig
from services.generator.live.inbox import Changing
from services.generator.live.outbox import MOST
from tests.toys import toy_spec
from tests.wire.generator import CONFIG, Caller, Stream, generating, inside, pictures
from tests.wire.shard import until
from worldkv.actions import Action
from worldkv.client import MemoryChange, WalkClient
from worldkv.client.walk_events import Applied, Drawn, Event, Refused
from worldkv.errors import InvalidInput, OverBudget
from worldkv.service import Host, serve
from worldkv.v1 import sessions_pb2 as pb

WINDOW, FULL, WORLDKV = pb.MEMORY_MODE_WINDOW, pb.MEMORY_MODE_FULL, pb.MEMORY_MODE_WORLDKV
CHUNK = toy_spec().raw_bytes
numbers = itertools.count(1)


async def change(walk: Stream, **changes: Any) -> pb.WalkResponse:
    """Change something; the answer."""
    number = next(numbers)
    await walk.say(configure=pb.Configure(settings=pb.MemorySettings(**changes), number=number))
    while number not in ((answer := await walk.hear()).applied.number, answer.refused.number):
        pass
    return answer


async def applied(walk: Stream, **changes: Any) -> int:
    """Change something that can be; the first chunk that it has an effect on."""
    answer = await change(walk, **changes)
    assert answer.HasField("applied"), answer.refused.text
    return answer.applied.chunk


async def now(caller: Caller, session: str) -> pb.MemorySettings:
    async with caller.walk(session) as walk:
        joined = await walk.next("joined")
    assert isinstance(joined, pb.OpenResponse)
    return joined.memory.now


async def test_a_session_says_what_it_remembers_and_what_could_be_chosen():
    async with generating() as caller:
        memory = (await caller.open()).memory
        assert (memory.now.mode, memory.now.selector, memory.now.recalled, memory.now.codec) == (
            WORLDKV,
            "pose",
            2,
            "int8",
        )
        assert (memory.now.keep, memory.now.budget_chunks, memory.slots) == (1.0, 0, 2)
        assert {"pose", "coverage_early", "nothing"} <= set(memory.selectors)
        assert {"int8", "raw"} <= set(memory.codecs)
        wanted = pb.MemorySettings(selector="latest", recalled=1, keep=0.5, codec="int4", budget_chunks=9, mode=WINDOW)
        assert (await caller.open(settings=wanted)).memory.now == wanted
        assert (await caller.open(mode=FULL)).memory.now.mode == FULL


async def test_what_contradicts_itself_opens_no_session():
    async with generating() as caller:
        with pytest.raises(InvalidInput, match="mode window is not"):
            await caller.open(mode=WINDOW, settings=pb.MemorySettings(mode=FULL))
        with pytest.raises(InvalidInput, match="recalled = 3"):
            await caller.open(settings=pb.MemorySettings(recalled=3))


async def test_a_change_has_its_effect_from_the_chunk_that_is_named():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.steps(6)
        assert await applied(walk, recalled=1) == 6
        assert len((await walk.step()).recalled) == 1
        assert await applied(walk, selector="nothing") == 7
        assert len((await walk.step()).recalled) == 0
        assert await applied(walk, selector="latest", recalled=2) == 8
        drawn = await walk.step()
        assert sorted(each.key.index for each in drawn.recalled) == [5, 6]
        assert await applied(walk, mode=WINDOW) == 9
        drawn = await walk.step()
        assert (drawn.mode, len(drawn.recalled), drawn.held.window) == (WINDOW, 0, (4 + 4) * CHUNK)
        assert await applied(walk, mode=FULL) == 10
        drawn = await walk.step()
        assert (drawn.mode, len(drawn.recalled), drawn.held.window) == (FULL, 0, (16 + 11) * CHUNK)
        assert await applied(walk, mode=WORLDKV) == 11
        drawn = await walk.step()
        assert sorted(each.key.index for each in drawn.recalled) == [8, 9]


async def test_a_change_is_made_in_its_turn_and_before_the_rest_of_a_tour():
    async with generating() as caller, caller.walk((await caller.open(tour="R360_")).session) as walk:
        chunk = await applied(walk, mode=WINDOW)
        await walk.step()
    drawn = [each.drawn for each in walk.told if each.HasField("drawn")]
    assert [each.key.index for each in drawn] == [*range(len(drawn))]
    assert all(each.mode == (WORLDKV if each.key.index < chunk else WINDOW) for each in drawn)
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.move()
        await walk.move()
        assert await applied(walk, mode=WINDOW) == 2


async def test_less_is_kept_of_what_is_drawn_after_that_and_it_is_recalled_all_the_same():
    async with generating(config=replace(CONFIG, memory=replace(CONFIG.memory, hot_bytes=0))) as caller:
        async with caller.walk((await caller.open()).session) as walk:
            whole = [each.held.stored for each in await walk.steps(4)]
            await applied(walk, codec="int4", keep=0.5, selector="latest")
            less = [whole[-1], *(each.held.stored for each in await walk.steps(4))]
            drawn = await walk.step()
    assert max(b - a for a, b in itertools.pairwise(less)) < min(b - a for a, b in itertools.pairwise(whole))
    assert sorted(each.key.index for each in drawn.recalled) == [5, 6]
    assert not any(each.reencoded for each in drawn.recalled)


async def test_a_budget_is_kept_from_the_next_chunk_on():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        assert not [each for one in await walk.steps(7) for each in one.demoted]
        await applied(walk, budget_chunks=3, selector="nothing")
        assert len((await walk.step()).demoted) == 5
        assert len((await walk.step()).demoted) == 1
        await applied(walk, budget_chunks=0)
        assert len((await walk.step()).demoted) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selector": "nobody"}, "no selector is named 'nobody'"),
        ({"codec": "nobody"}, "no codec is named 'nobody'"),
        ({"recalled": 3, "mode": WINDOW}, "recalled = 3: the window has 2 slots"),
        ({"budget_chunks": 1}, "budget_chunks = 1"),
    ],
)
async def test_what_cannot_be_is_refused_in_words_and_changes_nothing(changes, words):
    async with generating() as caller:
        session = (await caller.open()).session
        async with caller.walk(session) as walk:
            before = (await walk.next("joined")).memory.now
            await walk.steps(2)
            assert words in (await change(walk, **changes)).refused.text
            assert (await walk.step()).mode == WORLDKV
        assert await now(caller, session) == before


async def test_a_share_that_is_none_ends_the_connection():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        await walk.say(configure=pb.Configure(settings=pb.MemorySettings(keep=1.5)))
        with pytest.raises(InvalidInput, match=r"keep is a share above 0 and up to 1, got 1\.5"):
            await walk.ended()


async def test_full_is_refused_where_there_is_no_room_for_the_world_and_the_walk_goes_on():
    config = replace(CONFIG, engine=EngineConfig(resident_bytes=20 * CHUNK))
    async with generating(config=config) as caller:
        session = (await caller.open()).session
        async with caller.walk(session) as walk:
            await walk.steps(9)
            text = (await change(walk, mode=FULL)).refused.text
            assert f"{32 * CHUNK} bytes" in text
            assert f"over its budget of {20 * CHUNK}" in text
            assert (await walk.step()).mode == WORLDKV
            assert await applied(walk, mode=WINDOW) == 10
            assert (await walk.step()).mode == WINDOW


async def test_a_number_that_was_taken_changes_nothing_and_is_answered_again():
    async with generating() as caller:
        session = (await caller.open()).session
        first = pb.Configure(settings=pb.MemorySettings(mode=WINDOW), number=7)
        async with caller.walk(session) as walk:
            await walk.say(configure=first)
            await walk.next("applied")
            await applied(walk, mode=WORLDKV)
        async with caller.walk(session) as walk:
            await walk.say(configure=first)
            assert (await walk.next("applied")).number == 7
            assert (await walk.step()).mode == WORLDKV
            await walk.say(configure=pb.Configure(settings=pb.MemorySettings(codec="nobody"), number=8))
            await walk.next("refused")
            await walk.say(configure=pb.Configure(settings=pb.MemorySettings(codec="nobody"), number=8))
            assert (await walk.next("refused")).number == 8


async def test_settings_survive_rewinds_being_suspended_and_a_crash():
    tiers, wanted = inside(), {"mode": WINDOW, "selector": "latest", "recalled": 1, "codec": "int4", "budget_chunks": 5}
    async with generating(tiers) as first, generating(tiers) as second, generating(tiers) as third:
        session = (await first.open()).session
        async with first.walk(session) as walk:
            await walk.steps(3)
            await applied(walk, **wanted)
            number = next(numbers) - 1
            await walk.steps(3)
        expected = pb.MemorySettings(keep=1.0, **wanted)
        await first.call("Rewind", session=session, at=4)
        assert await now(first, session) == expected
        await first.call("Suspend", session=session)
        await second.call("Resume", session=session)
        assert await now(second, session) == expected
        async with second.walk(session) as walk:
            assert (await walk.step()).mode == WINDOW
        answer = await third.call("Resume", session=session)  # the second has not let go of it: it may have died
        assert (answer.opened.memory.now, answer.opened.next) == (expected, 5)
        async with third.walk(session) as walk:
            await walk.say(configure=pb.Configure(settings=pb.MemorySettings(mode=FULL), number=number))
            assert (await walk.next("applied")).number == number, "it was made before"
            assert (await walk.step()).mode == WINDOW


async def test_sessions_of_other_settings_are_drawn_together():
    async with generating() as caller, AsyncExitStack() as stack:
        opened = [
            await caller.open(settings=pb.MemorySettings(**each)) for each in ({}, {"selector": "latest", "keep": 0.5})
        ]
        walks = [await stack.enter_async_context(caller.walk(each.session)) for each in opened]
        for _ in range(6):
            for walk in walks:
                await walk.move()
            for walk in walks:
                await walk.next("drawn")
        shapes = {each.shape.sizes for each in caller.made.live.maker.engine._schedule._answered.values()}
    assert len(shapes) == 1


async def test_a_client_changes_how_its_walk_remembers():
    async with generating() as caller, WalkClient(caller.address) as client:
        async with client.open(lockstep=True, memory=MemoryChange(recalled=1)) as walk:
            events = walk.events()
            assert (walk.opened.memory.now.recalled, walk.opened.memory.slots) == (1, 2)
            await walk.move(Action(turn=20))
            good = await walk.configure(MemoryChange(mode="window", keep=0.5))
            bad = await walk.configure(MemoryChange(codec="nobody"))
            await walk.move(Action(turn=20))
            seen = list[Event]()
            while sum(isinstance(each, Drawn) for each in seen) < 2:
                seen.append(await anext(events))
            assert Applied(good, 1) in seen
            assert [each.number for each in seen if isinstance(each, Refused)] == [bad]
            assert [each.mode for each in seen if isinstance(each, Drawn)] == ["worldkv", "window"]
            with pytest.raises(InvalidInput, match="recalled = -1"):
                await walk.configure(MemoryChange(recalled=-1))


@dataclass
class Told:
    """What a walk said while commands were followed: where each change applied, and what was drawn."""

    applied: list[int] = field(default_factory=list)
    drawn: list[pb.Drawn] = field(default_factory=list)


async def followed(commands: list[tuple[str, Any]]) -> Told:
    """Follow commands, and look after each at what a simple model of a session says that it must be."""
    told, chunk, after = Told(), 0, pb.MemorySettings()
    async with generating() as caller:
        session = (await caller.open()).session
        after.CopyFrom(await now(caller, session))
        for what, value in commands:
            if what == "rewind":
                chunk = int(value * chunk)
                await caller.call("Rewind", session=session, at=chunk)
            elif what == "suspend":
                await caller.call("Suspend", session=session)
                await caller.call("Resume", session=session)
            else:
                async with caller.walk(session, 1 << 40) as walk:
                    if what == "change":
                        told.applied.append(await applied(walk, **value))
                        assert told.applied[-1] == chunk
                        after.MergeFrom(pb.MemorySettings(**value))
                        continue
                    drawn = await walk.step(pb.Action(turn=value))
                told.drawn.append(drawn)
                assert (drawn.key.index, drawn.mode) == (chunk, after.mode)
                assert len(drawn.recalled) <= (after.recalled if after.mode == WORLDKV else 0)
                chunk += 1
        assert await now(caller, session) == after
        assert caller.made.live.find("default", session).resident.next == chunk
    return told


changes = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from([WINDOW, FULL, WORLDKV]),
        "selector": st.sampled_from(["pose", "latest", "nothing", "coverage"]),
        "recalled": st.integers(0, 2),
        "keep": st.sampled_from([0.5, 1.0]),
        "codec": st.sampled_from(["int8", "int4", "raw"]),
        "budget_chunks": st.sampled_from([0, 3]),
    },
)
walks = st.lists(
    st.tuples(st.just("move"), st.sampled_from([20.0, -45.0]))
    | st.tuples(st.just("change"), changes)
    | st.tuples(st.just("rewind"), st.floats(0, 1))
    | st.tuples(st.just("suspend"), st.none()),
    min_size=6,
    max_size=14,
)


@settings(max_examples=4, deadline=None)
@given(walks)
def test_any_walk_is_as_a_simple_model_says_and_the_same_again(commands):
    one, other = (asyncio.run(followed(commands)) for _ in range(2))
    assert one.applied == other.applied
    assert pictures(one.drawn) == pictures(other.drawn)


async def test_behind_a_gateway_a_change_survives_the_generator_that_made_it(tmp_path: Path):
    tiers = inside()
    members, quick = tmp_path / "generators.toml", {"ping_seconds": 0.05, "failover_seconds": 60.0}
    async with AsyncExitStack() as stack:
        homes = {name: await stack.enter_async_context(AsyncExitStack()) for name in ("a", "b")}
        config = {name: replace(CONFIG, name=name) for name in homes}
        callers = {name: await homes[name].enter_async_context(generating(tiers, config[name])) for name in homes}
        listed = ", ".join(f'"{name}={caller.address}"' for name, caller in callers.items())
        members.write_text(f"number = 1\nshards = [{listed}]\n")
        gateway = await stack.enter_async_context(gatewaying(members, **quick))
        client = await stack.enter_async_context(WalkClient(gateway))
        walk = await stack.enter_async_context(client.open(lockstep=True))
        await walk.move(Action(turn=20))
        events = walk.events()
        number = await walk.configure(MemoryChange(mode="window", selector="latest"))
        assert (await walk.move(Action(turn=20))).mode == "window"
        while await anext(events) != Applied(number, 1):
            pass
        home = next(name for name, caller in callers.items() if [*caller.made.live])
        await homes[home].aclose()
        drawn = await walk.move(Action(turn=20))
        assert (drawn.key.index, drawn.mode) == (2, "window")
        assert (await walk.configure(MemoryChange(mode="worldkv"))) > number
        assert (await walk.move(Action(turn=20))).mode == "worldkv"
        (other,) = (caller for name, caller in callers.items() if name != home)
        record = other.made.live.find("default", walk.session).resident.record
        assert (record.mode, record.chosen) == ("worldkv", MemoryChange(selector="latest"))


@asynccontextmanager
async def gatewaying(members: Path, **routing: Any) -> AsyncIterator[str]:
    """A gateway before these generators; its address."""
    config = GatewayConfig(members=members, routing=RoutingConfig(**routing), web=WebConfig(address=""))

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        async with assembled(config, host) as (name, _):
            yield [name]

    async with serve(config.service, servicers) as serving:
        yield serving.address


async def test_a_client_that_asks_and_never_reads_is_sent_away_and_its_session_stays():
    async with generating(behind=1) as caller:
        session = (await caller.open()).session
        walking = caller.made.live.find("default", session)
        unread = walking.join(pb.OpenResponse(session=session), 0)
        for number in range(1, 2 * MOST):
            walking.tell(Changing(MemoryChange(recalled=number % 2), number))
            await until(lambda: walking.outbox is None or walking.idle)
        assert walking.outbox is None
        with pytest.raises(OverBudget, match="is not read"):
            await anext(unread.messages())
        async with caller.walk(session) as walk:
            await walk.next("joined")
            assert await applied(walk, recalled=2) == 0
