"""The two parts of a chunk as frames: the immutable part, and keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from worldkv.chunk import Buffer, ChunkKey, KVPart, Meta, Part, Segment
from worldkv.errors import BadHeader, ChecksumMismatch, Oversized, Truncated
from worldkv.format.frame import Frame
from worldkv.format.header import Header, Kind, Row, aligned, contradictions, decode_header, encode_header, header_bytes

_LAYOUTS = {"poses": "<f8", "latents": "<f2", "conditioning": "|u1", "descriptor": "<f4", "depth": "<f4"}
_ARRAYS = {kind: np.dtype(layout) for kind, layout in _LAYOUTS.items()}
"""Segments of an immutable part, in their order, and what they are made of."""
_NAMES = {kind: dtype.name for kind, dtype in _ARRAYS.items()}
_OPTIONAL = ("descriptor", "depth")
_ABOUT = ("poses", *_OPTIONAL)


class About(NamedTuple):
    """What an immutable part says of its chunk, as it was written: whether a chunk may be so is not known yet.

    header  of its frame
    arrays  poses, descriptor and depth as far as it has them, as in `Meta`: read-only views of the frame
    """

    header: Header
    arrays: Mapping[str, NDArray[Any]]


def encode_part(part: Part) -> Frame:
    """Bytes of an immutable part; arrays that lie contiguous in memory are not copied. Raises Oversized."""
    meta = part.meta
    arrays: tuple[NDArray[Any] | None, ...] = (
        meta.poses,
        part.latents,
        np.frombuffer(part.conditioning, np.uint8),
        meta.descriptor,
        meta.depth,
    )
    segments = []
    for (kind, dtype), array in zip(_ARRAYS.items(), arrays):
        if array is not None:
            data = Frame.of(np.ascontiguousarray(array, dtype))
            segments.append((Row(kind, 0, 0, array.dtype.name, array.shape, "raw", 0, 0, 0), data))
    fields = {
        "begin": int(meta.begin),
        "fov": float(meta.fov),
        "aspect": float(meta.aspect),
        "recalled": [[key.branch, int(key.index)] for key in meta.recalled],
        "shown": bool(meta.shown),
    }
    return _encode("part", meta.key, meta.spec, fields, segments)


def encode_kv(key: ChunkKey, spec: str, kv: KVPart) -> Frame:
    """Bytes of the KV part of chunk `key`, made by the model of spec digest `spec`; no segment is copied.

    The frame holds the segments' own memory, which must not change while the frame is in use.
    Raises Oversized, and InvalidInput for a key or a digest that is none.
    """
    segments = []
    for s in kv.segments:
        shape = tuple(int(n) for n in s.shape)
        segments.append((Row(s.kind, int(s.layer), int(s.head_group), s.dtype, shape, s.codec, 0, 0, 0), s.data))
    return _encode("kv", key, spec, {"reencoded": bool(kv.reencoded)}, segments)


def decode_part(data: Buffer | Frame, verify: bool = True) -> Part:
    """The immutable part in a frame; latents, descriptor and depth are read-only views of `data`.

    verify  False leaves the segments' checksums and the padding unread; the header is checked all the same

    A segment that is spread over several buffers is copied. Raises one of the errors under ChunkCorrupt.
    """
    frame = Frame.of(data)
    header = _decode(frame, "part", verify)
    found: dict[str, Any] = {kind: _array(frame, row, verify) for kind, row in _part_rows(header).items()}
    latents, conditioning = found.pop("latents"), found.pop("conditioning").tobytes()
    meta = _meta(header, found)
    with contradictions(f"part of {header.key}"):
        return Part(meta, latents, conditioning)


def decode_about(data: Buffer | Frame) -> About:
    """What an immutable part says of its chunk, from the first bytes of its frame or all of them.

    Header, poses, descriptor and depth are verified, nothing else is looked at. Raises Truncated if there are not
    enough bytes for these, else one of the errors under ChunkCorrupt.
    """
    frame = Frame.of(data)
    header = decode_header(frame)
    arrays: dict[str, NDArray[Any]] = {}
    for kind, row in _part_rows(header).items():
        if kind in _ABOUT:
            if frame.nbytes < row.offset + row.length:
                raise Truncated(f"{kind} of {header.key} end at {row.offset + row.length}, got {frame.nbytes} bytes")
            arrays[kind] = _array(frame, row, verify=True)
    return About(header, arrays)


def decode_kv(data: Buffer | Frame, verify: bool = True) -> tuple[ChunkKey, str, KVPart]:
    """Chunk key, spec digest and KV part in a frame; arguments, copies and errors as in `decode_part`."""
    frame = Frame.of(data)
    header = _decode(frame, "kv", verify)
    segments = tuple(decode_segment(row, frame.slice(row.offset, row.length), verify) for row in header.rows)
    with contradictions(f"kv of {header.key}"):
        return header.key, header.spec, KVPart(segments, header.fields["reencoded"])


def decode_segment(row: Row, data: Buffer, verify: bool = True) -> Segment:
    """One layer's keys or values from its own `row.length` bytes alone, which begin at `row.offset` of the frame."""
    frame = Frame.of(data)
    if frame.nbytes != row.length:
        error = Truncated if frame.nbytes < row.length else Oversized
        raise error(f"{row.kind} of layer {row.layer} has {row.length} bytes, got {frame.nbytes}")
    coded = np.frombuffer(_checked(frame.slice(0, row.length), row, verify), np.uint8)
    with contradictions(f"{row.kind} of layer {row.layer}"):
        kind: Any = row.kind
        shape: Any = row.shape
        return Segment(kind, row.layer, row.head_group, row.dtype, shape, row.codec, coded)


