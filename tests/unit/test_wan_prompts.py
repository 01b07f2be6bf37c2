"""What worlds of the Wan models are about: each session's own, heard once, and known again by its chunks."""

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.wan_small import GRID, random_adapter, random_prompt
from benchmarks.wan_vae_small import random_vae
from benchmarks.wan_walks import START
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.prompts import AT_HAND, Prompt, contexts, fixed
from services.generator.adapters.wan.state import Lead, WanState
from services.generator.adapters.wan.variants import LINGBOT_CAM, MATRIX_GTA, SELF_FORCING, Variant
from services.generator.drawing import draw, encode_again
from services.generator.session import Session, SessionConfig
from services.generator.world_model import Conditioning, Subject
from worldkv.actions import Action
from worldkv.chunk import ChunkKey, Meta, Part
from worldkv.errors import InvalidInput, NotFound
from worldkv.window import Window

HARBOUR, DESERT = Subject("a harbour"), Subject("a desert", b"picture")


class Counting:
    """A small model that counts what it imagines."""

    def __init__(self, variant: Variant = LINGBOT_CAM, seed: int = 0) -> None:
        plain = random_adapter(variant, seed)
        self.subjects: list[Subject] = []
        self.adapter = WanWorldModel(plain.variant, plain.model, self.imagine, plain.vae, f"{seed:032x}", GRID)

    def imagine(self, subject: Subject) -> Callable[[], Prompt]:
        self.subjects.append(subject)
        return lambda: random_prompt(self.adapter.model.config, subject)


def test_subjects_are_told_apart_by_words_and_picture():
    digests = {s.digest for s in (Subject(), HARBOUR, DESERT, Subject("ab", b"c"), Subject("a", b"bc"))}
    assert len(digests) == 5
    assert Subject("a harbour").digest.hex() == "ffe29a026d5e6cec162f7705d647e776"  # chunks are kept with it


def test_what_was_heard_is_heard_once_by_all_who_are_in_it():
    made = Counting()
    first, second, other = (made.adapter.start(each) for each in (HARBOUR, HARBOUR, DESERT))
    assert made.subjects == [HARBOUR, DESERT]
    assert first.heard is second.heard is not other.heard


def test_nothing_is_heard_to_decode_or_to_become_a_saved_state():
    made = Counting()
    state = made.adapter.start()
    made.adapter.decode([state], torch.randn(1, 3, *made.adapter.spec.latent))
    assert made.subjects == []
    with pytest.raises(InvalidInput, match="heard of nothing"):
        state.conditioning(START.pose[None])


def test_prompts_are_let_go_when_nobody_has_them_and_others_came_since():
    made = Counting(SELF_FORCING)
    state = made.adapter.start(HARBOUR)
    for number in range(AT_HAND + 1):
        made.adapter.start(Subject(str(number)))
    gc.collect()
    assert made.adapter.prompts.find(HARBOUR.digest) is state.heard
    del state
    gc.collect()
    with pytest.raises(NotFound, match=HARBOUR.digest.hex()):
        made.adapter.prompts.find(HARBOUR.digest)
    made.adapter.start(Subject("3"))
    assert len(made.subjects) == AT_HAND + 2
    made.adapter.start(HARBOUR)
    assert len(made.subjects) == AT_HAND + 3


def test_rows_that_heard_the_same_share_it_and_others_have_their_own():
    adapter = random_adapter(SELF_FORCING)
    one, other = (adapter.prompts.hear(each)() for each in (HARBOUR, DESERT))
    same, mixed = contexts([one, one]), contexts([one, other])
    for layer, pair in enumerate(zip(same, mixed, strict=True)):
        for part in range(2):
            assert pair[0][part].data_ptr() == one.context[layer][part].data_ptr()
            assert torch.equal(pair[0][part][1:], one.context[layer][part])
            assert torch.equal(pair[1][part], torch.cat([one.context[layer][part], other.context[layer][part]]))


def session_about(adapter: WanWorldModel, subject: Subject) -> Session:
    return Session(adapter, SessionConfig("window"), START, state=adapter.start(subject))


async def steps(session: Session, count: int = 1) -> list[Tensor]:
    """Pictures of the next chunks."""
    return [(await session.step(Action(turn=5.0))).pictures for _ in range(count)]


@pytest.mark.parametrize("variant", [SELF_FORCING, MATRIX_GTA, LINGBOT_CAM])
async def test_what_a_world_is_about_decides_what_is_drawn(variant):
    adapter = random_adapter(variant)
    (one,), (other,), (again,) = [await steps(session_about(adapter, each)) for each in (HARBOUR, DESERT, HARBOUR)]
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 1e-2


@pytest.mark.parametrize("variant", [SELF_FORCING, MATRIX_GTA, LINGBOT_CAM])
async def test_a_saved_session_brings_along_what_its_world_is_about(variant):
    session = session_about(random_adapter(variant), DESERT)
    await steps(session)
    saved, elsewhere = session.save(), Counting(variant)
    again = Session.restore(elsewhere.adapter, session.config, saved)
    assert elsewhere.subjects == []
    assert all(torch.equal(a, b) for a, b in zip(await steps(session, 2), await steps(again, 2), strict=True))
    assert isinstance(again.state, WanState)
    assert elsewhere.adapter.start(DESERT).heard is again.state.heard


