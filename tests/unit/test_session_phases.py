"""A session begun, drawn and ended apart; given up on the way; saved and restored."""

import asyncio
from dataclasses import replace

import pytest
import torch

from services.generator.drawing import draw, window_for
from services.generator.session import Session
from tests.toys import TOY
from tests.unit.test_session import START, TURN, pictures_of, session_of
from worldkv.actions import Action
from worldkv.errors import Conflict, InvalidInput, SpecMismatch, Unavailable
from worldkv.store import PartKey

MODES = ("window", "full", "worldkv")
BACK = Action(forward=-0.2)


def drawn_from(session: Session, draft):
    (drawn,) = draw(session.model, window_for(session.model, draft.shape.sizes), [0], [draft])
    return drawn


async def step_by_phases(session: Session) -> torch.Tensor:
    draft = await session.begin(TURN)
    return (await session.end(draft, drawn_from(session, draft))).pictures


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("context", ["window", "alone"])
async def test_phase_by_phase_the_pictures_are_those_of_a_step(mode: str, context: str) -> None:
    phases = session_of(mode, context=context)
    drawn = torch.cat([await step_by_phases(phases) for _ in range(10)])
    assert torch.equal(drawn, await pictures_of(session_of(mode, context=context), 10))


async def test_shown_pictures_go_the_same_way() -> None:
    session, pictures = session_of("worldkv"), torch.rand(3, 3, TOY.height, TOY.width)
    draft = await session.begin_shown(pictures, [START] * 3)
    step = await session.end(draft, drawn_from(session, draft))
    assert torch.allclose(step.pictures, pictures, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
async def test_a_draft_that_is_given_up_was_never_there(mode: str) -> None:
    session, other = session_of(mode), session_of(mode)
    for index in range(9):
        draft = await session.begin(BACK)
        if index % 2:
            drawn_from(session, draft)
        session.abandon(draft)
        assert torch.equal((await session.step(TURN)).pictures, (await other.step(TURN)).pictures)
        assert (session.next, session.walker) == (other.next, other.walker)


async def test_an_index_that_fails_leaves_the_session_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = session_of("worldkv"), session_of("worldkv")
    await pictures_of(session, 5)
    with monkeypatch.context() as patched:
        patched.setattr(session.memory, "recall", broken)
        with pytest.raises(Unavailable):
            await session.step(BACK)
    assert torch.equal(await pictures_of(session, 3), (await pictures_of(other, 8))[-9:])


async def test_a_model_that_fails_leaves_the_session_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = session_of("worldkv"), session_of("worldkv")
    await pictures_of(session, 5)
    for method in ("generate", "encode", "decode"):
        with monkeypatch.context() as patched:
            patched.setattr(session.model, method, fails)
            with pytest.raises(RuntimeError, match="out of memory"):
                await session.step(BACK)
    assert torch.equal(await pictures_of(session, 3), (await pictures_of(other, 8))[-9:])


async def test_a_chunk_that_could_not_be_remembered_can_be_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = session_of("worldkv"), session_of("worldkv")
    await pictures_of(session, 5)
    draft = await session.begin(TURN)
    drawn = drawn_from(session, draft)
    with monkeypatch.context() as patched:
        patched.setattr(session.memory, "remember", broken)
        with pytest.raises(Unavailable):
            await session.end(draft, drawn)
    assert session.next == 5
    await session.end(draft, drawn)
    assert torch.equal(await pictures_of(session, 3), (await pictures_of(other, 9))[-9:])


async def test_a_step_that_is_cancelled_leaves_the_session_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = session_of("worldkv"), session_of("worldkv")
    await pictures_of(session, 5)
    with monkeypatch.context() as patched:
        patched.setattr(session.memory, "recall", never)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.step(BACK), 0.01)
    assert torch.equal(await pictures_of(session, 3), (await pictures_of(other, 8))[-9:])


async def test_one_chunk_is_drawn_at_a_time() -> None:
    session = session_of("window")
    draft = await session.begin(TURN)
    with pytest.raises(Conflict, match="chunk 0"):
        await session.begin(TURN)
    session.abandon(draft)
    with pytest.raises(InvalidInput, match="chunk 0 was ended or abandoned"):
        await session.end(draft, drawn_from(session, draft))
    assert session.next == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_restored_session_draws_what_the_saved_one_would_have(mode: str) -> None:
    session, other = session_of(mode), session_of(mode)
    await pictures_of(session, 7)
    config = replace(session.config, seed=0)  # the state has its own
    restored = Session.restore(session.model, config, session.save(), session.memory)
    assert (restored.next, restored.walker) == (7, session.walker)
    assert torch.equal(await pictures_of(restored, 4), (await pictures_of(other, 11))[-12:])


async def test_a_state_of_another_model_is_refused() -> None:
    session = session_of("window")
    state = replace(session.save(), spec="0" * 32)
    with pytest.raises(SpecMismatch):
        Session.restore(session.model, session.config, state)


async def broken(*args: object) -> None:
    raise Unavailable("nobody answers")


async def never(*args: object) -> None:
    await asyncio.Event().wait()


def fails(*args: object) -> None:
    raise RuntimeError("out of memory")


async def test_a_lost_chunk_is_made_again_where_the_model_runs() -> None:
    session, calls = session_of("worldkv", hot_bytes=0), []

    async def on_model(call):
        calls.append(call)
        return call()

    session.on_model = on_model
    await pictures_of(session, 8)
    await session.memory.store.delete([PartKey(session.lineage.key(i), "kv") for i in range(8)])

    await session.step(TURN)
    assert len(calls) == session.memory.stats.reencoded == 1


async def test_while_a_chunk_is_drawn_the_next_one_is_looked_ahead_to(monkeypatch: pytest.MonkeyPatch) -> None:
    session, looked = session_of("worldkv"), []

    async def ahead(index, poses, held, recalled, visible, exclude):
        looked.append((index, held, len(visible), sorted(exclude)))

    monkeypatch.setattr(session.memory, "ahead", ahead)
    await pictures_of(session, 4)
    assert looked == [(1, TURN, 6, [0, 1]), (2, TURN, 6, [0, 2]), (3, TURN, 6, [0, 3])]
