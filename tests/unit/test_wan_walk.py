"""Walks of the Wan models at a small width, through a session with its memory."""

import numpy as np
import pytest
import torch

from benchmarks.wan_small import GRID
from benchmarks.wan_walks import START, errors, recorded_adapter, session_of, walk, walk_as_clip
from services.generator.adapters.wan.adapter import WanWorldModel, more_noise
from services.generator.adapters.wan.state import Lead, WanState
from services.generator.adapters.wan.variants import (
    LINGBOT_CAM,
    MATRIX_GTA,
    MATRIX_UNIVERSAL,
    SELF_FORCING,
    VARIANTS,
)
from services.generator.session import Session
from services.generator.world_model import Conditioning, Subject
from worldkv.actions import Action, follow
from worldkv.errors import ChunkCorrupt, InvalidInput
from worldkv.format import Frame, join
from worldkv.window import Entry, Window

pytestmark = pytest.mark.slow

CHUNKS = 7
ABOUT = Subject("a harbour at dawn")


def max_error(got, wanted) -> float:
    return max(errors(got, wanted))


@pytest.mark.parametrize("name", VARIANTS)
async def test_recalling_everything_uncoded_equals_a_walk_that_evicts_nothing(name):
    adapter = recorded_adapter(VARIANTS[name])
    drawn, wanted = await walk(session_of(adapter), range(CHUNKS)), walk_as_clip(adapter, CHUNKS)
    assert max_error(drawn, wanted) <= 1e-4


async def test_full_equals_a_walk_that_evicts_nothing():
    adapter = recorded_adapter(MATRIX_UNIVERSAL)
    assert max_error(await walk(session_of(adapter, "full"), range(CHUNKS)), walk_as_clip(adapter, CHUNKS)) <= 1e-4


async def test_a_window_forgets_what_has_left_it():
    adapter = recorded_adapter(MATRIX_UNIVERSAL)
    drawn, wanted = await walk(session_of(adapter, "window", recalled=1), range(CHUNKS)), walk_as_clip(adapter, CHUNKS)
    assert max_error(drawn[:3], wanted[:3]) <= 1e-4
    assert max_error(drawn, wanted) > 1e-3


@pytest.mark.parametrize("variant", [MATRIX_GTA, LINGBOT_CAM])
async def test_a_walk_that_was_saved_goes_on_as_it_would_have(variant):
    adapter = recorded_adapter(variant)
    session = session_of(adapter, "window", recalled=1)
    await walk(session, range(4))
    saved = session.save()
    wanted = await walk(session, range(4, 6))
    again = Session.restore(adapter, session.config, saved)
    drawn = await walk(again, range(4, 6))
    assert all(torch.equal(a, b) for a, b in zip(drawn, wanted))


@pytest.mark.parametrize("variant", [MATRIX_UNIVERSAL, LINGBOT_CAM])
async def test_what_the_model_is_told_and_remembers_of_actions_matters(variant):
    adapter = recorded_adapter(variant)
    there, elsewhere = session_of(adapter), session_of(adapter)
    await walk(there, range(2))
    await walk(elsewhere, range(2))
    assert isinstance(elsewhere.state, WanState)
    elsewhere.state = adapter.start(Subject(), elsewhere.state.begin)
    assert max_error(await walk(elsewhere, range(2, 3)), await walk(there, range(2, 3))) > 1e-3


async def test_shown_latents_become_a_chunk_and_the_walk_goes_on():
    adapter = recorded_adapter(SELF_FORCING)
    session = session_of(adapter)
    pictures = torch.rand(3, 3, *GRID)
    step = await session.show(pictures, [START] * 3)
    assert torch.allclose(step.pictures, pictures, atol=1e-6)
    await walk(session, range(1, 3))
    assert session.next == 3


def conditions_at(
    adapter: WanWorldModel, chunks: int, turn: float, subject: Subject = ABOUT
) -> tuple[list[Conditioning], list[Entry]]:
    """What each chunk of a clean walk was told, and its KV; states are those before the chunk."""
    frames, state = adapter.spec.frames, adapter.start(subject)
    walkers = follow(START, [Action(forward=adapter.variant.step, turn=turn)] * (chunks * frames))[1:]
    torch.manual_seed(int(turn))
    told, entries, window = [], [], Window(adapter.spec, ())
    for i in range(chunks):
        poses = np.stack([walker.pose for walker in walkers[i * frames : (i + 1) * frames]])
        before = adapter.start()
        before.from_bytes(state.to_bytes())
        told.append(Conditioning(poses, state.conditioning(poses), before))
        latents = torch.randn(1, frames, *adapter.spec.latent)
        (kv,) = adapter.encode(latents, window.view([0]), [told[-1]._replace(state=state)])
        entries.append(Entry((turn, i), i * frames, frames, kv))
    return told, entries


