"""Rows of a shared window: whose they are, for how long, and that nobody sees another's chunks in them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.drawing import draw, window_for
from services.generator.engine.rows import Easel, Rows
from services.generator.session import Session
from tests.toys import toy_model
from tests.unit.test_session import TURN, session_of
from worldkv.coding import KV
from worldkv.errors import OverBudget

MODEL = toy_model()
SIZES = (4, 4)


def test_a_row_stays_its_owners() -> None:
    rows = Rows(MODEL, SIZES, 3)
    window, [first] = rows.of(["a"])
    assert window.batch == 1
    assert rows.of(["b", "a"])[1] == [1, first]
    window, found = rows.of(["c", "b", "a"])
    assert (window.batch, found) == (3, [2, 1, first])
    assert rows.of(["a", "b", "c"])[0] is window


def test_whoever_was_drawn_longest_ago_makes_room() -> None:
    rows = Rows(MODEL, SIZES, 2)
    for owner in "aba":
        rows.of([owner])
    assert rows.of(["c"])[1] == [1]
    assert rows.of(["a"])[1] == [0]
    assert rows.of(["b", "a"])[1] == [1, 0], "those of a batch do not take each other's rows"


def test_a_freed_row_is_taken_again() -> None:
    rows = Rows(MODEL, SIZES, 3)
    rows.of(["a", "b", "c"])
    rows.forget("b")
    assert rows.of(["d", "a"])[1] == [1, 0]


@given(st.lists(st.one_of(st.sets(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 6)), max_size=30))
def test_no_row_is_two_owners(moves: list[set[int] | int]) -> None:
    rows = Rows(MODEL, SIZES, 3)
    for move in moves:
        if isinstance(move, int):
            rows.forget(move)
            continue
        window, found = rows.of(sorted(move))
        assert len(set(found)) == len(move)
        assert max(found) < window.batch <= 3
        assert len(set(rows._row.values())) == len(rows) <= 3


async def alone(session: Session) -> torch.Tensor:
    draft = await session.begin(TURN)
    (drawn,) = draw(session.model, window_for(session.model, draft.shape.sizes), [0], [draft])
    await session.end(draft, drawn)
    return drawn.pictures


async def by(easel: Easel, sessions: dict[str, Session]) -> dict[str, torch.Tensor]:
    drafts = {owner: await session.begin(TURN) for owner, session in sessions.items()}
    drawn = easel.draw([*drafts], [*drafts.values()])
    for (owner, draft), each in zip(drafts.items(), drawn, strict=True):
        await sessions[owner].end(draft, each)
    return {owner: each.pictures for owner, each in zip(drafts, drawn, strict=True)}


@pytest.mark.parametrize("most", [2, 3])
async def test_taking_turns_in_few_rows_nobody_sees_anothers_chunks(most: int) -> None:
    easel = Easel(MODEL, most)
    sessions = {owner: session_of("worldkv") for owner in "abc"}
    others = {owner: session_of("worldkv") for owner in "abc"}
    for pair in ("ab", "cb", "a", "ca", "bc", "c", "ab"):
        drawn = await by(easel, {owner: sessions[owner] for owner in pair})
        for owner in pair:
            assert (drawn[owner] - await alone(others[owner])).abs().max() <= 1e-4


async def test_a_window_that_grows_is_its_owners_alone() -> None:
    easel, session, other = Easel(MODEL, 2), session_of("full"), session_of("full")
    for _ in range(10):
        drawn = await by(easel, {"a": session})
        assert torch.equal(drawn["a"], (await other.step(TURN)).pictures)
    assert easel.nbytes == 16 * MODEL.spec.raw_bytes


async def test_a_window_goes_with_its_last_owner() -> None:
    easel = Easel(MODEL, 4)
    await by(easel, {"a": session_of("window"), "b": session_of("window")})
    await by(easel, {"c": session_of("full")})
    for owner in "abc":
        assert easel.nbytes > 0
        easel.forget(owner)
    assert easel.nbytes == 0


async def test_after_a_draft_that_does_not_fit_its_rows_are_good_again() -> None:
    easel, session, other = Easel(MODEL, 2), session_of("worldkv"), session_of("worldkv")
    for _ in range(3):
        await by(easel, {"a": session})
        await other.step(TURN)
    draft = await session.begin(TURN)
    sink = draft.entries[0]
    large = sink._replace(tag="large", kv=KV(*(torch.cat([x, x], 1) for x in sink.kv)))
    with pytest.raises(OverBudget):
        easel.draw(["a"], [replace(draft, entries=(large, *draft.entries[1:]))])
    session.abandon(draft)
    assert torch.equal((await by(easel, {"a": session}))["a"], (await other.step(TURN)).pictures)
