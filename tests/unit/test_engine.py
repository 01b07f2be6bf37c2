"""Many sessions drawn by one engine: together, in turn, cancelled, failing, closed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import torch

from services.generator.engine import Engine, EngineConfig
from services.generator.session import Session, SessionConfig, Step
from tests.toys import TOY, toy_model
from tests.unit.test_session import START, TURN, pictures_of, session_of
from worldkv.actions import Action
from worldkv.errors import Conflict, OverBudget, Unavailable
from worldkv.window import WindowConfig

ACTIONS = [Action(turn=20.0), Action(turn=-15.0), Action(forward=0.2), Action(strafe=0.2, turn=5.0)]
BAD = Action(forward=0.125)
"""An action that the spoilt model cannot draw."""


class Spy:
    """A toy model that notes how many it draws for at a time, and stands still while `held`."""

    def __init__(self) -> None:
        self.model = toy_model()
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.spoilt = False
        draw = self.model.generate

        def generate(window, conditions, noise):
            self.sizes.append(len(conditions))
            self.threads.add(threading.current_thread().name)
            self.entered.set()
            assert self.open.wait(10)
            if self.spoilt and any(c.poses[0, 2, 3] != START.z for c in conditions):
                raise RuntimeError("this one cannot be drawn")
            return draw(window, conditions, noise)

        self.model.generate = generate  # type: ignore[method-assign]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model does not come back from the next pass before this ends."""
        self.entered.clear()
        self.open.clear()
        try:
            yield
        finally:
            self.open.set()


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.fixture
async def engine(spy: Spy) -> AsyncIterator[Engine]:
    async with Engine(spy.model, EngineConfig(gather_seconds=0.05)) as made:
        yield made


async def step(engine: Engine, session: Session, action: Action = TURN, due: float = 0.0) -> Step:
    draft = await session.begin(action)
    try:
        return await session.end(draft, await engine.draw(session, draft, due))
    finally:
        session.abandon(draft)


async def walk(engine: Engine, session: Session, action: Action, chunks: int) -> torch.Tensor:
    return torch.cat([(await step(engine, session, action)).pictures for _ in range(chunks)])


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


@pytest.mark.parametrize("mode", ["worldkv", "window", "full"])
async def test_one_session_draws_bit_for_bit_what_it_draws_by_itself(engine: Engine, mode: str) -> None:
    drawn = await walk(engine, session_of(mode), TURN, 10)
    assert torch.equal(drawn, await pictures_of(session_of(mode), 10))
    assert (engine.stats.steps, engine.stats.passes, engine.stats.batched) == (10, 10, 0)


@pytest.mark.parametrize("context", ["window", "alone"])
async def test_together_sessions_draw_what_they_draw_alone(engine: Engine, context: str) -> None:
    sessions = [session_of("worldkv", context=context) for _ in ACTIONS]
    walks = (walk(engine, session, action, 8) for session, action in zip(sessions, ACTIONS, strict=True))
    for drawn, action in zip(await asyncio.gather(*walks), ACTIONS, strict=True):
        alone = session_of("worldkv", context=context)
        expected = torch.cat([(await alone.step(action)).pictures for _ in range(8)])
        assert (drawn - expected).abs().max() <= 1e-4
    assert engine.stats.steps == 32
    assert engine.stats.batched > 0  # how many come together is a matter of time: `gen.batch.share`


async def test_the_event_loop_goes_on_while_the_model_computes(engine: Engine, spy: Spy) -> None:
    with spy.held():
        drawing = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        assert not drawing.done()
    await drawing
    assert spy.threads == {"model_0"}


async def test_who_waits_is_drawn_together_by_shape(engine: Engine, spy: Spy) -> None:
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        other = [asyncio.create_task(step(engine, session_of("worldkv"))) for _ in range(3)]
        own = [asyncio.create_task(step(engine, session_of("full"))) for _ in range(2)]
        shown = [
            asyncio.create_task(show(engine, session_of("worldkv"), torch.rand(3, 3, TOY.height, TOY.width)))
            for _ in range(2)
        ]
        await asyncio.sleep(0.05)
    await asyncio.gather(first, *other, *own, *shown)
    assert spy.sizes == [1, 3, 1, 1]  # nothing is generated of what is shown
    assert engine.stats.passes == 5