@pytest.mark.parametrize("name", VARIANTS)
def test_sessions_drawn_together_are_drawn_as_alone(name):
    """Two sessions in different worlds that are at different chunks, one of them with an empty slot."""
    adapter = recorded_adapter(VARIANTS[name])
    whole = adapter.spec.frames * adapter.spec.frame_tokens
    noise = torch.randn(2, adapter.spec.frames, *adapter.spec.latent)
    sessions = [conditions_at(adapter, 3, 5.0), conditions_at(adapter, 2, -8.0, Subject("a desert"))]
    both, alone = Window(adapter.spec, [whole, whole], batch=2), []
    for row, (told, entries) in enumerate(sessions):
        last = len(told) - 1
        filled: list[Entry | None] = [*entries[:last], None][:2]
        at = [0 if entry is None else entry.begin for entry in filled]
        single = Window(adapter.spec, [whole, whole])
        for window, place in ((both, row), (single, 0)):
            window.fill(place, filled, last * adapter.spec.frames, at)
        alone.append(adapter.generate(single.view([0]), [told[last]], noise[row : row + 1])[0])
    together = adapter.generate(both.view([0, 1]), [told[-1] for told, _ in sessions], noise)
    assert max_error(list(together), alone) <= 1e-5


@pytest.mark.parametrize("variant", [LINGBOT_CAM, SELF_FORCING])
def test_a_chunk_is_made_again_from_what_was_kept_with_it(variant):
    adapter = recorded_adapter(variant)
    (_, told), _ = conditions_at(adapter, 2, 5.0)
    window, latents = Window(adapter.spec, ()).view([0]), torch.randn(1, adapter.spec.frames, *adapter.spec.latent)
    (first,), (again,) = (
        adapter.encode(latents, window, [condition]) for condition in (told, Conditioning(told.poses, told.extra))
    )
    assert torch.equal(first.keys, again.keys)
    assert torch.equal(first.values, again.values)


@pytest.mark.parametrize("variant", [LINGBOT_CAM, MATRIX_GTA])
def test_a_state_that_nobody_saved_begins_again_from_the_poses_before_it(variant):
    adapter = recorded_adapter(variant)
    told, _ = conditions_at(adapter, 4, 5.0)
    before = np.concatenate([each.poses for each in told[:3]])
    assert adapter.start(ABOUT, 9, before).conditioning(told[3].poses) == told[3].extra
    assert adapter.start(ABOUT, 9).conditioning(told[3].poses) != told[3].extra


def test_more_noise_follows_from_the_first_and_is_its_own_for_every_session():
    noise = torch.randn(2, 3, *GRID)
    more = more_noise(noise, 2)
    assert torch.equal(more[:, 1], more_noise(noise[1:], 2)[:, 0])
    assert (more[0] - more[1]).abs().max() > 0.1
    assert (more[:, 0] - more[:, 1]).abs().max() > 0.1
    assert abs(float(more_noise(torch.randn(1, 8, 32, 32), 4).std()) - 1) < 0.05


def test_a_lead_comes_back_from_its_bytes():
    lead = Lead(12, np.random.default_rng(0).normal(size=(4, 4, 4)), ABOUT.digest)
    again = Lead.from_bytes(lead.to_bytes())
    assert (again.begin, again.subject) == (12, ABOUT.digest)
    assert np.array_equal(again.before, lead.before)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x81\xa5begin\x01",
        b"not a lead at all",
        Lead(3, np.eye(4), b"").to_bytes()[:-1],
        Lead(0, np.eye(4)[None], b"").to_bytes(),
        Lead(0, np.zeros((0, 4, 4)), "words").to_bytes(),
    ],
)
def test_bytes_that_are_no_lead_are_refused(data):
    with pytest.raises(InvalidInput, match="led to a chunk"):
        Lead.from_bytes(data)


@pytest.mark.parametrize("spoil", ["cut", "other model"])
def test_bytes_that_are_no_state_of_this_model_are_refused(spoil):
    state = recorded_adapter(MATRIX_GTA).start()
    whole = recorded_adapter(MATRIX_UNIVERSAL if spoil == "other model" else MATRIX_GTA).start(ABOUT).to_bytes()
    data = Frame.of(join(whole)[:-3]) if spoil == "cut" else whole
    with pytest.raises(ChunkCorrupt, match="state"):
        state.from_bytes(data)


def test_a_model_that_looks_back_wants_to_know_what_led_to_a_chunk():
    adapter = recorded_adapter(LINGBOT_CAM)
    with pytest.raises(InvalidInput, match="what led to it"):
        adapter.teller.tell([Conditioning(np.eye(4)[None].repeat(3, 0))])


def test_a_grid_of_cells_divides_into_tokens():
    adapter = recorded_adapter(LINGBOT_CAM)
    with pytest.raises(InvalidInput, match="grid"):
        WanWorldModel(adapter.variant, adapter.model, adapter.imagine, adapter.vae, "0" * 32, (4, 5))


def test_a_spec_says_what_makes_keys_interchangeable():
    spec = recorded_adapter(LINGBOT_CAM).spec
    assert (spec.frame_tokens, spec.latent, spec.frames, spec.rope) == (6, (16, *GRID), 3, (6, 4, 4))
    assert (spec.kv_sets, spec.camera_in_keys, spec.dtype) == (1, "none", "float32")


async def test_the_same_seed_and_actions_draw_the_same_walk():
    first, second = [await walk(session_of(recorded_adapter(LINGBOT_CAM)), range(2)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(first, second))
