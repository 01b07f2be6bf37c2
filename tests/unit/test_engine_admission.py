"""Who is let in: bytes of the model's device and time of its steps, and the words of a refusal."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine import EngineConfig
from services.generator.engine.admission import Admission, needs
from services.generator.session import SessionConfig
from tests.toys import toy_spec
from tests.unit.test_session import TURN, session_of
from worldkv.coding import Coding
from worldkv.errors import InvalidConfig, OverBudget
from worldkv.prune import Pruning
from worldkv.window import Window

SPEC = toy_spec()
USUAL = needs(SPEC, SessionConfig(), Coding())
GROWING = needs(SPEC, SessionConfig(mode="full"), Coding())
FREE = EngineConfig(resident_bytes=0, round_seconds=0)


@pytest.mark.parametrize("keep", [1.0, 0.25])
@pytest.mark.parametrize("mode", ["worldkv", "window", "full"])
async def test_needs_are_what_a_session_takes(mode: str, keep: float) -> None:
    coding = Coding("raw", "raw", Pruning(keep))
    session = session_of(mode, coding=coding) if mode == "worldkv" else session_of(mode)
    found = needs(SPEC, session.config, coding)
    for _ in range(6):
        draft = await session.begin(TURN)
        session.abandon(draft)
        await session.step(TURN)
    assert found.sizes == draft.shape.sizes
    assert found.row == Window(SPEC, found.sizes).nbytes
    assert found.grows == draft.shape.grows
    assert session.raw_bytes <= found.held


def test_sessions_are_admitted_up_to_a_number() -> None:
    admission = Admission(SPEC, replace(FREE, most_sessions=2))
    assert admission.room(USUAL, 0) == 2
    for owner in "aba":
        admission.admit(owner, USUAL, 0)
    assert admission.room(USUAL, 0) == 0
    with pytest.raises(OverBudget, match="3 sessions are over the limit of 2"):
        admission.admit("c", USUAL, 0)
    admission.release("a")
    admission.admit("c", USUAL, 0)


def test_each_session_takes_what_the_models_state_does() -> None:
    budget = USUAL.row * 2 + (USUAL.held + 1000) * 2
    admission = Admission(SPEC, replace(FREE, resident_bytes=budget), state=1000)
    for owner in range(2):
        admission.admit(owner, USUAL, 0)
    assert (admission.nbytes, admission.room(USUAL, 0)) == (budget, 0)
    assert Admission(SPEC, replace(FREE, resident_bytes=budget - 1), state=1000).room(USUAL, 0) == 1


def test_what_is_there_while_chunks_are_drawn_is_counted_for_as_many_as_are_drawn_at_a_time() -> None:
    admission = Admission(SPEC, replace(FREE, batch=2, rows=8), drawing=lambda sessions: 1000 * sessions**2)
    assert admission.nbytes == 0
    for owner, drawn in enumerate((1000, 4000, 4000)):
        admission.admit(owner, USUAL, 0)
        assert admission.nbytes == (owner + 1) * (USUAL.row + USUAL.held) + drawn
    tight = replace(FREE, batch=2, resident_bytes=2 * (USUAL.row + USUAL.held) + 3999)
    assert Admission(SPEC, tight, drawing=lambda sessions: 1000 * sessions**2).room(USUAL, 0) == 1


def test_rows_are_shared_and_uncoded_chunks_are_not() -> None:
    admission = Admission(SPEC, replace(FREE, batch=2, rows=2))
    for owner in range(5):
        admission.admit(owner, USUAL, 0)
    assert admission.nbytes == 2 * USUAL.row + 5 * USUAL.held
    admission.admit("growing", GROWING, 0)
    assert admission.nbytes == 2 * USUAL.row + 5 * USUAL.held + GROWING.row + GROWING.held


def test_bytes_of_the_device_are_refused_in_numbers() -> None:
    each = USUAL.row + USUAL.held
    admission = Admission(SPEC, replace(FREE, resident_bytes=2 * each))
    admission.admit("a", USUAL, 0)
    admission.admit("b", USUAL, 0)
    with pytest.raises(OverBudget, match=f"3 sessions take {3 * each} bytes .* budget of {2 * each}"):
        admission.admit("c", USUAL, 0)


def test_a_session_that_changes_takes_what_it_takes_then_or_stays_as_it_was() -> None:
    long = needs(SPEC, SessionConfig(mode="full"), Coding(), chunks=9)
    assert (len(long.sizes), long.held) == (16, 16 * SPEC.raw_bytes)
    admission = Admission(SPEC, replace(FREE, resident_bytes=USUAL.row + USUAL.held + GROWING.row + GROWING.held))
    for owner in "ab":
        admission.admit(owner, USUAL, 0)
    before = admission.nbytes
    with pytest.raises(OverBudget, match="2 sessions take"):
        admission.change("a", long, 0)
    assert (admission.nbytes, len(admission)) == (before, 2)
    admission.change("a", GROWING, 0)
    assert admission.nbytes == USUAL.row + USUAL.held + GROWING.row + GROWING.held
    admission.change("a", USUAL, 0)
    assert admission.nbytes == before


def test_a_round_is_refused_in_steps_and_seconds() -> None:
    admission = Admission(SPEC, EngineConfig(batch=2, rows=2, round_seconds=3.5, resident_bytes=0))
    for owner in range(6):
        admission.admit(owner, USUAL, 1.0)
    with pytest.raises(OverBudget, match=r"7 sessions takes 4 steps of 1 s, 4 s in all, over the limit of 3\.5 s"):
        admission.admit("c", USUAL, 1.0)
    assert admission.room(USUAL, 1.0) == 0
    assert admission.room(USUAL, 0.5) == 8, "a faster model has room again"


def test_one_session_is_admitted_however_slow_the_model_is() -> None:
    admission = Admission(SPEC, EngineConfig(round_seconds=1.0))
    admission.admit("a", GROWING, 60.0)
    assert admission.room(USUAL, 60.0) == 0


def test_a_growing_window_is_refused_when_it_no_longer_fits() -> None:
    budget = GROWING.row + GROWING.held + 1
    admission = Admission(SPEC, replace(FREE, resident_bytes=budget))
    admission.admit("a", GROWING, 0)
    admission.grow("a", GROWING.sizes)
    with pytest.raises(OverBudget, match=f"16 chunks makes {2 * (budget - 1)} bytes"):
        admission.grow("a", GROWING.sizes * 2)
    assert admission.nbytes == budget - 1


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 4),
    st.floats(0, 3),
)
def test_room_is_how_many_more_are_admitted(
    moves: list[tuple[int, bool, bool]], batch: int, step_seconds: float
) -> None:
    config = EngineConfig(batch, rows=4, resident_bytes=12 * USUAL.row, most_sessions=7, round_seconds=6)
    admission = Admission(SPEC, config)
    for owner, comes, grows in moves:
        if not comes:
            admission.release(owner)
            continue
        wanted = GROWING if grows else USUAL
        room, before = admission.room(wanted, step_seconds), len(admission)
        try:
            admission.admit(owner, wanted, step_seconds)
        except OverBudget:
            assert room == 0
            assert len(admission) == before
        assert len(admission) <= 7
        assert admission.nbytes <= 12 * USUAL.row
    room = admission.room(USUAL, step_seconds)
    for n in range(room):
        admission.admit(("more", n), USUAL, step_seconds)
    assert admission.room(USUAL, step_seconds) == 0


@pytest.mark.parametrize(
    "bad",
    [{"batch": 0}, {"rows": 3}, {"gather_seconds": -1}, {"round_seconds": float("inf")}, {"resident_bytes": -1}],
)
def test_a_config_that_means_nothing_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        EngineConfig(**bad)
