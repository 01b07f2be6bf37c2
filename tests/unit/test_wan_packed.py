"""Named tensors as bytes."""

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.adapters.wan.packed import DTYPES, pack, unpack
from worldkv.errors import InvalidInput
from worldkv.format import Frame, join

TENSORS = {
    "half": torch.arange(6).view(2, 3).half(),
    "none of them": torch.empty(2, 0, 3, dtype=torch.bfloat16),
    "one": torch.tensor(7),
}
WHOLE = join(pack(TENSORS))


def filed(header: object, body: bytes = b"") -> Frame:
    packed: bytes = msgpack.packb(header)
    return Frame.of(len(packed).to_bytes(8, "little") + packed + body)


@given(st.dictionaries(st.text(), st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=4))))
def test_tensors_come_back_as_they_were(described):
    tensors = {name: torch.randn(shape).to(DTYPES[kind]) for name, (kind, shape) in described.items()}
    frame = pack(tensors)
    for each in (frame, Frame.of(join(frame))):
        found = unpack(each)
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)


def test_nothing_is_copied_to_write_it_and_all_to_read_it():
    tensor = torch.zeros(8)
    frame = pack({"a": tensor})
    found = unpack(frame)["a"]
    tensor[0] = 1
    assert join(frame)[-32:] == tensor.numpy().tobytes()
    assert not found.any()


def test_what_lies_otherwise_in_memory_is_written_in_order():
    tensor = torch.arange(6).view(2, 3)
    assert torch.equal(unpack(pack({"a": tensor.T}))["a"], tensor.T)


@given(st.integers(0, len(WHOLE) - 1))
def test_no_half_of_it_passes_for_the_whole(length):
    with pytest.raises(InvalidInput, match="not named tensors"):
        unpack(Frame.of(WHOLE[:length]))


@given(st.binary(max_size=100))
def test_anything_else_is_refused(data):
    for each in (data, (len(data) // 2).to_bytes(8, "little") + data):
        try:
            found = unpack(Frame.of(each))
        except InvalidInput:
            continue
        assert join(pack(found))[8:] == each[8:] or not found


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ([["a", "float32", [2]]], bytes(9)),
        ([["a", "float32", [-2]]], b""),
        ([["a", "float32", ["2"]]], bytes(8)),
        ([["a", "complex64", [1]]], bytes(8)),
        ([["a", "float32", 2]], bytes(8)),
        ([["a", "float32", [1.5]]], bytes(6)),
        ([["a", "float32"]], b""),
        ([[["a"], "uint8", [1]]], b"x"),
        ([[3, "uint8", [1]]], b"x"),
        ({"a": 1}, b""),
        (3, b""),
    ],
)
def test_headers_that_say_nonsense_are_refused(header, body):
    with pytest.raises(InvalidInput, match="not named tensors"):
        unpack(filed(header, body))
