"""What stands before a frame's segments: prefix, msgpack header, segment table; and the named limits."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import msgpack
from xxhash import xxh3_64

from worldkv.chunk import Buffer, ChunkKey, check_digest, check_key
from worldkv.errors import BadHeader, BadMagic, ChecksumMismatch, InvalidInput, Oversized, Truncated, UnknownVersion
from worldkv.format.frame import Frame

MAGIC = b"\x89WKV\r\n\x1a\n"
"""First bytes of a frame: not text, and spoilt by whatever changes the ends of lines."""
VERSION = 1
PREFIX_BYTES = 32
ALIGN = 64
"""Segments begin at multiples of this, in bytes from the begin of the frame."""
MAX_HEADER_BYTES = 1 << 20
MAX_SEGMENTS = 4096
MAX_SEGMENT_BYTES = 1 << 30
"""Coded bytes of one segment, and elements of the tensor it decodes to."""
MAX_RECALLED = 1 << 14
"""Recalled keys that an immutable part may name."""
MAX_PART_BYTES = 1 << 24
"""Bytes of a frame that holds an immutable part: stores never drop these, so they stay small."""
MAX_KV_BYTES = 1 << 36
"""Bytes of a frame that holds a KV part."""

Kind = Literal["part", "kv"]
"""Which part of a chunk a frame holds: the immutable one, or keys and values."""

_PREFIX = struct.Struct("<8sIIQQ")
_COMMON = {"kind": str, "branch": bytes, "index": int, "spec": str, "segments": list}
_FIELDS: Mapping[Kind, Mapping[str, type]] = {
    "part": {**_COMMON, "begin": int, "fov": float, "aspect": float, "recalled": list, "shown": bool},
    "kv": {**_COMMON, "reencoded": bool},
}
_CELLS = (str, int, int, str, list, str, int, int, int)
_AXES = 4
_SHAPES = [(int,) * axes for axes in range(_AXES + 1)]
_LIMITS: Mapping[Kind, int] = {"part": MAX_PART_BYTES, "kv": MAX_KV_BYTES}


class Row(NamedTuple):
    """A line of the segment table: where a segment is and what it holds.

    kind        "k" or "v"; in an immutable part: poses, latents, conditioning, descriptor or depth
    layer, head_group, dtype, shape, codec   as in `Segment`
    offset      bytes from the begin of the frame (in the file: of the first segment), a multiple of `ALIGN`
    length      coded bytes
    checksum    xxh3-64 of the coded bytes
    """

    kind: str
    layer: int
    head_group: int
    dtype: str
    shape: tuple[int, ...]
    codec: str
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True)
class Header:
    """What a frame says of itself.

    kind    which part of the chunk it holds
    key     the chunk's name
    spec    digest of the model spec that made it
    fields  what else its kind asks for: begin, fov, aspect, recalled and shown; or reencoded
    rows    the segment table, in the order of the segments
    nbytes  of the whole frame
    """

    kind: Kind
    key: ChunkKey
    spec: str
    fields: Mapping[str, Any]
    rows: tuple[Row, ...]
    nbytes: int


def encode_header(header: Header) -> bytes:
    """Prefix and header; `rows` count offsets from the first segment, and `nbytes` is left to be worked out here.

    Raises Oversized for what breaks a limit, InvalidInput for a key or a digest that is none.
    """
    kind, rows = header.kind, header.rows
    about = {"kind": kind, "branch": check_key(header.key).branch, "index": int(header.key.index)}
    packed: bytes = msgpack.packb({**about, "spec": check_digest(header.spec), **header.fields, "segments": rows})
    head = PREFIX_BYTES + len(packed)
    nbytes = aligned(head) + rows[-1].offset + rows[-1].length if rows else head
    for name, size, limit in (
        ("bytes of header", len(packed), MAX_HEADER_BYTES),
        ("segments", len(rows), MAX_SEGMENTS),
        ("bytes or elements in a segment", max((_size(row) for row in rows), default=0), MAX_SEGMENT_BYTES),
        ("recalled keys", len(header.fields.get("recalled", ())), MAX_RECALLED),
        ("bytes", nbytes, _LIMITS[kind]),
    ):
        if size > limit:
            raise Oversized(f"{kind} of {header.key} has {size} {name}, over the limit of {limit}")
    prefix = _PREFIX.pack(MAGIC, VERSION, len(packed), nbytes, 0)
    return prefix[:-8] + _checksum(prefix, packed).to_bytes(8, "little") + packed


def header_bytes(data: Buffer | Frame) -> int:
    """How many of a frame's first bytes `decode_header` needs, learned from its first `PREFIX_BYTES`."""
    return PREFIX_BYTES + _prefix(Frame.of(data))[0]


