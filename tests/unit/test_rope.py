"""The laws that recalled keys live by: rotations add up, and only differences in time matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldkv.rope import Rope, frequencies, phases, place, place_into, rotate

ROPE = Rope(time=4, height=3, width=3)
HEAD_DIM = 24  # four channels are beyond the pairs
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

few = settings(max_examples=20)
times = st.integers(-5_000, 5_000)
seeds = st.integers(0, 2**31)


def keys(seed: int, dtype: torch.dtype = torch.float32, frames: int = 3) -> Tensor:
    """One chunk of 2 x 3 tokens a frame and two heads."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames * 6, 2, HEAD_DIM, generator=generator).to(dtype)


def at(time: int) -> Tensor:
    return torch.tensor([time])


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for the rounding of float32 phases."""
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@few
@given(seeds, times, times)
def test_placing_twice_is_placing_at_the_sum(seed, a, b):
    k = keys(seed)
    assert close(place(place(k, ROPE, at(a)), ROPE, at(b)), place(k, ROPE, at(a + b)))


@few
@given(seeds, times)
def test_placing_back_undoes_placing(seed, a):
    k = keys(seed)
    assert close(place(place(k, ROPE, at(a)), ROPE, at(-a)), k)


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(seed=seeds)
def test_placing_at_zero_changes_nothing(dtype, seed):
    assert torch.equal(place(keys(seed, dtype), ROPE, at(0)), keys(seed, dtype))


@few
@given(seeds, times, times, times)
def test_a_shift_of_both_leaves_products_as_they_were(seed, a, b, shift):
    q, k = keys(seed), keys(seed + 1)
    before = (place(q, ROPE, at(a)) * place(k, ROPE, at(b))).sum(-1)
    after = (place(q, ROPE, at(a + shift)) * place(k, ROPE, at(b + shift))).sum(-1)
    assert torch.allclose(before, after, atol=1e-4)


@few
@given(seeds, times)
def test_norms_are_kept(seed, a):
    k = keys(seed)
    assert torch.allclose(place(k, ROPE, at(a)).norm(dim=-1), k.norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(seed=seeds, begin=times)
def test_a_placed_chunk_is_as_if_rotated_there_from_scratch(dtype, seed, begin):
    k = keys(seed)
    frames = torch.arange(3)
    local = rotate(k, phases(ROPE, frames, 2, 3)[:, None]).to(dtype)
    scratch = rotate(k, phases(ROPE, frames + begin, 2, 3)[:, None])
    placed = place(local, ROPE, at(begin))
    assert placed.dtype == dtype
    # Rounded when stored and when placed, each to half a unit in the last place of a pair's length.
    error = (placed.float() - scratch).unflatten(-1, (-1, 2)).norm(dim=-1)
    length = k.unflatten(-1, (-1, 2)).norm(dim=-1)
    assert (error <= 2 * torch.finfo(dtype).eps * length + 1e-5).all()


def test_each_session_of_a_batch_is_placed_at_its_own_time():
    k = torch.cat([keys(0), keys(1)])
    both = place(k, ROPE, torch.tensor([7, -3]))
    assert torch.equal(both[:1], place(keys(0), ROPE, at(7)))
    assert torch.equal(both[1:], place(keys(1), ROPE, at(-3)))


def test_only_the_time_pairs_are_turned():
    k = keys(0)
    changed = (place(k, ROPE, at(5)) != k).any(0).any(0).any(0)
    assert changed.tolist() == [True] * 2 * ROPE.time + [False] * (HEAD_DIM - 2 * ROPE.time)


def test_channels_beyond_the_pairs_are_left_alone():
    k = keys(0)
    turned = rotate(k, phases(ROPE, torch.arange(3), 2, 3)[:, None])
    assert torch.equal(turned[..., 2 * ROPE.pairs :], k[..., 2 * ROPE.pairs :])


def test_tokens_run_over_columns_then_rows_then_frames():
    phase = phases(ROPE, torch.tensor([5, 6]), 2, 3).view(2, 2, 3, -1)
    t, h, w = phase.angle().split([ROPE.time, ROPE.height, ROPE.width], -1)
    assert torch.equal(t[1, 0, 0], t[1, 1, 2])
    assert torch.allclose(h[0, 1, 0], frequencies(ROPE.height, ROPE.theta).float())
    assert torch.allclose(w[1, 1, 1], frequencies(ROPE.width, ROPE.theta).float())


def test_times_far_away_lose_no_precision():
    # 2**24 + 1 is not a float32; phases computed in float32 would be off by a whole turn of the first pair.
    far = torch.tensor([2**24 + 1])
    expected = torch.tensor([float((2**24 + 1) % (2 * torch.pi))], dtype=torch.float64)
    angle = phases(ROPE, far, 1, 1)[0, 0].angle().double()
    assert torch.allclose(torch.polar(torch.ones(1).double(), expected).angle(), angle, atol=1e-6)


def test_axes_without_pairs_are_legal():
    rope = Rope(time=0, height=2, width=0)
    k = keys(0)[..., :4]
    assert torch.equal(place(k, rope, at(9)), k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time", [0, 1, 317])
def test_placing_into_a_window_gives_what_placing_gives_bit_for_bit(dtype, time, monkeypatch):
    local = torch.cat([keys(layer, dtype) for layer in range(5)])
    monkeypatch.setattr("worldkv.rope.CACHED", 2 * 4 * local[0, ..., : 2 * ROPE.time].numel())  # two layers at a time
    window = torch.full((5, local.shape[1] + 2, *local.shape[2:]), 7, dtype=dtype)
    place_into(window[:, 1:-1], local, ROPE, time)
    assert torch.equal(window[:, 1:-1], place(local[None], ROPE, at(time))[0])
    assert (window[:, [0, -1]] == 7).all()


@pytest.mark.parametrize("shape", [(0, 6, 2, HEAD_DIM), (3, 0, 2, HEAD_DIM)])
def test_there_may_be_nothing_to_place(shape):
    place_into(torch.empty(shape), torch.empty(shape), ROPE, 5)
