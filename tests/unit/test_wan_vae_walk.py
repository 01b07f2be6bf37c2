"""Walks of the Wan models with their VAE, at a small width: pictures, saved states, and films made again."""

import asyncio

import numpy as np
import pytest
import torch

from benchmarks.model_vae import streamed
from benchmarks.wan_small import GRID, random_adapter
from benchmarks.wan_vae_small import random_vae
from benchmarks.wan_walks import START, STORE_BYTES, action_of
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.packed import pack, unpack
from services.generator.adapters.wan.state import WanState
from services.generator.adapters.wan.vae import LatentsOnly, WanVAE
from services.generator.adapters.wan.variants import (
    LINGBOT_V2_SMALL,
    MATRIX_GTA,
    MATRIX_UNIVERSAL,
    SELF_FORCING,
    Variant,
)
from services.generator.drawing import draw
from services.generator.live.looking import _Film
from services.generator.session import Session, SessionConfig
from worldkv.chunk import Lineage, Part
from worldkv.coding import Coding
from worldkv.errors import ChunkCorrupt, InvalidInput
from worldkv.finder import LocalFinder
from worldkv.format import Frame, decode_part, join
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import make_selector
from worldkv.store import PartKey, RamStore
from worldkv.window import Window, WindowConfig

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 8 * GRID[0], 8 * GRID[1]


def adapter_of(variant: Variant, dtype: torch.dtype = torch.float32) -> WanWorldModel:
    return random_adapter(variant, vae=random_vae(4, seed=2, dtype=dtype)[0])


def session_of(adapter: WanWorldModel, seed: int = 0) -> Session:
    frames = adapter.spec.frames
    return Session(adapter, SessionConfig("window", WindowConfig(0, frames, frames), seed=seed), START)


async def walk(session: Session, chunks: range) -> list[torch.Tensor]:
    """Pictures of each chunk."""
    adapter = session.model
    assert isinstance(adapter, WanWorldModel)
    return [(await session.step(action_of(adapter.variant, chunk))).pictures for chunk in chunks]


async def test_a_walk_shows_fewer_pictures_at_first_and_then_four_a_frame():
    for variant, counts in ((SELF_FORCING, [9, 12, 12]), (LINGBOT_V2_SMALL, [13, 16, 16])):
        pictures = await walk(session_of(adapter_of(variant)), range(3))
        assert [tuple(each.shape) for each in pictures] == [(count, 3, HEIGHT, WIDTH) for count in counts]
        assert all(0 <= each.min() <= each.max() <= 1 and each.dtype == torch.float32 for each in pictures)


async def test_a_walk_that_was_saved_goes_on_with_the_same_pictures():
    adapter = adapter_of(MATRIX_GTA)
    for before in (0, 1, 3):
        session = session_of(adapter)
        await walk(session, range(before))
        saved = session.save()
        wanted = await walk(session, range(before, before + 2))
        again = Session.restore(adapter, session.config, saved)
        drawn = await walk(again, range(before, before + 2))
        assert all(torch.equal(a, b) for a, b in zip(drawn, wanted, strict=True))


async def test_without_its_features_a_walk_goes_on_with_other_pictures():
    session = session_of(adapter_of(SELF_FORCING))
    await walk(session, range(2))
    saved = session.save()
    (wanted,) = await walk(session, range(2, 3))
    again = Session.restore(session.model, session.config, saved)
    assert isinstance(again.state, WanState)
    again.state.features = {}
    (drawn,) = await walk(again, range(2, 3))
    assert len(drawn) == 9
    assert (drawn - wanted[-9:]).abs().max() > 0.01


async def test_a_walk_that_was_saved_goes_on_where_the_vae_has_another_dtype():
    saving, other = adapter_of(SELF_FORCING), adapter_of(SELF_FORCING, torch.bfloat16)
    session = session_of(saving)
    await walk(session, range(1))
    saved = session.save()
    (wanted,) = await walk(session, range(1, 2))
    again = Session.restore(other, session.config, saved)
    assert isinstance(again.state, WanState)
    (drawn,) = await walk(again, range(1, 2))
    assert {each.dtype for each in again.state.features.values()} == {torch.bfloat16}
    assert (drawn - wanted).abs().max() < 0.1