def decode_header(data: Buffer | Frame) -> Header:
    """Header and segment table, from the first `header_bytes` or more of a frame: enough to fetch some layers only.

    Raises BadMagic, UnknownVersion, Truncated, Oversized, ChecksumMismatch or BadHeader.
    """
    frame = Frame.of(data)
    size, nbytes, checksum = _prefix(frame)
    if frame.nbytes < PREFIX_BYTES + size:
        raise Truncated(f"a header of {size} bytes, of which {frame.nbytes - PREFIX_BYTES} are here")
    packed = frame.slice(PREFIX_BYTES, size)
    if _checksum(frame.slice(0, PREFIX_BYTES), packed) != checksum:
        raise ChecksumMismatch("the header is not the one that was written")
    kind, fields = _unpack(packed)
    if nbytes > _LIMITS[kind]:
        raise Oversized(f"a {kind} frame of {nbytes} bytes is over the limit of {_LIMITS[kind]}")
    with contradictions("a frame"):
        key = check_key(ChunkKey(fields.pop("branch"), fields.pop("index")))
        spec = check_digest(fields.pop("spec"))
    rows = tuple(_rows(fields.pop("segments"), aligned(PREFIX_BYTES + size)))
    if len({row[:3] for row in rows}) < len(rows):
        raise BadHeader(f"two segments of {key} are of one kind, layer and head group")
    end = rows[-1].offset + rows[-1].length if rows else PREFIX_BYTES + size
    if end != nbytes:
        raise BadHeader(f"{kind} of {key} declares {nbytes} bytes, but its last segment ends at {end}")
    if kind == "part":
        fields["recalled"] = tuple(_recalled(fields["recalled"]))
    return Header(kind, key, spec, fields, rows, nbytes)


def aligned(at: int) -> int:
    """The first multiple of `ALIGN` from `at` on."""
    return -(-at // ALIGN) * ALIGN


class contradictions:
    """Turns what the nouns refuse into BadHeader, with its cause."""

    __slots__ = ("what",)

    def __init__(self, what: object) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidInput):
            raise BadHeader(f"{self.what} is not what its header says: {error}") from error


def _checksum(prefix: bytes | memoryview, packed: bytes | memoryview) -> int:
    state = xxh3_64(bytes(prefix[: PREFIX_BYTES - 8]))
    state.update(packed)
    return state.intdigest()


def _size(row: Row) -> int:
    elements = prod(row.shape) or prod(n or 1 for n in row.shape)  # an empty axis does not excuse a giant one
    return max(row.length, elements)


def _prefix(frame: Frame) -> tuple[int, int, int]:
    """(bytes of the header, bytes of the frame, checksum of prefix and header)."""
    head = bytes(frame.slice(0, min(frame.nbytes, PREFIX_BYTES)))
    if not MAGIC.startswith(head[: len(MAGIC)]):
        raise BadMagic(f"a frame begins with {MAGIC!r}, got {head[: len(MAGIC)]!r}")
    if len(head) < PREFIX_BYTES:
        raise Truncated(f"a frame has at least {PREFIX_BYTES} bytes, got {len(head)}")
    _, version, size, nbytes, checksum = _PREFIX.unpack(head)
    if version != VERSION:
        raise UnknownVersion(f"format version {version}, this reader knows {VERSION}")
    for name, length, limit in (("header", size, MAX_HEADER_BYTES), ("frame", nbytes, MAX_KV_BYTES)):
        if length > limit:
            raise Oversized(f"a {name} of {length} bytes is over the limit of {limit}")
    return size, nbytes, checksum


def _unpack(packed: memoryview) -> tuple[Kind, dict[str, Any]]:
    """A header's kind and its other fields: exactly those of its kind, each of the right type."""
    try:
        fields = msgpack.unpackb(packed, object_pairs_hook=_distinct)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise BadHeader(f"a header that cannot be unpacked: {error}") from error
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if kind not in ("part", "kv"):
        raise BadHeader(f"a header is a map whose kind is part or kv, got {str(kind)[:80]!r}")
    wanted = _FIELDS[kind]
    if fields.keys() != wanted.keys():
        raise BadHeader(f"a {kind} header has the keys {sorted(wanted)}, got {str(list(fields))[:200]}")
    _typed([fields[name] for name in wanted], tuple(wanted.values()), "a header")
    return fields.pop("kind"), fields


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"a key stands twice among {[name for name, _ in pairs]}")
    return fields


def _typed(values: object, types: tuple[type, ...], what: str) -> list[Any]:
    if type(values) is not list or tuple(map(type, values)) != types:
        raise BadHeader(f"{what} holds {', '.join(t.__name__ for t in types)}, got {str(values)[:200]}")
    return values


def _recalled(pairs: list[Any]) -> Iterator[ChunkKey]:
    if len(pairs) > MAX_RECALLED:
        raise Oversized(f"{len(pairs)} recalled keys are over the limit of {MAX_RECALLED}")
    with contradictions("a recalled key"):
        for pair in pairs:
            yield check_key(ChunkKey(*_typed(pair, (bytes, int), "a recalled key")))


def _rows(table: list[Any], body: int) -> Iterator[Row]:
    """The segment table, offsets moved to count from the begin of the frame, where segments begin at `body`."""
    if len(table) > MAX_SEGMENTS:
        raise Oversized(f"{len(table)} segments are over the limit of {MAX_SEGMENTS}")
    end = 0
    for cells in table:
        kind, layer, head_group, dtype, shape, codec, offset, length, checksum = _typed(cells, _CELLS, "a line")
        if len(shape) > _AXES:
            raise BadHeader(f"a segment's shape has at most {_AXES} axes, got {len(shape)}")
        _typed(shape, _SHAPES[len(shape)], "a segment's shape")
        if min(layer, head_group, length, checksum, *shape) < 0:
            raise BadHeader(f"a segment's line holds a negative number: {cells}")
        if offset != aligned(end):
            raise BadHeader(f"a segment at {offset} where {aligned(end)} was expected")
        row = Row(kind, layer, head_group, dtype, tuple(shape), codec, body + offset, length, checksum)
        if (size := _size(row)) > MAX_SEGMENT_BYTES:
            raise Oversized(f"a segment of {size} bytes or elements is over the limit of {MAX_SEGMENT_BYTES}")
        end = offset + length
        yield row