async def show(engine: Engine, session: Session, pictures: torch.Tensor) -> None:
    draft = await session.begin_shown(pictures, [START] * 3)
    step = await session.end(draft, await engine.draw(session, draft, 0.0))
    assert torch.allclose(step.pictures, pictures, atol=1e-6)


async def test_who_runs_out_of_pictures_first_is_drawn_first(spy: Spy) -> None:
    async with Engine(spy.model, EngineConfig(batch=1, rows=1), clock=lambda: 100.0) as engine:
        done: list[str] = []

        async def draw(name: str, due: float) -> None:
            await step(engine, session_of("window"), due=due)
            done.append(name)

        with spy.held():
            tasks = [asyncio.create_task(draw("first", 100.0))]
            await until(spy.entered)
            for name, due in (("rich", 108.0), ("poor", 97.0), ("even", 100.0)):
                tasks.append(asyncio.create_task(draw(name, due)))
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
    assert done == ["first", "poor", "even", "rich"]


async def test_more_sessions_than_rows_take_turns(spy: Spy) -> None:
    async with Engine(spy.model, EngineConfig(batch=2, rows=2, gather_seconds=0)) as engine:
        sessions = [session_of("worldkv") for _ in range(5)]
        drawn = await asyncio.gather(*(walk(engine, session, TURN, 6) for session in sessions))
    expected = await pictures_of(session_of("worldkv"), 6)
    assert all((each - expected).abs().max() <= 1e-4 for each in drawn)
    assert max(spy.sizes) == 2


async def test_a_draw_that_is_cancelled_while_it_waits_is_not_drawn(engine: Engine, spy: Spy) -> None:
    session = session_of("window")
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        waiting = asyncio.create_task(step(engine, session))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
    await first
    assert engine.stats.steps == 1
    await step(engine, session)
    assert torch.equal((await step(engine, session)).pictures, (await pictures_of(session_of("window"), 2))[3:])


async def test_a_draw_that_is_cancelled_on_its_way_leaves_its_session_where_it_stood(engine: Engine, spy: Spy) -> None:
    session = session_of("window")
    with spy.held():
        drawing = asyncio.create_task(step(engine, session))
        await until(spy.entered)
        drawing.cancel()
        await asyncio.wait([drawing])
        again = asyncio.create_task(step(engine, session))
        await asyncio.sleep(0.05)
    assert torch.equal((await again).pictures, await pictures_of(session_of("window"), 1))


async def test_a_draft_that_cannot_be_drawn_harms_nobody_else(engine: Engine, spy: Spy) -> None:
    spy.spoilt = True
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        sessions = [session_of("worldkv") for _ in range(4)]
        tasks = [
            asyncio.create_task(step(engine, session, action))
            for session, action in zip(sessions, [TURN, BAD, TURN, TURN], strict=True)
        ]
        await asyncio.sleep(0.05)
    _, good, bad, *others = await asyncio.gather(first, tasks[0], tasks[1], *tasks[2:], return_exceptions=True)
    assert isinstance(bad, RuntimeError)
    expected = await pictures_of(session_of("worldkv"), 1)
    assert all(torch.equal(each.pictures, expected) for each in (good, *others))
    assert [session.next for session in sessions] == [1, 0, 1, 1]
    assert (engine.stats.steps, engine.stats.failed) == (4, 1)
    assert (await step(engine, sessions[1])).index == 0


async def test_a_model_that_fails_tells_everybody_and_goes_on(engine: Engine, spy: Spy) -> None:
    spy.spoilt = True
    sessions = [session_of("window") for _ in range(3)]
    results = await asyncio.gather(*(step(engine, s, BAD) for s in sessions), return_exceptions=True)
    assert [str(each) for each in results] == ["this one cannot be drawn"] * 3
    spy.spoilt = False
    await asyncio.gather(*(step(engine, s) for s in sessions))
    assert [s.next for s in sessions] == [1, 1, 1]


