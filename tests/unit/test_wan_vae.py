"""The VAE of the Wan models at a small width: streaming against the definition, and sessions beside each other."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import model_vae
from benchmarks.model_vae import streamed
from benchmarks.wan_vae_clip import VAEClip
from benchmarks.wan_vae_small import CHANNELS, random_vae
from services.generator.adapters.wan.vae import Features, LatentsOnly, WanVAE
from worldkv.errors import InvalidInput

WIDTH, GRID, FRAMES = 4, (2, 3), 7


@cache
def small() -> tuple[WanVAE, VAEClip]:
    vae, weights = random_vae(WIDTH, seed=1)
    return vae, VAEClip(weights)


@cache
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and their pictures by the definition."""
    torch.manual_seed(5)
    latents = torch.randn(FRAMES, CHANNELS, *GRID)
    return latents, small()[1].decode(latents)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def after(vae: WanVAE, latents: torch.Tensor) -> Features:
    """What a session carries after these."""
    return vae.decode(latents[None], [{}])[1][0]


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=FRAMES))
def test_however_a_clip_is_cut_into_chunks_its_pictures_are_the_same(cuts):
    vae, (latents, wanted) = small()[0], clip()
    features: list[Features] = [{}]
    pictures, at = [], 0
    for frames in cuts:
        if at < FRAMES:
            shown, features = vae.decode(latents[None, at : at + frames], features)
            pictures.append(shown[0])
            at += frames
    assert torch.cat(pictures).shape == (1 + 4 * (FRAMES - 1), 3, 8 * GRID[0], 8 * GRID[1])
    assert error(torch.cat(pictures), wanted) <= 1e-5


def test_pictures_are_neither_black_nor_white_where_they_are_compared():
    assert ((clip()[1] == 0) | (clip()[1] == 1)).double().mean() < 0.05


def test_a_first_chunk_has_fewer_pictures():
    vae, (latents, _) = small()[0], clip()
    assert [len(each) for each in streamed(vae, latents[:6], 3)] == [9, 12]
    assert vae.pictures == 4
    assert vae.pixels == 8


def test_features_that_are_dropped_are_missed():
    exact, forgetful = model_vae.errors(WIDTH, GRID, 6, 3, seed=1)
    assert exact <= 1e-5
    assert forgetful > 1e-2


@pytest.mark.parametrize(
    "name",
    ["conv2.bias", "decoder.head.2.weight", "decoder.upsamples.7.time_conv.weight", "decoder.middle.1.norm.gamma"],
)
def test_the_definition_sees_a_weight_that_is_changed(name):
    vae, weights = random_vae(WIDTH, seed=1)
    other = VAEClip(weights | {name: weights[name] * 1.5})
    assert error(torch.cat(streamed(vae, clip()[0], 3)), other.decode(clip()[0])) > 1e-4


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_sessions_of_any_age_are_decoded_together_as_alone(ages):
    """Ages in chunks of one frame, of which time is doubled from the second on."""
    vae, (latents, _) = small()[0], clip()
    torch.manual_seed(len(ages))
    chunks = torch.randn(len(ages), 2, CHANNELS, *GRID)
    before = [after(vae, latents[:age]) if age else {} for age in ages]
    pictures, features = vae.decode(chunks, before)
    for row, age in enumerate(ages):
        (wanted,), (kept,) = vae.decode(chunks[row : row + 1], before[row : row + 1])
        assert len(pictures[row]) == (8 if age else 5)
        assert error(pictures[row], wanted) <= 1e-5
        assert features[row].keys() == kept.keys()
        assert max(error(features[row][name], each) for name, each in kept.items()) <= 1e-4


def test_what_is_given_is_left_as_it_is_and_no_features_are_shared():
    vae, (latents, _) = small()[0], clip()
    before, chunks = [after(vae, latents[:3]), after(vae, latents[1:4])], latents[:6].unflatten(0, (2, 3))
    copies, same = [{name: each.clone() for name, each in row.items()} for row in before], chunks.clone()
    _, features = vae.decode(chunks, before)
    assert torch.equal(chunks, same)
    assert all(torch.equal(each, copies[row][name]) for row in (0, 1) for name, each in before[row].items())
    for tensor in (*features[0].values(), *features[1].values()):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "it holds more than its own"


def test_features_are_as_large_as_they_are_said_to_be():
    vae, (latents, _) = small()[0], clip()
    features = after(vae, latents[:3])
    assert len(features) == 32
    assert sum(each.nbytes for each in features.values()) == vae.sizes.feature_bytes(GRID, torch.float32)


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_pictures_are_encoded_as_the_definition_says(frames):
    vae, by_definition = small()
    torch.manual_seed(frames)
    pictures = torch.rand(1 + 4 * (frames - 1), 3, 16, 24)
    latents = vae.encode(pictures)
    assert latents.shape == (frames, CHANNELS, 2, 3)
    assert error(latents, by_definition.encode(pictures)) <= 1e-5


def test_a_clip_is_encoded_frame_by_frame_and_its_pictures_are_asked_for_when_they_are_needed():
    vae, asked = small()[0], list[int]()
    torch.manual_seed(3)
    clip = torch.rand(1 + 4 * 4, 3, 16, 16)

    def groups() -> Iterator[torch.Tensor]:
        for frame, group in enumerate((clip[:1], *clip[1:].split(4))):
            asked.append(frame)
            yield group

    wanted, frames = vae.encode(clip), vae.frames(groups())
    for frame in range(3):
        assert torch.equal(next(frames), wanted[frame])
    assert asked == [0, 1, 2]


def test_latents_of_grey_after_a_picture_settle():
    """The encoder sees 112 pictures back: 28 latent frames."""
    clip = torch.full((1 + 4 * 30, 3, 16, 16), 0.5)
    clip[0] = torch.rand(3, 16, 16)
    latents = small()[0].encode(clip)
    change = (latents[1:] - latents[:-1]).abs().amax((1, 2, 3))
    assert change[28:].max() <= 1e-5
    assert change[0] > 0.1


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (4, 3, 16, 16), (5, 1, 16, 16), (5, 3, 12, 16), (5, 3, 16, 20)])
def test_a_clip_that_is_no_clip_is_refused(shape):
    with pytest.raises(InvalidInput, match="a clip has 1 picture and 4"):
        small()[0].encode(torch.zeros(shape))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_in_half_precision_pictures_are_close_and_features_half_as_large(dtype, bound):
    half, _ = random_vae(WIDTH, seed=1, dtype=dtype)
    latents, wanted = clip()
    pictures = torch.cat(streamed(half, latents, 3))
    assert pictures.dtype == torch.float32
    assert 0 < error(pictures, wanted) <= bound
    features = after(half, latents[:3])
    assert {each.dtype for each in features.values()} == {dtype}
    assert sum(each.nbytes for each in features.values()) == half.sizes.feature_bytes(GRID, dtype)
    assert half.encode(torch.rand(5, 3, 16, 16)).dtype == torch.float32


def test_what_only_shows_latents_keeps_to_the_same_seam():
    vae = LatentsOnly(CHANNELS)
    pictures, features = vae.decode(clip()[0][None], [{}])
    assert pictures[0].shape == (FRAMES * vae.pictures, 3, *GRID)
    assert features == [{}]
    assert torch.allclose(vae.decode(vae.encode(pictures[0])[None], [{}])[0][0], pictures[0], atol=1e-6)
