"""Codecs by themselves: names, packing, exact bounds, the rotation, and the transform that is fitted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldkv.codec import CODECS, Klt, codec, fit
from worldkv.codec.integer import Hadamard, Integer, rotate_blocks
from worldkv.codec.packing import RUNS, pack, unpack
from worldkv.codec.rounding import largest_error
from worldkv.errors import InvalidInput, NonFinite, SpecMismatch, UnknownCodec

few = settings(max_examples=12)
seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(seed: int, tokens: int, layers: int = 3) -> Tensor:
    """[layers, tokens, 2, 32]: ten strong directions of falling strength, and noise."""
    directions = normal(99, layers, 10, 64) * torch.linspace(2, 0.2, 10)[:, None]
    x = normal(98, layers, 1, 64) + normal(seed, layers, tokens, 10) @ directions
    return (x + 0.05 * normal(seed + 1, layers, tokens, 64)).view(layers, tokens, 2, 32)


# Names


@pytest.mark.parametrize("name", [*CODECS, "int4/32", "int8/256", "int3/16"])
def test_a_codec_is_found_by_its_own_name(name):
    assert codec(name).name == name


@pytest.mark.parametrize("name", ["", "int5", "int4/0", "int4/48", "INT4", "int4 ", "klt2-00"])
def test_unknown_names_are_told_what_there_is(name):
    with pytest.raises(UnknownCodec, match="raw, int8, int4, int3, hadamard4, hadamard3"):
        codec(name)


def test_fitted_codecs_are_found_beside_the_others():
    fitted = fit(low_rank(0, 150), 2)
    assert codec(fitted.name, {fitted.name: fitted}) is fitted
    assert codec("int4", {fitted.name: fitted}).name == "int4"
    with pytest.raises(UnknownCodec, match=fitted.name):
        codec("other", {fitted.name: fitted})


# Packing


@few
@given(bits=st.sampled_from(sorted(RUNS)), items=st.integers(0, 3), runs=st.integers(0, 9), seed=seeds)
def test_packed_codes_come_back_and_take_their_bits(bits, items, runs, seed):
    n = runs * RUNS[bits]
    codes = torch.randint(0, 2**bits, (items, n), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    data = pack(codes, bits)
    assert data.dtype == torch.uint8
    assert data.shape == (items, n * bits // 8)
    assert torch.equal(unpack(data, bits), codes.float())


def test_three_bits_lie_as_written():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0]], dtype=torch.uint8)
    number = sum(int(code) << 3 * i for i, code in enumerate(codes[0]))
    assert pack(codes, 3)[0].tolist() == list(number.to_bytes(3, "little"))


# Rounding


@few
@given(
    bits=st.sampled_from([8, 4, 3]),
    seed=seeds,
    centre=st.floats(-100, 100),
    spread=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e20]),
)
def test_no_value_is_further_off_than_the_bound(bits, seed, centre, spread):
    x = centre + spread * normal(seed, 5, 2, 64)
    by = Integer(bits)
    y = by.decode(by.encode(x), x.shape, x.dtype)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    assert ((x - y).abs() <= largest_error(low, high, bits)).all()


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_bound_is_hardly_more_than_half_a_level(bits):
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    assert largest_error(low, high, bits) <= 1.02 / (2**bits - 1)


def test_groups_are_as_large_as_a_token_allows():
    assert Integer(4).size((10, 2, 16), torch.float32) == 10 * (4 + 16)
    assert Integer(4).size((10, 4, 64), torch.float32) == 10 * (4 * 4 + 128)
    assert Integer(4, 32).size((10, 4, 64), torch.float32) == 10 * (8 * 4 + 128)


@pytest.mark.parametrize("by", [Integer(4), Hadamard(3)])
def test_channels_that_fill_no_bytes_are_refused(by):
    with pytest.raises(InvalidInput, match="3 heads of 4"):
        by.encode(torch.zeros(5, 3, 4))


# The rotation


@pytest.mark.parametrize("size", [8, 16, 32, 128, 256])
def test_the_rotation_is_hadamards_and_its_own_inverse(size):
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    turned = rotate_blocks(torch.eye(size))
    assert torch.allclose(turned, torch.from_numpy(matrix / size**0.5).float(), atol=1e-6)
    x = normal(0, 3, 5, size)
    assert torch.allclose(rotate_blocks(rotate_blocks(x)), x, atol=1e-5)


def test_centring_and_rotating_pay_where_channels_differ():
    x = normal(0, 144, 4, 64) * (1 + 20 * (torch.arange(256) % 29 == 0)).view(4, 64) + 5 * normal(1, 4, 64)
    errors = {name: _error(x, name) for name in ("int3", "hadamard3")}
    assert errors["hadamard3"] < 0.8 * errors["int3"]
    assert codec("hadamard3").size(x.shape, x.dtype) < codec("int3").size(x.shape, x.dtype)


def _error(x: Tensor, name: str) -> float:
    by = codec(name)
    return float((x - by.decode(by.encode(x), x.shape, x.dtype, "cpu")).norm())


# The transform that is fitted


def test_what_is_fitted_beats_rounding_at_half_the_bytes():
    x, by = low_rank(5, 144), fit(low_rank(0, 1000), 1.75)
    y = by.decode(by.encode(x), x.shape, x.dtype)
    assert by.size(x.shape, x.dtype) * 2 <= codec("int3").size(x.shape, x.dtype)
    assert (x - y).norm() < 0.5 * _error(x, "int3")


@pytest.mark.parametrize("bits", [0.25, 0.5, 1, 1.75, 2, 3.3, 8])
def test_no_more_bits_are_used_than_given(bits):
    by = fit(low_rank(0, 500), bits)
    assert bits * 64 / 8 - 1 <= by.row_bytes <= bits * 64 / 8
    assert by.name.startswith(f"klt{by.row_bytes / 8:.3g}-")


def test_more_bits_are_less_error():
    x, sample = low_rank(5, 144), low_rank(0, 1000)
    errors = []
    for bits in (0.25, 0.5, 1, 2, 4, 8):
        by = fit(sample, bits)
        errors.append(float((x - by.decode(by.encode(x), x.shape, x.dtype)).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


def test_tables_come_back_from_a_file_under_the_same_name():
    by = fit(low_rank(0, 300), 2)
    again = Klt.from_tensors({name: table.clone() for name, table in by.tensors().items()})
    assert again.name == by.name
    assert np.array_equal(again.encode(low_rank(3, 20)), by.encode(low_rank(3, 20)))


def test_other_tables_have_another_name():
    assert fit(low_rank(0, 300), 2).name != fit(low_rank(1, 300), 2).name


def test_tables_that_do_not_fit_each_other_are_refused():
    tables = fit(low_rank(0, 300), 2).tensors()
    for name in ("mean", "basis", "steps"):
        with pytest.raises(InvalidInput):
            Klt.from_tensors({**tables, name: tables[name][:-1]})
    with pytest.raises(InvalidInput, match="step"):
        Klt.from_tensors({**tables, "steps": 0 * tables["steps"]})
    sizes = tables["sizes"] + torch.tensor([0, 0, 1, -1])
    with pytest.raises(InvalidInput, match="multiples"):
        Klt.from_tensors({**tables, "sizes": sizes})


@pytest.mark.parametrize("shape", [(2, 5, 2, 32), (3, 5, 4, 16), (3, 5, 2, 64), (5, 2, 32)])
def test_tensors_of_another_model_are_refused(shape):
    by = fit(low_rank(0, 300), 2)
    with pytest.raises(SpecMismatch, match="3 layers, 2 heads of 32"):
        by.encode(torch.zeros(shape))


def test_layers_of_no_use_are_legal():
    sample = low_rank(0, 300)
    sample[1] = 0
    by = fit(sample, 1)
    y = by.decode(by.encode(sample), sample.shape, sample.dtype)
    assert y[1].abs().max() < 1e-6


@pytest.mark.parametrize("bits", [0, -1, 8.1, float("nan")])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InvalidInput, match=str(bits)):
        fit(low_rank(0, 300), bits)


def test_samples_must_be_finite_and_many():
    bad = low_rank(0, 300)
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFinite):
        fit(bad, 2)
    with pytest.raises(InvalidInput, match="many tokens"):
        fit(bad[:, :1].nan_to_num(), 2)