async def test_an_owner_draws_one_chunk_at_a_time(engine: Engine, spy: Spy) -> None:
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        session = session_of("window")
        draft = await session.begin(TURN)
        waiting = asyncio.create_task(engine.draw("me", draft, 0.0))
        await asyncio.sleep(0)
        with pytest.raises(Conflict, match="'me'"):
            await engine.draw("me", draft, 0.0)
    await asyncio.gather(first, waiting)


async def test_closed_it_draws_what_is_being_drawn_and_nothing_more(spy: Spy) -> None:
    engine = Engine(spy.model)
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        waiting = asyncio.create_task(step(engine, session_of("window")))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(engine.close())
        with pytest.raises(Unavailable, match="closed"):
            await waiting
        assert not closing.done()
    await closing
    assert (await first).index == 0
    with pytest.raises(Unavailable, match="closed"):
        await step(engine, session_of("window"))
    await engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("model")]


async def test_who_has_gone_waits_no_more(engine: Engine, spy: Spy) -> None:
    with spy.held():
        first = asyncio.create_task(step(engine, session_of("window")))
        await until(spy.entered)
        session = session_of("window")
        waiting = asyncio.create_task(step(engine, session))
        await asyncio.sleep(0.05)
        engine.forget(session)
        with pytest.raises(Unavailable, match="has gone"):
            await waiting
    await first


async def test_who_has_gone_leaves_its_row(engine: Engine) -> None:
    session = session_of("window")
    await step(engine, session)
    assert engine.resident_bytes > 0
    engine.forget(session)
    await engine.run(lambda: None)
    assert engine.resident_bytes == 0


async def test_other_work_on_the_model_is_done_in_its_thread(engine: Engine, spy: Spy) -> None:
    assert await engine.run(lambda: threading.current_thread().name) == "model_0"
    with pytest.raises(ZeroDivisionError):
        await engine.run(lambda: 1 / 0)


async def test_sessions_are_admitted_until_there_is_no_room(spy: Spy) -> None:
    session = session_of("worldkv")
    async with Engine(spy.model, EngineConfig(most_sessions=2)) as engine:
        assert engine.room == 2
        engine.admit("a", session.config)
        promised = engine.resident_bytes
        engine.admit("b", session.config)
        assert engine.resident_bytes == 2 * promised > 0
        with pytest.raises(OverBudget, match="limit of 2"):
            engine.admit("c", session.config)
        engine.forget("a")
        assert engine.room == 1


async def test_room_is_for_sessions_like_the_one_that_came_last(spy: Spy) -> None:
    small, large = (SessionConfig(window=WindowConfig(recalled=frames)) for frames in (6, 60))
    budget = 100 * spy.model.spec.raw_bytes  # a small one takes 6 chunks, a large one 24
    rooms = []
    async with Engine(spy.model, EngineConfig(rows=64, resident_bytes=budget)) as engine:
        for owner, config in enumerate((small, large, small)):
            engine.admit(owner, config)
            rooms.append(engine.room)
    assert rooms == [15, 2, 10]


async def test_the_time_of_a_step_is_measured(engine: Engine) -> None:
    assert engine.step_seconds == 0
    await show(engine, session_of("window"), torch.rand(3, 3, TOY.height, TOY.width))
    assert engine.step_seconds == 0
    await step(engine, session_of("window"))
    assert engine.step_seconds > 0


async def test_what_else_the_model_is_busy_with_is_no_part_of_a_step(spy: Spy) -> None:
    now, draw, hears = [0.0], spy.model.generate, threading.Event()

    def generate(window, conditions, noise):
        now[0] += 2.0
        return draw(window, conditions, noise)

    def hear() -> None:
        assert hears.wait(10)
        now[0] += 60.0

    spy.model.generate = generate  # type: ignore[method-assign]
    session, config = session_of("window"), EngineConfig(batch=1, rows=1)
    draft = await session.begin(TURN)
    async with Engine(spy.model, config, clock=lambda: now[0]) as engine:
        hearing = asyncio.create_task(engine.run(hear))
        drawing = asyncio.create_task(engine.draw(session, draft, 0.0))
        for _ in range(5):  # until both are in the model's hands
            await asyncio.sleep(0)
        hears.set()
        await asyncio.gather(hearing, drawing)
        assert engine.step_seconds == 2.0