def test_sessions_keep_their_own_where_the_same_subject_came_to_two_prompts():
    adapter = random_adapter(SELF_FORCING)
    here = adapter.start(HARBOUR)
    tokens = here.heard.prompt.tokens
    elsewhere = WanWorldModel(
        adapter.variant, adapter.model, fixed(Prompt(tokens * (1 + 1e-6))), adapter.vae, "0" * 32, GRID
    ).start(HARBOUR)
    came, back = adapter.start(), adapter.start()
    came.from_bytes(elsewhere.to_bytes())
    back.from_bytes(here.to_bytes())
    assert torch.equal(came.heard.prompt.tokens, tokens * (1 + 1e-6))
    assert back.heard is here.heard
    del here, back
    gc.collect()
    assert adapter.prompts.find(HARBOUR.digest) is came.heard


@pytest.mark.parametrize("variant", [SELF_FORCING, LINGBOT_CAM])
async def test_a_chunk_is_made_again_of_what_its_own_world_is_about(variant):
    adapter = random_adapter(variant)
    state, other = adapter.start(DESERT), adapter.start(HARBOUR)
    poses = np.stack([START.pose] * adapter.spec.frames)
    latents = torch.randn(1, adapter.spec.frames, *adapter.spec.latent).to(torch.float16)
    extra = state.conditioning(poses)
    meta = Meta(ChunkKey(bytes(16), 0), adapter.spec.digest, 0, poses, fov=1.1, aspect=0.7)
    again = encode_again(adapter, Part(meta, latents[0].numpy(), extra), [], "original", "window")
    nothing = Window(adapter.spec, ()).view([0])
    (kv,) = adapter.encode(latents.float(), nothing, [Conditioning(poses, extra, state)])
    (foreign,) = adapter.encode(latents.float(), nothing, [Conditioning(poses, other.conditioning(poses), other)])
    assert torch.equal(again.values, kv.values)
    assert not torch.equal(again.values, foreign.values)


def test_a_chunk_of_a_world_that_nobody_is_in_cannot_be_made_again():
    adapter = random_adapter(SELF_FORCING)
    told = Conditioning(START.pose[None], Lead(0, np.zeros((0, 4, 4)), HARBOUR.digest).to_bytes())
    with pytest.raises(NotFound, match=HARBOUR.digest.hex()):
        adapter.teller.tell([told])


def wrong(spoil: Callable[[Prompt], Prompt]) -> WanWorldModel:
    plain = random_adapter(LINGBOT_CAM)
    prompt = spoil(plain.imagine(HARBOUR)())
    return WanWorldModel(plain.variant, plain.model, fixed(prompt), plain.vae, "0" * 32, GRID)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: Prompt(p.tokens[1:], p.given), "tokens are"),
        (lambda p: Prompt(p.tokens), "has a given picture"),
        (lambda p: Prompt(p.tokens, p.given[:, 1:]), "at least one latent"),
        (lambda p: Prompt(p.tokens, p.given[:0]), "at least one latent"),
    ],
)
def test_a_prompt_must_fit_the_model(spoil, words):
    with pytest.raises(InvalidInput, match=words):
        wrong(spoil).start(HARBOUR)


@pytest.mark.parametrize("variant", [SELF_FORCING, MATRIX_GTA, LINGBOT_CAM])
async def test_a_model_says_what_a_session_carries(variant):
    vae = random_vae(4)[0]
    adapter = random_adapter(variant, vae=vae)
    session = session_about(adapter, DESERT)
    await steps(session, 2)
    state = session.state
    assert isinstance(state, WanState)
    assert state.heard is not None
    carried = [*state.features.values(), *state.past, *(each for pair in state.heard.context for each in pair)]
    assert sum(each.nbytes for each in carried) == adapter.state_bytes > vae.feature_bytes(GRID) > 0


@pytest.mark.parametrize("variant", [SELF_FORCING, MATRIX_GTA, LINGBOT_CAM])
async def test_a_model_says_what_is_there_of_chunks_while_they_are_drawn(variant):
    adapter = random_adapter(variant, vae=random_vae(4)[0])
    session = session_about(adapter, DESERT)
    await steps(session, 2)
    draft = await session.begin(Action(forward=0.1))
    (drawn,) = draw(adapter, Window(adapter.spec, draft.shape.sizes), [0], [draft])
    assert isinstance(drawn.state, WanState)
    own = [*drawn.kv, drawn.pictures, *drawn.state.features.values(), *drawn.state.past]
    camera = adapter.teller.tell([draft.conditioning._replace(state=draft.state)]).camera or []
    own_bytes, seen = (sum(each.nbytes for each in some) for some in (own, [x for sight in camera for x in sight]))
    assert adapter.drawing_bytes(1) == own_bytes + seen
    assert adapter.drawing_bytes(3) == 3 * (2 * own_bytes + seen)
