"""Messages of the store and the nouns they stand for: one conversion at each crossing.

A piece is a message like any other, but on the hot path the protobuf runtime would copy its bytes twice more. So
`piece_frame` joins tag and length to the payload, and `piece` reads one as a view past them; whatever is not exactly
one such piece goes through the runtime, and means what the runtime says. All streams keep their pieces in field 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from worldkv.catalog import Stored, World
from worldkv.chunk import ChunkKey, Lineage, check_key
from worldkv.errors import InvalidInput
from worldkv.format import Kind
from worldkv.shared import ArenaInfo, Extent
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import chunk_pb2, kvstore_pb2

PIECE_BYTES = 1 << 20
"""Bytes of a piece, if nobody asks for another size."""
MAX_PIECE_BYTES = 3 << 20
"""Bytes of a piece, at most: with its header it stays below the largest message."""

_PIECE, _ITEM, _OFFSET, _DATA = 0x12, 0x08, 0x10, 0x1A
"""Tags: the piece in a stream's message, and the fields of a piece."""

M = TypeVar("M", bound=Message)


class Piece(NamedTuple):
    """A run of an item's bytes.

    item    which item of the call, from 0
    offset  of its first byte in the item, bytes
    data    a view of the message it came in, which it keeps alive
    """

    item: int
    offset: int
    data: memoryview


def piece_frame(item: int, offset: int, data: memoryview | bytes) -> bytes:
    """The message, of any of the streams, that carries this piece; copies the bytes once."""
    head = bytearray()
    for tag, value in ((_ITEM, item), (_OFFSET, offset), (_DATA, len(data))):
        head.append(tag)
        _put_varint(head, value)
    joined = bytearray((_PIECE,))
    _put_varint(joined, len(head) + len(data))
    return b"".join((joined, head, data))


def piece(frame: bytes) -> Piece | None:
    """The piece that a message carries, without a copy; None if it is not exactly one, its bytes last."""
    if not frame or frame[0] != _PIECE:
        return None
    length, at = _varint(frame, 1)
    if at < 0 or at + length != len(frame):
        return None
    item, offset, end = 0, 0, len(frame)
    if at < end and frame[at] == _ITEM:
        item, at = _varint(frame, at + 1)
    if 0 < at < end and frame[at] == _OFFSET:
        offset, at = _varint(frame, at + 1)
    if not 0 < at < end or frame[at] != _DATA or item >= 1 << 32:
        return None
    length, at = _varint(frame, at + 1)
    if at < 0 or at + length != end or not length:
        return None
    return Piece(item, offset, memoryview(frame)[at:])


def pieces(
    item: int,
    views: Sequence[memoryview],
    piece_bytes: int,
    told: Callable[[memoryview | bytes], object] = lambda data: None,
) -> Iterator[bytes]:
    """Messages that carry these bytes, each but the last `piece_bytes` of them.

    told  of the bytes of each message, before it is made
    """
    offset, parts, room = 0, list[memoryview](), piece_bytes
    for view in views:
        at = 0
        while at < view.nbytes:
            part = view[at : at + room]
            parts.append(part)
            at, room = at + part.nbytes, room - part.nbytes
            if not room:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                told(data)
                yield piece_frame(item, offset, data)
                offset, parts, room = offset + piece_bytes, [], piece_bytes
    if parts:
        data = b"".join(parts)
        told(data)
        yield piece_frame(item, offset, data)


def put_request(frame: bytes) -> kvstore_pb2.PutItem | Piece | int:
    """What a message of `Put` carries, a checksum as a number; InvalidInput for bytes that are no such message, or an
    empty one."""
    found = piece(frame)
    return found if found is not None else _content(kvstore_pb2.PutRequest, frame)


def get_response(frame: bytes) -> kvstore_pb2.Plan | kvstore_pb2.Miss | Piece:
    """What an answer to `Get` carries; InvalidInput for bytes that are no such message, or an empty one."""
    found = piece(frame)
    return found if found is not None else _content(kvstore_pb2.GetResponse, frame)


def save_request(frame: bytes) -> kvstore_pb2.SaveSnapshotRequest | Piece:
    """A message of `SaveSnapshot`: whole if it carries a head; InvalidInput for bytes that are no such message."""
    found = piece(frame)
    if found is not None:
        return found
    content = _content(kvstore_pb2.SaveSnapshotRequest, frame)
    return content if isinstance(content, Piece) else parse(kvstore_pb2.SaveSnapshotRequest, frame)


def load_response(frame: bytes) -> kvstore_pb2.SnapshotHead | Piece:
    """What an answer to `LoadSnapshot` carries; InvalidInput for bytes that are no such message, or an empty one."""
    found = piece(frame)
    return found if found is not None else _content(kvstore_pb2.LoadSnapshotResponse, frame)


def parse(kind: type[M], frame: bytes) -> M:
    """The message in these bytes; InvalidInput if there is none."""
    try:
        return kind.FromString(frame)
    except DecodeError as error:
        raise InvalidInput(f"{len(frame)} bytes are no {kind.DESCRIPTOR.name}: {error}") from error


def key_of(message: chunk_pb2.PartKey) -> PartKey:
    """The key a message names; InvalidInput for a branch of another length, or no part."""
    return PartKey(chunk_of(message.chunk), _kind(message.part))


def key_message(key: PartKey) -> chunk_pb2.PartKey:
    return chunk_pb2.PartKey(chunk=chunk_message(key.chunk), part=part_message(key.kind))


def chunk_of(message: chunk_pb2.ChunkKey) -> ChunkKey:
    """The chunk a message names; InvalidInput for a branch of another length, or a number out of range."""
    return check_key(ChunkKey(message.branch, message.index))


