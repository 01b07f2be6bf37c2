"""Bytes of a chunk: what is written is what is read, in the layout of docs/format.md, and nothing is copied."""

import struct
from math import inf
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tests import strategies as some
from tests.golden import make
from worldkv.chunk import ChunkKey, KVPart, Part, Segment
from worldkv.errors import InvalidInput, Oversized
from worldkv.format import (
    PREFIX_BYTES,
    Frame,
    decode_header,
    decode_kv,
    decode_part,
    decode_segment,
    encode_kv,
    encode_part,
    header,
    header_bytes,
    join,
    write_file,
)

BRANCH = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
KEY = ChunkKey(BRANCH, 7)
SPEC = "00112233445566778899aabbccddeeff"


def same_array(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is b if a is None or b is None else a.dtype == b.dtype and np.array_equal(a, b)


def same_part(a: Part, b: Part) -> bool:
    plain = ("key", "spec", "begin", "fov", "aspect", "recalled", "shown")
    arrays = ("poses", "descriptor", "depth")
    return (
        all(getattr(a.meta, name) == getattr(b.meta, name) for name in plain)
        and all(same_array(getattr(a.meta, name), getattr(b.meta, name)) for name in arrays)
        and same_array(a.latents, b.latents)
        and a.conditioning == b.conditioning
    )


def same_segment(a: Segment, b: Segment) -> bool:
    plain = ("kind", "layer", "head_group", "dtype", "shape", "codec")
    return all(getattr(a, name) == getattr(b, name) for name in plain) and np.array_equal(a.data, b.data)


def same_kv(a: KVPart, b: KVPart) -> bool:
    return (
        a.reencoded == b.reencoded
        and len(a.segments) == len(b.segments)
        and all(map(same_segment, a.segments, b.segments))
    )


def cut(data: bytes, places: list[int]) -> Frame:
    """The same bytes as a frame of several buffers."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return Frame.of(*(data[a:b] for a, b in zip([0, *ends], [*ends, len(data)])))


def test_golden_part_reads_as_written_here():
    part = decode_part(make.PART.read_bytes())
    assert part.meta.key == KEY
    assert part.meta.spec == SPEC
    assert (part.meta.begin, part.meta.end) == (14, 16)
    assert (part.meta.fov, part.meta.aspect, part.meta.shown) == (1.25, 0.75, True)
    assert part.meta.recalled == (ChunkKey(BRANCH, 2), ChunkKey(bytes(16), 300))
    assert part.meta.poses.tolist() == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]],
    ]
    assert part.meta.descriptor is not None
    assert part.meta.descriptor.tolist() == [0.5, -1, 2]
    assert part.meta.depth is not None
    assert part.meta.depth.tolist() == [[[1, 2]], [[3, inf]]]
    assert part.latents.shape == (2, 3, 2, 2)
    assert part.latents.ravel().tolist() == [n / 8 for n in range(24)]
    assert part.conditioning == b"turn right"


def test_golden_kv_reads_as_written_here():
    key, spec, kv = decode_kv(make.KV.read_bytes())
    assert (key, spec, kv.reencoded) == (KEY, SPEC, True)
    first, second, third = kv.segments
    assert same_segment(first, Segment("k", 0, 0, "float16", (2, 1, 4), "raw", np.arange(16, dtype=np.uint8)))
    assert same_segment(second, Segment("v", 0, 0, "float16", (2, 1, 4), "int4", np.frombuffer(b"\xff\0\1\2\3", "u1")))
    assert same_segment(third, Segment("k", 39, 1, "bfloat16", (0, 1, 4), "raw", np.empty(0, np.uint8)))


def test_golden_files_are_what_is_written_today():
    assert join(encode_part(make.part())) == make.PART.read_bytes()
    assert join(encode_kv(KEY, SPEC, make.kv())) == make.KV.read_bytes()


@pytest.mark.parametrize("path", [make.PART, make.KV], ids=["part", "kv"])
def test_golden_bytes_lie_as_the_specification_says(path):
    data = path.read_bytes()
    magic, version, size, nbytes, checksum = struct.unpack_from("<8sIIQQ", data)
    assert (magic, version, nbytes) == (bytes.fromhex("89574b560d0a1a0a"), 1, len(data))
    assert checksum == xxh3_64_intdigest(data[:24] + data[32 : 32 + size])
    fields = msgpack.unpackb(data[32 : 32 + size])
    assert (fields["kind"], fields["branch"], fields["index"], fields["spec"]) == (path.stem[:-3], BRANCH, 7, SPEC)
    end = 32 + size
    body = -(-end // 64) * 64
    for *_, offset, length, check in fields["segments"]:
        assert (body + offset) % 64 == 0
        assert 0 <= body + offset - end < 64
        assert not any(data[end : body + offset])
        end = body + offset + length
        assert check == xxh3_64_intdigest(data[body + offset : end])
    assert end == len(data)


@given(some.parts(), st.lists(st.integers(0, 10_000), max_size=5))
def test_a_part_comes_back_equal_in_one_piece_or_in_many(part, places):
    data = join(encode_part(part))
    assert same_part(decode_part(data), part)
    assert same_part(decode_part(cut(data, places)), part)
    assert join(encode_part(decode_part(data))) == data


@given(some.chunk_keys, some.digests, some.kv_parts(), st.lists(st.integers(0, 10_000), max_size=5))
def test_a_kv_part_comes_back_equal_in_one_piece_or_in_many(key, spec, kv, places):
    frame = encode_kv(key, spec, kv)
    data = join(frame)
    assert frame.nbytes == len(data)
    for given_as in (frame, data, bytearray(data), memoryview(data), cut(data, places)):
        assert decode_kv(given_as)[:2] == (key, spec)
        assert same_kv(decode_kv(given_as)[2], kv)
    assert join(encode_kv(*decode_kv(data))) == data


def test_neither_way_copies_a_segment():
    kv = make.kv()
    frame = encode_kv(KEY, SPEC, kv)
    read = decode_kv(frame)[2]
    from_file = np.frombuffer(join(frame), np.uint8)
    mapped = decode_kv(from_file)[2]
    for segment, again, view in zip(kv.segments[:2], read.segments, mapped.segments):
        assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), segment.data) for buffer in frame.buffers)
        assert np.shares_memory(again.data, segment.data)
        assert np.shares_memory(view.data, from_file)


def test_what_is_decoded_cannot_be_written_to():
    data = bytearray(join(encode_part(make.part())))
    part = decode_part(data)
    kv = decode_kv(bytearray(join(encode_kv(KEY, SPEC, make.kv()))))[2]
    for array in (part.latents, part.meta.poses, part.meta.depth, kv.segments[0].data):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array.fill(0)


@given(some.chunk_keys, some.digests, some.kv_parts().filter(lambda kv: kv.segments), st.data())
def test_one_layer_is_read_from_the_header_and_its_own_bytes(key, spec, kv, data):
    whole = join(encode_kv(key, spec, kv))
    head = whole[: header_bytes(whole[:PREFIX_BYTES])]
    about = decode_header(head)
    assert (about.kind, about.key, about.spec, about.nbytes) == ("kv", key, spec, len(whole))
    assert about.fields == {"reencoded": kv.reencoded}
    n = data.draw(st.integers(0, len(kv.segments) - 1))
    row = about.rows[n]
    assert row.offset % 64 == 0
    assert same_segment(decode_segment(row, whole[row.offset : row.offset + row.length]), kv.segments[n])


def test_a_chunk_without_kv_layers_is_a_header_alone():
    frame = encode_kv(KEY, SPEC, KVPart(()))
    assert frame.nbytes == header_bytes(frame)
    assert decode_kv(frame)[2].segments == ()


def test_latents_that_are_not_contiguous_are_written_in_order():
    meta = make.part().meta
    latents = np.arange(24, dtype=np.float16).reshape(2, 2, 2, 3).transpose(0, 3, 1, 2)
    assert np.array_equal(decode_part(encode_part(Part(meta, latents))).latents, latents)


def test_a_key_or_a_digest_that_is_none_is_not_written():
    for key, spec in [
        (ChunkKey(b"short", 0), SPEC),
        (ChunkKey(BRANCH, -1), SPEC),
        (ChunkKey(BRANCH, 1 << 63), SPEC),
        (KEY, "pocket"),
    ]:
        with pytest.raises(InvalidInput):
            encode_kv(key, spec, KVPart(()))


@pytest.mark.parametrize(
    ("limit", "value"),
    [("MAX_HEADER_BYTES", 100), ("MAX_SEGMENTS", 2), ("MAX_SEGMENT_BYTES", 15)],
)
def test_what_breaks_a_limit_is_neither_written_nor_read(limit, value, monkeypatch):
    data = make.KV.read_bytes()
    monkeypatch.setattr(header, limit, value)
    with pytest.raises(Oversized, match=str(value)):
        encode_kv(KEY, SPEC, make.kv())
    with pytest.raises(Oversized, match=str(value)):
        decode_kv(data)


def test_a_part_over_a_limit_is_neither_written_nor_read(monkeypatch):
    data = make.PART.read_bytes()
    monkeypatch.setattr(header, "MAX_RECALLED", 1)
    with pytest.raises(Oversized, match="recalled"):
        encode_part(make.part())
    with pytest.raises(Oversized, match="recalled"):
        decode_part(data)
    monkeypatch.setitem(header._LIMITS, "part", len(data) - 1)
    with pytest.raises(Oversized, match=str(len(data))):
        decode_part(data)


def test_a_file_holds_the_frame_and_nothing_else_lies_beside_it(tmp_path):
    path = tmp_path / "chunk.wkv"
    write_file(path, encode_part(make.part()))
    write_file(path, encode_kv(KEY, SPEC, make.kv()))
    assert path.read_bytes() == make.KV.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "chunk.wkv"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_file(path, encode_part(make.part()))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.binary(max_size=9), max_size=6), st.data())
def test_a_slice_of_a_frame_is_that_of_its_bytes(pieces, data):
    frame = Frame.of(*pieces)
    whole = b"".join(pieces)
    begin = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - begin))
    assert frame.slice(begin, length) == whole[begin : begin + length]
    assert frame.nbytes == len(whole) == len(join(frame))
    assert Frame.of(frame) is frame
    assert join(Frame.of(frame, b"x", frame)) == whole + b"x" + whole
