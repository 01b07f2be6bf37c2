"""Bytes that are not what was written: each way to be wrong has its own error, and no other error comes out."""

import struct
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests import strategies as some
from tests.golden import make
from worldkv.chunk import ChunkKey
from worldkv.errors import (
    BadHeader,
    BadMagic,
    ChecksumMismatch,
    ChunkCorrupt,
    InvalidInput,
    InvalidPose,
    NonFinite,
    Oversized,
    Truncated,
    UnknownVersion,
)
from worldkv.format import (
    MAX_HEADER_BYTES,
    MAX_KV_BYTES,
    MAX_SEGMENT_BYTES,
    Frame,
    decode_header,
    decode_kv,
    decode_part,
    decode_segment,
    encode_kv,
    encode_part,
    join,
)

Decode = Callable[[bytes], object]
PART = make.PART.read_bytes()
KV = make.KV.read_bytes()
BOTH = pytest.mark.parametrize(("data", "decode"), [(PART, decode_part), (KV, decode_kv)], ids=["part", "kv"])


def seal(packed: bytes, body: bytes = b"", nbytes: int | None = None) -> bytes:
    """A frame of this header and what follows it, with a right checksum: only its contents can be wrong."""
    gap = bytes(-(32 + len(packed)) % 64) if body else b""
    total = 32 + len(packed) + len(gap) + len(body) if nbytes is None else nbytes
    start = struct.pack("<8sIIQ", bytes.fromhex("89574b560d0a1a0a"), 1, len(packed), total)
    return start + struct.pack("<Q", xxh3_64_intdigest(start + packed)) + packed + gap + body


