"""What every codec promises, whatever it does to the values. A new codec is one more line in CODECS."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldkv.codec import Codec, Klt, bits_per_value, codec, fit
from worldkv.errors import InvalidInput, NonFinite, Oversized, Truncated

LAYERS, TOKENS, HEADS, HEAD_DIM = 2, 24, 4, 64
SHAPE = (LAYERS, TOKENS, HEADS, HEAD_DIM)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def values(seed: int = 0, tokens: int = TOKENS, dtype: torch.dtype = torch.float32) -> Tensor:
    """Like keys and values of a model: off centre, and within few directions but for a little noise."""
    fixed = torch.Generator().manual_seed(7)
    mean = torch.randn(LAYERS, 1, HEADS * HEAD_DIM, generator=fixed)
    directions = torch.randn(LAYERS, 16, HEADS * HEAD_DIM, generator=fixed) / 4
    generator = torch.Generator().manual_seed(seed)
    x = mean + torch.randn(LAYERS, tokens, 16, generator=generator) @ directions
    x += 0.02 * torch.randn(x.shape, generator=generator)
    return x.view(LAYERS, tokens, HEADS, HEAD_DIM).to(dtype)


class Promise(NamedTuple):
    """The largest error, relative to the root mean square of what is coded, and bits a value of `SHAPE`."""

    codec: Codec
    error: float
    bits: float


FITTED = fit(values(1, tokens=2000), 1.5)
CODECS = {
    "raw": Promise(codec("raw"), 0.0, 16),
    "int8": Promise(codec("int8"), 0.01, 8.5),
    "int4": Promise(codec("int4"), 0.13, 4.5),
    "int4/32": Promise(codec("int4/32"), 0.12, 5.0),
    "int3": Promise(codec("int3"), 0.27, 3.5),
    "hadamard4": Promise(codec("hadamard4"), 0.13, 4 + 1 / 8 + 16 / TOKENS),
    "hadamard3": Promise(codec("hadamard3"), 0.27, 3 + 1 / 8 + 16 / TOKENS),
    "klt": Promise(FITTED, 0.06, 1.5),
}


@pytest.fixture(params=CODECS)
def promise(request: pytest.FixtureRequest) -> Promise:
    return CODECS[request.param]


@pytest.fixture
def by(promise: Promise) -> Codec:
    return promise.codec


each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / a.double().norm())


def there_and_back(by: Codec, x: Tensor) -> Tensor:
    return by.decode(by.encode(x), x.shape, x.dtype, x.device)


@each_dtype
def test_shape_and_dtype_come_back(by, dtype):
    y = there_and_back(by, values(dtype=dtype))
    assert (y.shape, y.dtype) == (SHAPE, dtype)
    assert y.is_contiguous()


@each_dtype
@pytest.mark.parametrize("seed", range(3))
def test_errors_stay_within_the_promise(promise, dtype, seed):
    x = values(seed, dtype=dtype)
    rounding = 0 if promise.error == 0 else torch.finfo(dtype).eps
    assert error(x, there_and_back(promise.codec, x)) <= promise.error + rounding


def test_bytes_are_as_many_as_promised(promise):
    assert bits_per_value(promise.codec, SHAPE, torch.bfloat16) == pytest.approx(promise.bits, abs=0.02)


@each_dtype
@pytest.mark.parametrize("tokens", [0, 1, 7, TOKENS])
def test_size_is_exact(by, dtype, tokens):
    data = by.encode(values(tokens=tokens, dtype=dtype))
    assert data.dtype == np.uint8
    assert data.ndim == 1
    assert data.flags.c_contiguous
    assert data.nbytes == by.size((LAYERS, tokens, HEADS, HEAD_DIM), dtype)


def test_no_tokens_are_no_bytes(by):
    assert by.encode(values(tokens=0)).nbytes == 0
    assert by.decode(b"", (LAYERS, 0, HEADS, HEAD_DIM), torch.float32, "cpu").shape == (LAYERS, 0, HEADS, HEAD_DIM)


def test_the_same_values_give_the_same_bytes(by):
    assert np.array_equal(by.encode(values()), by.encode(values().clone()))


def test_a_stack_of_layers_is_its_layers_joined(by):
    x, layers = values(), [by.layer(i) if isinstance(by, Klt) else by for i in range(LAYERS)]
    data = by.encode(x)
    alone = [one.encode(layer) for one, layer in zip(layers, x)]
    assert np.array_equal(data, np.concatenate(alone))
    decoded = [one.decode(part, x.shape[1:], x.dtype, "cpu") for one, part in zip(layers, alone)]
    assert torch.allclose(torch.stack(decoded), there_and_back(by, x), atol=1e-6)


def test_strides_do_not_matter(by):
    x = values().transpose(1, 2).contiguous().transpose(1, 2)
    assert np.array_equal(by.encode(x), by.encode(values()))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray])
def test_any_buffer_is_read(by, kind):
    data = by.encode(values())
    data.flags.writeable = False
    y = by.decode(kind(data), SHAPE, torch.float32, "cpu")
    assert torch.equal(y, there_and_back(by, values()))


def test_nobody_shares_memory(by):
    x = values()
    data = by.encode(x)
    before, y = data.copy(), by.decode(data, SHAPE, torch.float32, "cpu")
    expected = y.clone()
    x.zero_()
    assert np.array_equal(data, before)
    data[:] = 0
    assert torch.equal(y, expected)


@each_dtype
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_counted(by, dtype, bad):
    x = values(dtype=dtype)
    x[0, 3, 1, :5] = bad
    with pytest.raises(NonFinite, match=f"5 of {x.numel()} values"):
        by.encode(x)


@pytest.mark.parametrize("missing", [1, 100])
def test_bytes_that_end_too_soon_are_refused(by, missing):
    data = by.encode(values())[:-missing]
    with pytest.raises(Truncated, match=str(len(data))):
        by.decode(data, SHAPE, torch.float32, "cpu")


def test_bytes_too_many_are_refused(by):
    data = bytes(by.encode(values())) + b"\0"
    with pytest.raises(Oversized, match=str(len(data))):
        by.decode(data, SHAPE, torch.float32, "cpu")


@pytest.mark.parametrize("shape", [(HEADS, HEAD_DIM), (LAYERS, -1, HEADS, HEAD_DIM)])
def test_what_is_no_tensor_of_keys_is_refused(by, shape):
    with pytest.raises(InvalidInput):
        by.size(shape, torch.float32)


def test_other_dtypes_are_refused(by):
    with pytest.raises(InvalidInput, match="float64"):
        by.encode(values().double())


@each_dtype
@pytest.mark.parametrize("value", [0.0, 3.7, -1000.0])
def test_values_all_alike_come_back_nearly_so(by, dtype, value):
    x = torch.full(SHAPE, value, dtype=dtype)
    y = there_and_back(by, x)
    assert y.isfinite().all()
    if not isinstance(by, Klt):  # what it was fitted to is never all alike
        assert (y - x).abs().max() <= 0.01 * abs(value)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_magnitudes_are_followed(promise, dtype, scale):
    x = (values().double() * scale).to(dtype)
    y = there_and_back(promise.codec, x)
    assert y.isfinite().all()
    if not isinstance(promise.codec, Klt):  # it is fitted to one magnitude, and saturates beyond
        assert error(x, y) <= promise.error + torch.finfo(dtype).eps


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_float16_does_not_become_infinite(by, sign):
    generator = torch.Generator().manual_seed(0)
    x = sign * torch.randint(0, 2, SHAPE, generator=generator) * 65504.0
    assert there_and_back(by, x.half()).isfinite().all()


def test_an_outlier_harms_no_other_token(by):
    x = values()
    far = x.clone()
    far[0, 5] *= 1000
    if getattr(by, "name", "").startswith("hadamard"):
        pytest.skip("the mean is shared by all tokens")
    others = torch.arange(TOKENS) != 5
    assert torch.equal(there_and_back(by, far)[0, others], there_and_back(by, x)[0, others])


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 40), spread=st.floats(1e-6, 1e6))
def test_any_values_keep_the_promise(seed, tokens, spread):
    x = torch.randn(LAYERS, tokens, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(seed)) * spread
    for name, promise in CODECS.items():
        y = there_and_back(promise.codec, x)
        assert y.isfinite().all()
        if name != "klt":
            assert error(x, y) <= promise.error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_reads_what_the_host_wrote_and_the_other_way_round(promise):
    x, by = values(), promise.codec
    there, here = by.encode(x.cuda()), by.encode(x)
    for data in (there, here):
        y = by.decode(data, SHAPE, x.dtype, "cuda")
        assert y.is_cuda
        assert torch.allclose(y.cpu(), by.decode(data, SHAPE, x.dtype, "cpu"), atol=2e-3)
    assert error(x, by.decode(there, SHAPE, x.dtype, "cpu")) <= promise.error
