"""Whose chunk is drawn next: laws that hold for whatever comes, and the turns of some sessions in a closed loop."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from itertools import accumulate
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.drawing import Shape
from services.generator.engine import EngineConfig
from services.generator.engine.scheduling import PATIENCE, Batch, Means, Schedule
from worldkv.errors import Conflict

SMALL, SHOWN = Shape((8, 8), False, False, "window"), Shape((8, 8), False, True, "window")
LARGE, GROWING = Shape((8, 8, 8), False, False, "window"), Shape((8,), True, False, "window")
SHAPES = [SMALL, SHOWN, LARGE, GROWING]

STEP = 1.0
"""Seconds of a step."""


Asked = tuple[int, Shape, float, float]
"""A request: its owner, its shape, seconds after the one before, and seconds to spare when it comes."""

requests = st.lists(
    st.tuples(
        st.integers(0, 11),
        st.sampled_from(SHAPES),
        st.floats(0, 3),
        st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, inf, -inf])),
    ),
    min_size=1,
    max_size=60,
)
configs = st.builds(
    EngineConfig, batch=st.integers(1, 5), rows=st.just(8), gather_seconds=st.sampled_from([0.0, 0.05, 0.3])
)


class Drawn(NamedTuple):
    """A batch, when it was chosen, and who waited then (those who were chosen too): shape, due, since."""

    batch: Batch
    at: float
    waiting: dict[Hashable, tuple[Shape, float, float]]


def run(config: EngineConfig, asked: list[Asked]) -> Iterator[Drawn]:
    """Draw all requests as they come, one batch at a time, each in `STEP` seconds."""
    schedule, now = Schedule(config), 0.0
    flight: Batch | None = None
    ends = inf
    waiting: dict[Hashable, tuple[Shape, float, float]] = {}
    times = accumulate(after for _, _, after, _ in asked)
    coming = deque((at, owner, shape, at + slack) for at, (owner, shape, _, slack) in zip(times, asked, strict=True))
    while coming or waiting or flight:
        again = inf
        if flight is None:
            choice = schedule.next(now)
            if isinstance(choice, Batch):
                yield Drawn(choice, now, dict(waiting))
                for owner in choice.owners:
                    del waiting[owner]
                flight, ends = choice, now + STEP
                continue
            assert choice is None or choice > now, "it does not say to ask again at once"
            assert (choice is None) == (not waiting)
            again = inf if choice is None else choice
        now = min(again, ends, coming[0][0] if coming else inf)
        if now == ends and flight:
            schedule.answered(flight, STEP, now)
            flight, ends = None, inf
        while coming and coming[0][0] <= now:
            _, owner, shape, due = coming.popleft()
            if owner not in waiting:
                schedule.add(owner, shape, due, now)
                waiting[owner] = (shape, min(max(due, now - PATIENCE), now + PATIENCE), now)


@given(configs, requests)
def test_a_batch_is_of_one_shape_and_never_too_large(config: EngineConfig, asked: list[Asked]) -> None:
    for drawn in run(config, asked):
        shapes = {drawn.waiting[owner][0] for owner in drawn.batch.owners}
        assert shapes == {drawn.batch.shape}
        assert 1 <= len(drawn.batch.owners) <= (1 if drawn.batch.shape.grows else config.batch)
        assert len(set(drawn.batch.owners)) == len(drawn.batch.owners)


@given(configs, requests)
def test_everybody_is_drawn_and_only_as_often_as_he_asked(config: EngineConfig, asked: list[Asked]) -> None:
    drawn = Counter(owner for each in run(config, asked) for owner in each.batch.owners)
    for owner, times in Counter(owner for owner, *_ in asked).items():
        assert 1 <= drawn[owner] <= times


@given(configs, requests)
def test_least_slack_goes_first(config: EngineConfig, asked: list[Asked]) -> None:
    for drawn in run(config, asked):
        dues = {owner: due for owner, (_, due, _) in drawn.waiting.items()}
        first = min(dues[owner] for owner in drawn.batch.owners)
        assert first == min(dues.values())
        left_out = [
            dues[owner]
            for owner, (shape, *_) in drawn.waiting.items()
            if shape == drawn.batch.shape and owner not in drawn.batch.owners
        ]
        assert max(dues[owner] for owner in drawn.batch.owners) <= min(left_out, default=inf)


@given(configs, requests)
def test_whoever_has_waited_long_goes_before_all_who_come_later(config: EngineConfig, asked: list[Asked]) -> None:
    for drawn in run(config, asked):
        newest = max(drawn.waiting[owner][2] for owner in drawn.batch.owners)
        for owner, (shape, _, since) in drawn.waiting.items():
            if owner not in drawn.batch.owners and shape == drawn.batch.shape:
                assert newest - since <= 2 * PATIENCE
        first = min(drawn.batch.owners, key=lambda owner: drawn.waiting[owner][1])
        assert all(drawn.waiting[first][2] - since <= 2 * PATIENCE for _, _, since in drawn.waiting.values())


@given(configs, requests)
def test_a_free_model_waits_for_others_only_a_moment(config: EngineConfig, asked: list[Asked]) -> None:
    free_since = 0.0
    for drawn in run(config, asked):
        ready = max(free_since, min(since for _, _, since in drawn.waiting.values()))
        assert drawn.at - ready <= config.gather_seconds + 1e-9
        free_since = drawn.at + STEP


def test_nobody_starves_beside_sessions_that_are_always_late() -> None:
    schedule, now = Schedule(EngineConfig(batch=1, gather_seconds=0)), 0.0
    schedule.add("patient", LARGE, 1e9, now)
    for owner in "abc":
        schedule.add(owner, SMALL, -1e9, now)
    while "patient" not in (batch := schedule.next(now)).owners:
        now += STEP
        schedule.answered(batch, STEP, now)
        schedule.add(batch.owners[0], SMALL, -1e9, now)
        assert now <= 2 * PATIENCE + 3 * STEP


def closed_loop(starts: list[float], pause: float, batch: int, steps: int, config: EngineConfig) -> list[int]:
    """Sizes of the batches, where each session asks again a moment after it was answered."""
    schedule, now, free_at = Schedule(config), 0.0, 0.0
    asks: list[tuple[float, Hashable]] = sorted(zip(starts, "abcdefgh", strict=False))
    drawn: list[int] = []
    while len(drawn) < steps:
        while asks and asks[0][0] <= now:
            at, owner = asks.pop(0)
            schedule.add(owner, SMALL, at, at)
        choice = schedule.next(now) if now >= free_at else free_at
        if isinstance(choice, Batch):
            drawn.append(len(choice.owners))
            free_at = now + STEP
            schedule.answered(choice, STEP, free_at)
            asks += [(free_at + pause * (1 + i), owner) for i, owner in enumerate(choice.owners)]
            asks.sort()
        else:
            now = min(asks[0][0] if asks else inf, inf if choice is None else choice)
    return drawn


@pytest.mark.parametrize("starts", [[0, 0.3, 0.5, 0.8], [0, 0.9, 1.8, 2.7], [0, 0.01, 0.02, 7.5]])
def test_sessions_that_began_at_different_times_come_to_draw_together(starts: list[float]) -> None:
    sizes = closed_loop(starts, 0.02, 4, 20, EngineConfig(batch=4, gather_seconds=0.2))
    assert sizes[-10:] == [4] * 10


def test_without_waiting_they_do_not() -> None:
    sizes = closed_loop([0, 0.3, 0.5, 0.8], 0.02, 4, 20, EngineConfig(batch=4, gather_seconds=0))
    assert 4 not in sizes


def test_a_session_that_takes_its_time_is_waited_for_once() -> None:
    schedule = Schedule(EngineConfig(gather_seconds=0.2))
    waits, now = [], 0.0
    for _ in range(4):
        for owner in ("quick", "slow"):
            schedule.add(owner, SMALL, now, now)
        batch = schedule.next(now)
        assert isinstance(batch, Batch)
        now += STEP
        schedule.answered(batch, STEP, now)
        schedule.add("quick", SMALL, now, now)
        alone = schedule.next(now)
        waits.append(isinstance(alone, float))
        if isinstance(alone, float):
            now = alone
            alone = schedule.next(now)
        assert isinstance(alone, Batch)
        assert alone.owners == ("quick",)
        now += STEP
        schedule.answered(alone, STEP, now)
        now += 5
    assert waits == [True, False, False, False]


def test_after_one_long_pause_a_session_is_soon_waited_for_again() -> None:
    schedule, now, waits = Schedule(EngineConfig(gather_seconds=0.2)), 0.0, []
    for pause in (0.05, 0.05, 60.0, 0.05, 0.05, 0.05, 0.05, 0.05):
        for owner in ("quick", "other"):
            schedule.add(owner, SMALL, now, now)
        batch = schedule.next(now)
        assert batch == Batch(SMALL, ("quick", "other"))
        now += STEP
        schedule.answered(batch, STEP, now)
        schedule.add("quick", SMALL, now, now)
        waits.append(isinstance(schedule.next(now), float))
        schedule.cancel("quick")
        now += pause
    assert waits[:3] == [True] * 3
    assert waits[-3:] == [True] * 3


def test_nobody_who_is_in_time_is_made_late_by_waiting_for_others() -> None:
    schedule = Schedule(EngineConfig(gather_seconds=0.2))
    for owner in ("a", "b"):
        schedule.add(owner, SMALL, 0.0, 0.0)
    schedule.answered(schedule.next(0.0), STEP, 1.0)
    schedule.add("a", SMALL, 1.0 + STEP + 0.05, 1.0)
    until = schedule.next(1.0)
    assert until == pytest.approx(1.05)
    assert schedule.next(until).owners == ("a",)


def test_an_owner_waits_for_one_chunk_at_a_time() -> None:
    schedule = Schedule(EngineConfig())
    schedule.add("a", SMALL, 0, 0)
    with pytest.raises(Conflict, match="'a' waits"):
        schedule.add("a", SMALL, 0, 0)
    schedule.cancel("a")
    assert schedule.next(0) is None
    schedule.add("a", SMALL, 0, 0)
    assert schedule.next(0) == Batch(SMALL, ("a",))


def test_who_has_gone_is_not_waited_for() -> None:
    schedule = Schedule(EngineConfig())
    for owner in ("a", "b"):
        schedule.add(owner, SMALL, 0, 0)
    schedule.answered(schedule.next(0), STEP, 1)
    schedule.forget("b")
    schedule.add("a", SMALL, 1, 1)
    assert schedule.next(1) == Batch(SMALL, ("a",))


def test_the_time_of_a_step_is_taken_from_steps_of_as_many_sessions() -> None:
    means = Means()
    assert means.of(4) == 0
    means.add(1, 1.0)
    assert means.of(4) == 4.0
    means.add(4, 2.0)
    assert (means.of(1), means.of(2), means.of(4), means.of(8)) == (1.0, 2.0, 2.0, 4.0)
    means.add(4, 6.0)
    assert 2.0 < means.of(4) < 6.0
