"""A session's bytes: what was saved comes back, and whatever else is refused by its name."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest, xxh3_128_digest

from services.generator.saving import MAGIC, Elsewhere, Record, Saved, decode, encode
from services.generator.session import HeldChunk, SessionState
from tests.golden.make import FOLDER as GOLDEN
from tests.toys import toy_spec
from worldkv.actions import Walker
from worldkv.coding import KV
from worldkv.errors import (
    BadHeader,
    BadMagic,
    ChecksumMismatch,
    ChunkCorrupt,
    Oversized,
    SpecMismatch,
    Truncated,
    UnknownVersion,
)
from worldkv.format import Frame, join
from worldkv.wire_sessions import NO_CHANGE, MemoryChange

SPEC = toy_spec()
RECORD = Record(
    world="harbour",
    heads=(b"a" * 16, b"b" * 16),
    scene="rooms:7",
    start=Walker(1.0, 2.0),
    seed=(1 << 64) - 1,
    mode="worldkv",
    lockstep=True,
    format="rgb32f",
    tour="R360",
    next=9,
    walker=Walker(3.0, 4.0, 500.0, -20.0, 1.5),
    numbers=(3, 1 << 63),
    chosen=MemoryChange(None, "pose", 0, 0.5, "int4", 1 << 40),
    judged=True,
    picture=b"a picture",
)
PLAIN = replace(
    RECORD, scene=None, tour="", numbers=(), mode="full", next=0, chosen=NO_CHANGE, judged=False, picture=b""
)

MODEL = Frame.of(b"mod", b"el")
ELSEWHERE = Elsewhere(b"r" * 16, b"d" * 16)


def held(index: int, tokens: int = 5) -> HeldChunk:
    generator = torch.Generator().manual_seed(index)
    shape = (SPEC.layers, tokens, SPEC.heads, SPEC.head_dim)
    pair = (torch.randn(shape, generator=generator) for _ in range(2))
    return HeldChunk(index, np.stack([Walker(index, n).pose for n in range(3)]), KV(*pair))


def counted(index: int, tokens: int) -> HeldChunk:
    """As it stands in the golden files: keys are counted from the chunk's number on, values are their opposite."""
    keys = held(index, tokens).kv.keys
    keys = torch.arange(index, index + keys.numel(), dtype=keys.dtype).reshape(keys.shape)
    return replace(held(index, tokens), kv=KV(keys, -keys))


def saved() -> Saved:
    state = SessionState(SPEC.digest, RECORD.seed, RECORD.next, RECORD.walker, (held(0), held(8, 7)), MODEL)
    return Saved(RECORD, state)


@pytest.mark.parametrize(
    "record", [RECORD, PLAIN, replace(PLAIN, chosen=MemoryChange(codec="raw"), elsewhere=ELSEWHERE)]
)
def test_a_record_comes_back(record):
    after = decode(encode(Saved(record)), SPEC)
    assert (after.record, after.state) == (record, None)


def test_a_state_comes_back_bit_for_bit():
    before, after = saved(), decode(encode(saved()), SPEC)
    assert after.record == before.record
    assert (join(after.state.model), after.state.walker, after.state.next, after.state.seed) == (
        b"model",
        RECORD.walker,
        RECORD.next,
        RECORD.seed,
    )
    for one, other in zip(before.state.held, after.state.held, strict=True):
        assert one.index == other.index
        assert np.array_equal(one.poses, other.poses)
        assert torch.equal(one.kv.keys, other.kv.keys)
        assert torch.equal(one.kv.values, other.kv.values)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("session-v1.wks", replace(RECORD, chosen=NO_CHANGE, judged=False, picture=b"")),  # that version had none of it
        ("session-v2.wks", replace(RECORD, picture=b"")),
        ("session-v3.wks", RECORD),
        ("session-v4.wks", replace(RECORD, picture=b"", elsewhere=ELSEWHERE)),
    ],
)
def test_sessions_of_every_version_are_read(name, record):
    after = decode(Frame.of((GOLDEN / name).read_bytes()), SPEC)
    assert after.record == record
    assert (after.state.seed, after.state.next, join(after.state.model)) == (record.seed, record.next, b"model")
    for one, other in zip(after.state.held, (counted(0, 5), counted(8, 7)), strict=True):
        assert one.index == other.index
        assert np.array_equal(one.poses, other.poses)
        assert torch.equal(one.kv.keys, other.kv.keys)
        assert torch.equal(one.kv.values, other.kv.values)