def chunk_message(key: ChunkKey) -> chunk_pb2.ChunkKey:
    return chunk_pb2.ChunkKey(branch=key.branch, index=key.index)


def kind_of(part: int) -> Kind | None:
    """Which part a filter names, None for both; InvalidInput for a number without a meaning."""
    return None if part == chunk_pb2.PART_UNSPECIFIED else _kind(part)


def part_message(kind: Kind | None) -> chunk_pb2.Part.ValueType:
    """The part's name on the wire; None is both."""
    return _PARTS[kind]


def level_of(level: int) -> Level | None:
    """The level a message names, None for none; InvalidInput for a number without a meaning."""
    try:
        return Level(level) if level else None
    except ValueError as error:
        raise InvalidInput(f"a level lies between 0 and {max(Level)}, got {level}") from error


def level_message(level: Level | None) -> chunk_pb2.Level.ValueType:
    return chunk_pb2.LEVEL_UNSPECIFIED if level is None else _LEVELS[level]


def miss_of(reason: int) -> Miss:
    """Why a key has no bytes; a reason that is not known here is read as NEVER_STORED."""
    return _MISSES.get(reason, Miss.NEVER_STORED)


def miss_message(miss: Miss) -> chunk_pb2.MissReason.ValueType:
    return _MISS_MESSAGES[miss]


def extents_of(messages: Iterable[kvstore_pb2.Extent]) -> tuple[Extent, ...]:
    """Runs of shared memory; whether they lie within it is up to who maps it."""
    return tuple(Extent(each.offset, each.length, each.slot, each.generation) for each in messages)


def extent_messages(extents: Iterable[Extent]) -> list[kvstore_pb2.Extent]:
    return [
        kvstore_pb2.Extent(offset=each.offset, length=each.length, slot=each.slot, generation=each.generation)
        for each in extents
    ]


def arena_of(message: kvstore_pb2.Arena) -> ArenaInfo | None:
    """A shard's arena, None if it shares no memory."""
    if not message.id:
        return None
    return ArenaInfo(
        message.id, message.name, message.size, message.nonce_offset, message.generations_offset, message.slots
    )


def arena_message(arena: ArenaInfo) -> kvstore_pb2.Arena:
    return kvstore_pb2.Arena(**arena._asdict())


def lineage_of(message: chunk_pb2.Lineage) -> Lineage:
    """The lineage; InvalidInput if it has no open end, or its ends do not rise."""
    return Lineage(tuple((part.branch, part.end or None) for part in message.parts))


def lineage_message(lineage: Lineage) -> chunk_pb2.Lineage:
    parts = [chunk_pb2.LineagePart(branch=branch, end=end or 0) for branch, end in lineage.parts]
    return chunk_pb2.Lineage(parts=parts)


def world_of(message: chunk_pb2.World) -> World:
    """The record; InvalidInput naming the value that is wrong."""
    return World(message.name, lineage_of(message.lineage), message.version, message.spec, message.chunks)


def world_message(world: World) -> chunk_pb2.World:
    return chunk_pb2.World(
        name=world.name,
        lineage=lineage_message(world.lineage),
        version=world.version,
        spec=world.spec,
        chunks=world.chunks,
    )


def stored_of(message: kvstore_pb2.ReadWorldResponse | kvstore_pb2.SwapWorldResponse) -> Stored:
    """The record of an answer, and how safe it is."""
    return Stored(world_of(message.world), level_of(message.level) or Level.ONE)


_KINDS: dict[int, Kind] = {chunk_pb2.PART_IMMUTABLE: "part", chunk_pb2.PART_KV: "kv"}
_PARTS: dict[Kind | None, chunk_pb2.Part.ValueType] = {
    None: chunk_pb2.PART_UNSPECIFIED,
    "part": chunk_pb2.PART_IMMUTABLE,
    "kv": chunk_pb2.PART_KV,
}
_LEVELS = {Level.ONE: chunk_pb2.LEVEL_ONE, Level.TWO: chunk_pb2.LEVEL_TWO, Level.REDIS: chunk_pb2.LEVEL_REDIS}
_MISS_MESSAGES = {
    Miss.NEVER_STORED: chunk_pb2.MISS_REASON_NEVER_STORED,
    Miss.DELETED: chunk_pb2.MISS_REASON_DELETED,
    Miss.EVICTED: chunk_pb2.MISS_REASON_EVICTED,
    Miss.CORRUPT: chunk_pb2.MISS_REASON_CORRUPT,
    Miss.LATE: chunk_pb2.MISS_REASON_LATE,
    Miss.TIER_DOWN: chunk_pb2.MISS_REASON_TIER_DOWN,
}
_MISSES: dict[int, Miss] = {message: miss for miss, message in _MISS_MESSAGES.items()}


def _kind(part: int) -> Kind:
    if part not in _KINDS:
        raise InvalidInput(f"a key names the immutable part (1) or the KV part (2) of a chunk, got {part}")
    return _KINDS[part]


def _content(kind: type[Message], frame: bytes) -> Any:
    """What a message's `oneof` holds, a piece as `Piece`; InvalidInput if it holds nothing."""
    message = parse(kind, frame)
    name = message.WhichOneof("message")
    if name is None:
        raise InvalidInput(f"a {kind.DESCRIPTOR.name} of {len(frame)} bytes carries nothing that is known here")
    content = getattr(message, name)
    if name == "piece":
        return Piece(content.item, content.offset, memoryview(content.data))
    return content


def _put_varint(into: bytearray, value: int) -> None:
    while value > 0x7F:
        into.append(value & 0x7F | 0x80)
        value >>= 7
    into.append(value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; an end of -1 if there is none, or none that we write."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    return 0, -1