def open_up(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and segments of a frame."""
    (size,) = struct.unpack_from("<I", data, 12)
    return msgpack.unpackb(data[32 : 32 + size]), data[-(-(32 + size) // 64) * 64 :]


def with_fields(data: bytes, **fields: Any) -> bytes:
    header, body = open_up(data)
    return seal(msgpack.packb({**header, **fields}), body)


def with_cell(data: bytes, line: int, cell: int, value: Any) -> bytes:
    header, body = open_up(data)
    header["segments"][line][cell] = value
    return seal(msgpack.packb(header), body)


def test_the_helpers_here_make_sound_frames():
    assert with_fields(PART) == PART
    assert with_cell(KV, 0, 0, "k") == KV


@BOTH
def test_any_flipped_byte_is_detected(data: bytes, decode: Decode):
    for at in range(len(data)):
        for flip in (1, 128, 255):
            wrong = bytearray(data)
            wrong[at] ^= flip
            with pytest.raises(ChunkCorrupt):
                decode(bytes(wrong))


@given(some.parts(), st.integers(0), st.integers(1, 255))
def test_any_flipped_byte_of_any_part_is_detected(part, at, flip):
    wrong = bytearray(join(encode_part(part)))
    wrong[at % len(wrong)] ^= flip
    with pytest.raises(ChunkCorrupt):
        decode_part(wrong)


@given(some.chunk_keys, some.digests, some.kv_parts(), st.integers(0), st.integers(1, 255))
def test_any_flipped_byte_of_any_kv_is_detected(key, spec, kv, at, flip):
    wrong = bytearray(join(encode_kv(key, spec, kv)))
    wrong[at % len(wrong)] ^= flip
    with pytest.raises(ChunkCorrupt):
        decode_kv(wrong)


@BOTH
def test_a_frame_cut_short_anywhere_is_truncated(data: bytes, decode: Decode):
    for length in range(len(data)):
        with pytest.raises(Truncated):
            decode(data[:length])


@BOTH
def test_a_frame_with_more_behind_it_is_oversized(data: bytes, decode: Decode):
    for tail in (b"\0", b"\0" * 64, data):
        with pytest.raises(Oversized):
            decode(data + tail)


@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused_by_name(noise, begins_well):
    data = KV[:16] + noise if begins_well else noise
    for decode in (decode_part, decode_kv, decode_header):
        with pytest.raises(ChunkCorrupt):
            decode(data)


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_noise_behind_a_right_checksum_is_refused_by_name(packed, body):
    for decode in (decode_part, decode_kv):
        with pytest.raises(ChunkCorrupt):
            decode(seal(packed, body))


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([PART, KV]), st.data())
def test_a_header_with_one_value_exchanged_is_read_or_refused_by_name(frame, data):
    header, body = open_up(frame)
    where = data.draw(st.sampled_from([header, *header["segments"]]))
    where[data.draw(st.sampled_from(list(where) if isinstance(where, dict) else range(len(where))))] = data.draw(json)
    for decode in (decode_part, decode_kv):
        try:
            decode(seal(msgpack.packb(header), body))
        except ChunkCorrupt:
            continue


def test_other_first_bytes_are_bad_magic():
    for data in (b"PK\3\4", b"\x89PNG\r\n\x1a\n", KV.replace(b"\r\n", b"\n"), b"\x09" + KV[1:]):
        with pytest.raises(BadMagic):
            decode_kv(data)


def test_another_version_is_unknown():
    with pytest.raises(UnknownVersion, match="version 2"):
        decode_kv(KV[:8] + b"\2" + KV[9:])


def test_lengths_over_a_limit_are_oversized_before_anything_is_read():
    with pytest.raises(Oversized, match="header"):
        decode_kv(struct.pack("<8sIIQQ", KV[:8], 1, MAX_HEADER_BYTES + 1, 0, 0))
    with pytest.raises(Oversized, match="frame"):
        decode_kv(struct.pack("<8sIIQQ", KV[:8], 1, 0, MAX_KV_BYTES + 1, 0))
    with pytest.raises(Oversized):
        decode_part(seal(msgpack.packb(open_up(PART)[0]), nbytes=1 << 25))
    with pytest.raises(Oversized):
        decode_kv(with_cell(KV, 0, 7, MAX_SEGMENT_BYTES + 1))
    for shape in ([1 << 15, 1 << 15, 2], [0, 1 << 40, 1], [0, 1 << 20, 1 << 20]):
        with pytest.raises(Oversized):
            decode_kv(with_cell(KV, 0, 4, shape))


def test_bytes_that_changed_are_a_checksum_mismatch():
    header = 32 + open_up(KV)[0]["segments"][0][6]
    for at in (header, KV.index(bytes(range(16)), 100), len(KV) - 60, 24):  # header, segment, padding, checksum
        wrong = bytearray(KV)
        wrong[at] ^= 1
        with pytest.raises(ChecksumMismatch):
            decode_kv(wrong)


def test_unverified_segments_may_differ_but_a_header_may_not():
    at = KV.index(bytes(range(16)), 100)
    wrong = bytearray(KV)
    wrong[at] = 99
    segment = decode_kv(wrong, verify=False)[2].segments[0]
    assert segment.data[0] == 99
    row = decode_header(wrong).rows[0]
    with pytest.raises(ChecksumMismatch):
        decode_segment(row, wrong[at : at + row.length])
    wrong[40] ^= 1
    with pytest.raises(ChecksumMismatch):
        decode_kv(wrong, verify=False)


def test_a_segment_of_another_length_is_refused():
    row = decode_header(KV).rows[0]
    with pytest.raises(Truncated):
        decode_segment(row, bytes(row.length - 1))
    with pytest.raises(Oversized):
        decode_segment(row, bytes(row.length + 1))


def test_a_part_is_not_read_as_kv_nor_kv_as_a_part():
    with pytest.raises(BadHeader, match=r"part of .* where kv was expected"):
        decode_kv(PART)
    with pytest.raises(BadHeader, match=r"kv of .* where part was expected"):
        decode_part(KV)
    with pytest.raises(BadHeader):
        decode_segment(decode_header(PART).rows[2], b"turn right")


CONTRADICTIONS = {
    "no header": seal(b""),
    "a header that is a list": seal(msgpack.packb([1, 2])),
    "a header that is empty": seal(msgpack.packb({})),
    "unknown kind": seal(msgpack.packb({"kind": "kvv"})),
    "kind that is a list": seal(msgpack.packb({"kind": ["kv"]})),
    "bytes after the map": seal(msgpack.packb({"kind": "kv"}) + b"\0"),
    "a key twice": seal(b"\x82" + 2 * (msgpack.packb("kind") + msgpack.packb("kv"))),
    "nested too deep": seal(b"\x91" * 2000 + b"\xc0"),
    "a key that is a list": seal(b"\x81\x90\x90"),
    "a key too many": with_fields(KV, shown=True),
    "segments that are a map": with_fields(KV, segments={}),
    "a line that is empty": with_fields(KV, segments=[[]]),
    "a line that is none": with_fields(KV, segments=[None]),
    "segments that are not listed": with_fields(KV, segments=[]),
    "index below 0": with_fields(KV, index=-1),
    "index too large": with_fields(KV, index=1 << 63),
    "index that is a bool": with_fields(KV, index=True),
    "branch too short": with_fields(KV, branch=b"short"),
    "branch that is text": with_fields(KV, branch="0123456789abcdef"),
    "spec too short": with_fields(KV, spec="0" * 31),
    "spec not hex": with_fields(KV, spec="G" * 32),
    "reencoded that is a number": with_fields(KV, reencoded=1),
    "begin below 0": with_fields(PART, begin=-1),
    "no field of view": with_fields(PART, fov=0.0),
    "fov that is an integer": with_fields(PART, fov=1),
    "fov that is NaN": with_fields(PART, fov=float("nan")),
    "aspect without end": with_fields(PART, aspect=float("inf")),
    "recalled branch too short": with_fields(PART, recalled=[[b"short", 0]]),
    "recalled key without index": with_fields(PART, recalled=[[bytes(16)]]),
    "recalled key that is a number": with_fields(PART, recalled=[7]),
    "neither k nor v": with_cell(KV, 0, 0, "q"),
    "layer below 0": with_cell(KV, 0, 1, -1),
    "layer that is a float": with_cell(KV, 0, 1, 39.0),
    "k of layer 0 twice": with_cell(KV, 1, 0, "k"),
    "dtype that no model has": with_cell(KV, 0, 3, "float64"),
    "shape of two axes": with_cell(KV, 0, 4, [2, 4]),
    "shape below 0": with_cell(KV, 0, 4, [2, -1, 4]),
    "shape of many axes": with_cell(KV, 0, 4, [1] * 1000),
    "codec without name": with_cell(KV, 0, 5, ""),
    "codec's name too long": with_cell(KV, 0, 5, "x" * 65),
    "codec's name of two lines": with_cell(KV, 0, 5, "int\n4"),
    "a hole": with_cell(KV, 1, 6, 128),
    "an overlap": with_cell(KV, 1, 6, 0),
    "ends beyond the frame": with_cell(KV, 2, 7, 1),
    "unknown segment of a part": with_cell(PART, 0, 0, "pose"),
    "poses twice": with_cell(PART, 4, 0, "poses"),
    "poses of layer 1": with_cell(PART, 0, 1, 1),
    "poses of float32": with_cell(PART, 0, 3, "float32"),
    "poses that do not fill their bytes": with_cell(PART, 0, 4, [2, 4, 3]),
    "poses of another shape": with_cell(PART, 0, 4, [2, 16]),
    "latents of another shape": with_cell(PART, 1, 4, [24]),
    "latents of more frames than poses": with_cell(PART, 1, 4, [3, 2, 2, 2]),
    "latents that are coded": with_cell(PART, 1, 5, "int8"),
    "descriptor of two axes": with_cell(PART, 3, 4, [3, 1]),
    "depth of fewer frames than poses": with_cell(PART, 4, 4, [1, 2, 2]),
}


def with_key_twice(data: bytes) -> bytes:
    header, body = open_up(data)
    packed = msgpack.packb(header)
    return seal(bytes([packed[0] + 1]) + packed[1:] + msgpack.packb("kind") + msgpack.packb("kv"), body)


@pytest.mark.parametrize(
    "wrong",
    [with_key_twice(KV), CONTRADICTIONS["k of layer 0 twice"], CONTRADICTIONS["shape of many axes"]],
    ids=["key twice", "segment twice", "many axes"],
)
def test_a_header_read_alone_is_checked_as_strictly(wrong: bytes):
    with pytest.raises(BadHeader):
        decode_header(wrong)


@pytest.mark.parametrize("wrong", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_a_bad_header(wrong: bytes):
    with pytest.raises(BadHeader):
        decode_part(wrong) if b"latents" in wrong else decode_kv(wrong)


def test_a_part_must_hold_its_poses_latents_and_conditioning():
    header, body = open_up(PART)
    del header["segments"][3:]
    assert decode_part(seal(msgpack.packb(header), body[: 256 + 64 + 10])).meta.depth is None
    del header["segments"][2]
    with pytest.raises(BadHeader, match="conditioning"):
        decode_part(seal(msgpack.packb(header), body[: 256 + 48]))


@pytest.mark.parametrize(
    ("line", "value", "cause"),
    [(0, np.float64(2), InvalidPose), (0, np.float64(1e200), InvalidPose), (1, np.float16("nan"), NonFinite)],
)
def test_what_no_chunk_can_hold_is_a_bad_header_with_its_cause(line, value, cause):
    header, body = open_up(PART)
    at, length = header["segments"][line][6:8]
    changed = body[:at] + value.tobytes() + body[at + value.nbytes :]
    header["segments"][line][8] = xxh3_64_intdigest(changed[at : at + length])
    with pytest.raises(BadHeader) as caught:
        decode_part(seal(msgpack.packb(header), changed))
    assert type(caught.value.__cause__) is cause
    assert isinstance(caught.value.__cause__, InvalidInput)


def test_errors_name_the_chunk():
    with pytest.raises(Truncated, match=str(ChunkKey(make.BRANCH, 7))):
        decode_kv(Frame.of(KV[:-1]))