async def test_features_are_saved_as_they_are_held():
    adapter = adapter_of(SELF_FORCING, torch.bfloat16)
    session = session_of(adapter)
    await walk(session, range(2))
    state, vae = session.state, adapter.vae
    assert isinstance(state, WanState)
    assert isinstance(vae, WanVAE)
    carried = vae.sizes.feature_bytes(GRID, torch.bfloat16)
    assert carried < state.to_bytes().nbytes < carried + 16_000
    again = adapter.start()
    again.from_bytes(state.to_bytes())
    assert again.features.keys() == state.features.keys()
    assert all(torch.equal(each, state.features[name]) for name, each in again.features.items())


def spoilt(tensors: dict[str, torch.Tensor], name: str, change: object) -> dict[str, torch.Tensor]:
    """The same with one of another kind, by what it is changed with; None: without it."""
    if change is None:
        return {n: each for n, each in tensors.items() if n != name}
    return tensors | {name: change(tensors.get(name, torch.zeros(1)))}  # type: ignore[operator]


def nan(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose last number is none."""
    changed = tensor.clone()
    changed.view(-1)[-1] = torch.nan
    return changed


@pytest.fixture(scope="module")
def saved() -> tuple[WanWorldModel, Frame]:
    """A model whose state has all that there is, and one of a walk."""
    session = session_of(adapter_of(MATRIX_UNIVERSAL))
    asyncio.run(walk(session, range(2)))
    assert isinstance(session.model, WanWorldModel)
    return session.model, session.state.to_bytes()


CONV = "features.up_blocks.0.resnets.0.conv1"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (CONV, None, "conv1: None where"),
        (CONV, nan, "conv1 is not finite"),
        (CONV, lambda x: x[:, :1], r"conv1: \(16, 1, 4, 6\) where \(16, 2, 4, 6\)"),
        (CONV, lambda x: x[..., :-1], r"conv1: \(16, 2, 4, 5\) where"),
        (CONV, lambda x: x.to(torch.int64), "features are numbers"),
        ("features.more", lambda x: x, "more: .* where None"),
        ("more", lambda x: x, "more is no part of it"),
        ("before", nan, "before is not finite"),
        ("before", lambda x: x[:, :3], r"\[\.\.\., 4, 4\]"),
        ("before", lambda x: x * 2, "pose"),
        ("before", lambda x: x.float(), "poses"),
        ("before", lambda x: x.repeat(9, 1, 1), "looks back"),
        ("before", None, "before"),
        ("counts", lambda x: -x, "caches have seen"),
        ("counts", lambda x: x + torch.tensor([0, 1]), "caches have seen"),
        ("counts", lambda x: x.double(), "integer"),
        ("counts", lambda x: x[:1], "unpack"),
        ("keyboard", nan, "keyboard is not finite"),
        ("keyboard", lambda x: x.double(), "caches of this model"),
        ("mouse", lambda x: x[..., :-1], "caches of this model"),
        ("subject", lambda x: x[:-1], "digest of 16 bytes"),
        ("prompt.tokens", None, "a prompt has tokens"),
        ("prompt.tokens", nan, r"prompt\.tokens is not finite"),
        ("prompt.tokens", lambda x: x[:-1], "tokens are"),
        ("prompt.tokens", lambda x: x.to(torch.int64), "made of numbers"),
        ("prompt.given", None, "given picture"),
        ("prompt.given", nan, r"prompt\.given is not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name, change, words, saved):
    adapter, whole = saved
    fresh = adapter.start()
    with pytest.raises(ChunkCorrupt, match=words):
        fresh.from_bytes(pack(spoilt(unpack(whole), name, change)))
    assert (fresh.begin, fresh.heard, fresh.features) == (0, None, {})
    fresh.from_bytes(whole)
    assert join(fresh.to_bytes()) == join(whole)


async def test_a_state_of_any_age_fits():
    for variant in (SELF_FORCING, MATRIX_GTA):
        adapter = adapter_of(variant)
        session = session_of(adapter)
        for chunk in range(3):
            adapter.start().from_bytes(session.state.to_bytes())
            await walk(session, range(chunk, chunk + 1))
    vae = adapter.vae
    _, (young,) = vae.decode(torch.randn(1, 1, 16, *GRID), [{}])
    vae.check(young, GRID)
    for wrong in (young | {"conv_in": young["conv_in"].repeat(1, 2, 1, 1)}, {"conv_in": young["conv_in"]}):
        with pytest.raises(InvalidInput, match="no features"):
            vae.check(wrong, GRID)
    with pytest.raises(InvalidInput, match="no features"):
        vae.check(young, (GRID[0], GRID[1] + 2))
    with pytest.raises(InvalidInput, match="carry no features"):
        LatentsOnly(16).check(young, GRID)


async def test_walks_of_different_ages_are_drawn_together_as_alone():
    adapter = adapter_of(SELF_FORCING)
    sessions = [session_of(adapter, seed) for seed in range(3)]
    for session, chunks in zip(sessions, (2, 0, 1), strict=True):
        await walk(session, range(chunks))
    drafts = [await session.begin(action_of(SELF_FORCING, 5)) for session in sessions]
    sizes = drafts[0].shape.sizes
    together = draw(adapter, Window(adapter.spec, sizes, batch=3), range(3), drafts)
    assert [len(each.pictures) for each in together] == [12, 9, 12]
    for got, draft in zip(together, drafts, strict=True):
        (wanted,) = draw(adapter, Window(adapter.spec, sizes), [0], [draft])
        assert torch.allclose(got.pictures, wanted.pictures, atol=1e-4)
        assert isinstance(got.state, WanState)
        assert isinstance(wanted.state, WanState)
        assert got.state.features.keys() == wanted.state.features.keys()
        assert all(torch.allclose(x, wanted.state.features[n], atol=1e-3) for n, x in got.state.features.items())


async def test_what_is_shown_becomes_a_chunk_of_pictures_like_it():
    """Each picture is held for its latent frame; random weights do not give it back, but a still one stays still."""
    adapter = adapter_of(SELF_FORCING)
    session = session_of(adapter)
    still, other = torch.rand(1, 3, HEIGHT, WIDTH).expand(3, -1, -1, -1), torch.rand(3, 3, HEIGHT, WIDTH)
    latents = adapter.see(still)
    assert latents.shape == (3, 16, *GRID)
    assert torch.allclose(latents, adapter.vae.encode(still[:1].expand(9, -1, -1, -1)))
    assert not torch.allclose(latents, adapter.see(other), atol=0.1)
    assert len((await session.show(still, [START] * 3)).pictures) == 9
    assert len((await session.show(other, [START] * 3)).pictures) == 12


async def kept_walk(adapter: WanWorldModel, chunks: int) -> tuple[list[torch.Tensor], list[Part]]:
    """Pictures of a walk that keeps its chunks, and what is kept of them."""
    lineage, store, frames = Lineage.begin(), RamStore(STORE_BYTES), adapter.spec.frames
    window = WindowConfig(0, frames, frames)
    finder = LocalFinder(ScanIndex(), make_selector("latest", 0), lineage)
    memory = Memory(adapter.spec, window, MemoryConfig(Coding("raw", "raw")), store, finder, lineage)
    pictures = await walk(Session(adapter, SessionConfig("worldkv", window), START, memory), range(chunks))
    await memory.settle()
    keys = [PartKey(lineage.key(n), "part") for n in range(chunks)]
    found = await store.get(keys)
    return pictures, [decode_part(found[key]) for key in keys]


async def test_a_film_made_again_shows_what_was_seen():
    """Latents are kept in float16."""
    adapter = adapter_of(SELF_FORCING)
    seen, parts = await kept_walk(adapter, 4)
    film = _Film(adapter)
    again = [film.show(part)[0] for part in parts]
    assert [len(each) for each in again] == [9, 12, 12, 12]
    assert max(float((a - b).abs().max()) for a, b in zip(again, seen, strict=True)) <= 0.01


async def test_a_film_that_leaves_one_out_begins_again():
    adapter = adapter_of(SELF_FORCING)
    seen, parts = await kept_walk(adapter, 4)
    film = _Film(adapter)
    pictures = [film.show(parts[n])[0] for n in (0, 2, 3)]
    assert [len(each) for each in pictures] == [9, 9, 12]
    latents = torch.from_numpy(np.concatenate([parts[n].latents for n in (2, 3)]).astype(np.float32))
    vae = adapter.vae
    assert isinstance(vae, WanVAE)
    assert torch.equal(torch.cat(pictures[1:]), torch.cat(streamed(vae, latents, 3)))
    # What is not known of the chunks before is missed less and less.
    first, later = ((a[-9:] - b[-9:]).norm() for a, b in zip(pictures[1:], seen[2:], strict=True))
    assert first > later
