"""Chunks of many sessions drawn together against the same drawn one by one."""

import pytest
import torch

from services.generator.adapters.pocket import PocketWorldModel
from services.generator.drawing import Draft, Drawn, draw
from services.generator.session import Session, SessionConfig
from tests.toys import TOY
from tests.unit.test_session import START, memory_of, session_of
from worldkv.actions import Action
from worldkv.errors import InvalidInput
from worldkv.window import Window, WindowConfig

APART = 1e-4
"""How far pictures of 0..1 may be apart where a batch is summed in another order than a chunk by itself."""


async def sessions_under_way(context: str = "window") -> list[Session]:
    """Sessions of different ages, so that some windows are full and others are not."""
    sessions = [session_of("worldkv", context=context) for _ in range(4)]
    for age, session in enumerate(sessions):
        for _ in range(3 * age):
            await session.step(Action(turn=5.0 + age))
    return sessions


async def drafts_of(sessions: list[Session]) -> list[Draft]:
    return [await session.begin(Action(turn=11.0)) for session in sessions]


def assert_close(a: Drawn, b: Drawn) -> None:
    for x, y in ((a.latents, b.latents), (a.pictures, b.pictures), (a.kv.keys, b.kv.keys), (a.kv.values, b.kv.values)):
        assert (x - y).abs().max() <= APART


@pytest.mark.parametrize("context", ["window", "alone"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [4, 0, 2, 1]])
async def test_a_batch_draws_what_each_session_draws_alone(context: str, rows: list[int]) -> None:
    sessions = await sessions_under_way(context)
    drafts = await drafts_of(sessions)
    sizes, model = drafts[0].shape.sizes, sessions[0].model
    together = draw(model, Window(model.spec, sizes, 5), rows, drafts)
    for draft, drawn in zip(drafts, together, strict=True):
        (alone,) = draw(model, Window(model.spec, sizes), [0], [draft])
        assert_close(drawn, alone)


async def test_a_row_of_a_shared_window_draws_bit_for_bit_what_an_own_window_draws() -> None:
    (*_, session) = await sessions_under_way()
    (draft,) = await drafts_of([session])
    (own,) = draw(session.model, Window(session.model.spec, draft.shape.sizes), [0], [draft])
    (shared,) = draw(session.model, Window(session.model.spec, draft.shape.sizes, 5), [3], [draft])
    assert torch.equal(own.pictures, shared.pictures)
    assert torch.equal(own.kv.keys, shared.kv.keys)


async def test_shown_pictures_are_taken_in_together() -> None:
    sessions = await sessions_under_way()
    pictures = torch.rand(4, 3, 3, TOY.height, TOY.width)
    drafts = [await s.begin_shown(p, [START] * 3) for s, p in zip(sessions, pictures, strict=True)]
    model = sessions[0].model
    for each, drawn in zip(pictures, draw(model, Window(model.spec, drafts[0].shape.sizes, 4), range(4), drafts)):
        assert torch.allclose(drawn.pictures, each, atol=1e-6)


async def test_what_is_drawn_holds_no_memory_of_its_batch() -> None:
    sessions = await sessions_under_way()
    drafts = await drafts_of(sessions)
    model = sessions[0].model
    for drawn in draw(model, Window(model.spec, drafts[0].shape.sizes, 4), range(4), drafts):
        for tensor in (drawn.latents, drawn.pictures, drawn.kv.keys, drawn.kv.values):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


async def test_one_bad_picture_is_told_by_the_latents_it_gives() -> None:
    session = session_of("worldkv")
    draft = await session.begin_shown(torch.full((3, 3, TOY.height, TOY.width), float("nan")), [START] * 3)
    with pytest.raises(InvalidInput, match="finite"):
        draw(session.model, Window(session.model.spec, draft.shape.sizes), [0], [draft])


@pytest.mark.slow
async def test_the_shipped_model_draws_in_a_batch_what_it_draws_alone() -> None:
    model = PocketWorldModel.load()
    sessions = [Session(model, SessionConfig(seed=i), START, memory_of(model, WindowConfig())) for i in range(3)]
    for age, session in enumerate(sessions):
        for _ in range(2 * age):
            await session.step(Action(turn=5.0 + age))
    drafts = await drafts_of(sessions)
    together = draw(model, Window(model.spec, drafts[0].shape.sizes, 3), range(3), drafts)
    for draft, drawn in zip(drafts, together, strict=True):
        (alone,) = draw(model, Window(model.spec, draft.shape.sizes), [0], [draft])
        assert_close(drawn, alone)