def test_a_session_is_written_as_this_version_is():
    held = counted(0, 5), counted(8, 7)
    state = SessionState(SPEC.digest, RECORD.seed, RECORD.next, RECORD.walker, held, MODEL)
    record = replace(RECORD, elsewhere=ELSEWHERE)
    assert join(encode(Saved(record, state))) == (GOLDEN / "session-v4.wks").read_bytes()


def test_a_picture_that_is_kept_elsewhere_is_named_and_not_written():
    record = replace(RECORD, picture=bytes(1 << 20), elsewhere=Elsewhere(b"r" * 16, xxh3_128_digest(bytes(1 << 20))))
    frame = encode(Saved(record))
    assert frame.nbytes < 1000
    after = decode(frame, SPEC).record
    assert after == replace(record, picture=b"")
    assert after.elsewhere is not None
    assert after.elsewhere.holds(record.picture)
    assert not after.elsewhere.holds(record.picture[1:])


WHOLE = join(encode(saved()))


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at, change):
    harmed = bytearray(WHOLE)
    harmed[at] ^= change
    with pytest.raises(ChunkCorrupt):
        decode(Frame.of(harmed), SPEC)


@given(st.integers(0, len(WHOLE) - 1))
def test_no_half_of_it_passes_for_the_whole(length):
    with pytest.raises(ChunkCorrupt):
        decode(Frame.of(WHOLE[:length]), SPEC)


@given(st.binary(max_size=200))
def test_anything_else_is_corrupt(data):
    for each in (data, MAGIC + data):
        with pytest.raises(ChunkCorrupt):
            decode(Frame.of(each), SPEC)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\0" * 16 + WHOLE[16:], BadMagic),
        (WHOLE[:8] + b"\0" + WHOLE[9:], UnknownVersion),
        (WHOLE[:8] + b"\5" + WHOLE[9:], UnknownVersion),
        (WHOLE[:10], Truncated),
        (WHOLE[:-1], Truncated),
        (WHOLE + b"x", Oversized),
        (WHOLE[:12] + b"\xff" * 4 + WHOLE[16:], Oversized),
        (WHOLE[:30] + b"x" + WHOLE[31:], ChecksumMismatch),
        (WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]), ChecksumMismatch),
    ],
)
def test_each_way_to_be_wrong_has_a_name(data, error):
    with pytest.raises(error):
        decode(Frame.of(data), SPEC)


def test_a_states_size_is_not_that_of_a_header():
    state = SessionState(
        SPEC.digest, RECORD.seed, RECORD.next, RECORD.walker, (), Frame.of(bytes(2 << 20), bytes(1 << 20))
    )
    after = decode(encode(Saved(replace(RECORD, picture=bytes(3 << 20)), state)), SPEC)
    assert (after.record.picture, join(after.state.model)) == (bytes(3 << 20), bytes(3 << 20))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (14, 101, "picture of 101"),
        (15, [b"r" * 16, b"d" * 16], "picture of 100"),
        (15, [b"r" * 16], "expected bytes, bytes"),
        (15, "elsewhere", "expected bytes, bytes"),
    ],
)
def test_a_picture_that_is_not_where_the_header_says_is_refused(field, value, words):
    """A header that contradicts itself, its checksum with it."""
    whole = join(encode(Saved(replace(RECORD, picture=b"p" * 100))))
    header = msgpack.unpackb(whole[16:-108])
    header[field] = value
    packed = msgpack.packb(header)
    start = whole[:12] + len(packed).to_bytes(4, "little") + packed
    with pytest.raises(BadHeader, match=words):
        decode(Frame.of(start + xxh3_64_digest(start)[::-1] + whole[-100:]), SPEC)


def test_a_state_is_of_one_model():
    with pytest.raises(SpecMismatch):
        decode(encode(saved()), replace(SPEC, weights="f" * 32))