def _encode(
    kind: Kind, key: ChunkKey, spec: str, fields: dict[str, Any], segments: Iterable[tuple[Row, Buffer | Frame]]
) -> Frame:
    rows: list[Row] = []
    body: list[Buffer | Frame] = []
    end = 0
    for row, data in segments:
        frame = Frame.of(data)
        checksum = xxh3_64_intdigest(frame.slice(0, frame.nbytes))
        rows.append(row._replace(offset=aligned(end), length=frame.nbytes, checksum=checksum))
        body += [bytes(aligned(end) - end), frame]
        end = aligned(end) + frame.nbytes
    head = encode_header(Header(kind, key, spec, fields, tuple(rows), 0))
    gap = bytes(aligned(len(head)) - len(head)) if rows else b""
    return Frame.of(head, gap, *body)


def _decode(frame: Frame, kind: Kind, verify: bool) -> Header:
    """The header of a frame of the kind asked for that is all here, with zeros between its segments."""
    header = decode_header(frame)
    if header.kind != kind:
        raise BadHeader(f"{header.kind} of {header.key} where {kind} was expected")
    if frame.nbytes != header.nbytes:
        error = Truncated if frame.nbytes < header.nbytes else Oversized
        raise error(f"{kind} of {header.key} declares {header.nbytes} bytes, got {frame.nbytes}")
    at = header_bytes(frame)
    for row in header.rows if verify else ():
        if any(frame.slice(at, row.offset - at)):
            raise ChecksumMismatch(f"{kind} of {header.key}: the bytes between {at} and {row.offset} are not zero")
        at = row.offset + row.length
    return header


def _part_rows(header: Header) -> dict[str, Row]:
    """The segments of an immutable part; BadHeader if they are not those it has to have, in their order."""
    if header.kind != "part":
        raise BadHeader(f"{header.kind} of {header.key} where part was expected")
    kinds = [row.kind for row in header.rows]
    if kinds != [kind for kind in _ARRAYS if kind in kinds or kind not in _OPTIONAL]:
        raise BadHeader(f"part of {header.key} has the segments {', '.join(_ARRAYS)} in this order, got {kinds}")
    return dict(zip(kinds, header.rows, strict=True))


def _meta(header: Header, found: dict[str, Any]) -> Meta:
    with contradictions(f"part of {header.key}"):
        return Meta(key=header.key, spec=header.spec, **header.fields, **found)


def _checked(view: memoryview, row: Row, verify: bool) -> memoryview:
    if verify and xxh3_64_intdigest(view) != row.checksum:
        raise ChecksumMismatch(f"{row.kind} of layer {row.layer} is not what was written")
    return view


def _array(frame: Frame, row: Row, verify: bool) -> NDArray[Any]:
    """A segment of an immutable part as the array it is."""
    dtype, name = _ARRAYS[row.kind], _NAMES[row.kind]
    if (row.layer, row.head_group, row.dtype, row.codec) != (0, 0, name, "raw"):
        raise BadHeader(f"{row.kind} is raw {name} of layer 0, got {row}")
    if row.length != dtype.itemsize * prod(row.shape):
        raise BadHeader(f"{row.kind} of {name} {row.shape} does not fill {row.length} bytes")
    return np.frombuffer(_checked(frame.slice(row.offset, row.length), row, verify), dtype).reshape(row.shape)
