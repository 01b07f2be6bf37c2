"""Messages of any kind, filled at random, and what reads each kind."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.gateway import frames
from worldkv import wire, wire_retriever, wire_sessions
from worldkv.client import walk_events
from worldkv.client.pictures import pictures_of
from worldkv.errors import InvalidInput
from worldkv.v1 import chunk_pb2, kvstore_pb2, retriever_pb2
from worldkv.v1 import sessions_pb2 as pb

F = FieldDescriptor
DEEPEST = 4
SHIFTS = (0.0, 0.5, -3.0, 1e12)
SIZE = 24, 32
"""Of pictures: rows and columns."""

READERS: Sequence[tuple[type[Message], Callable[[Any], object]]] = (
    (chunk_pb2.PartKey, wire.key_of),
    (chunk_pb2.Lineage, wire.lineage_of),
    (chunk_pb2.World, wire.world_of),
    (chunk_pb2.ChunkMeta, wire_retriever.meta_of),
    (kvstore_pb2.Arena, wire.arena_of),
    (kvstore_pb2.StagedExtents, lambda message: wire.extents_of(message.extents)),
    (kvstore_pb2.ReadWorldResponse, wire.stored_of),
    (retriever_pb2.AddRequest, wire_retriever.batches_of),
    (retriever_pb2.RemoveRequest, wire_retriever.removal_of),
    (retriever_pb2.NearestRequest, wire_retriever.lookups_of),
    (retriever_pb2.NearestResponse, wire_retriever.answers_of),
    (pb.Walker, wire_sessions.walker_of),
    (pb.Move, lambda message: [wire_sessions.action_of(each) for each in message.actions]),
    (pb.Show, lambda message: [*map(wire_sessions.walker_of, message.walkers), pictures_of(message.pictures, *SIZE)]),
    (pb.OpenResponse, walk_events.opened_of),
    (pb.Drawn, lambda message: walk_events.drawn_of(message, *SIZE)),
    (pb.Remembered, walk_events.remembered_of),
    (pb.Notice, walk_events.notice_of),
)
"""Conversions of messages that come over a wire, each with its message."""

STREAMS: Sequence[tuple[type[Message], Callable[[bytes], object]]] = (
    (kvstore_pb2.PutRequest, wire.put_request),
    (kvstore_pb2.GetResponse, wire.get_response),
    (kvstore_pb2.SaveSnapshotRequest, wire.save_request),
    (kvstore_pb2.LoadSnapshotResponse, wire.load_response),
)
"""Messages of streams whose pieces are read past the protobuf runtime."""


def filled(rng: random.Random, kind: type[Message], depth: int = 0) -> Any:
    """A message of a kind, its fields set at random, some of them to what they may not be."""
    message: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name == "matrix":  # no chance makes a rotation
            message.matrix.extend((1, 0, 0, rng.choice(SHIFTS), 0, 1, 0, 0, 0, 0, 1, rng.choice(SHIFTS)))
            continue
        if rng.random() < 0.3:
            continue
        count = rng.choice((0, 1, 2, 3, 12)) if field.is_repeated else 1
        if field.type != F.TYPE_MESSAGE:
            values = [_scalar(rng, field) for _ in range(count)]
            if field.is_repeated:
                getattr(message, field.name).extend(values)
            else:
                setattr(message, field.name, values[0])
        elif depth < DEEPEST and not _is_map(field):
            for _ in range(count):
                into = getattr(message, field.name)
                each = filled(rng, type(into.add()) if field.is_repeated else type(into), depth + 1)
                if field.is_repeated:
                    into[-1].CopyFrom(each)
                else:
                    into.CopyFrom(each)
    return message


def _is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _scalar(rng: random.Random, field: Any) -> Any:
    match field.cpp_type:
        case F.CPPTYPE_STRING:
            size = rng.choice((0, 1, 16, 16, 16, 16, 40))
            return rng.randbytes(size) if field.type == F.TYPE_BYTES else "worldkv:0 R90"[: max(size, 1)]
        case F.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case F.CPPTYPE_ENUM:
            return rng.choice([each.number for each in field.enum_type.values])
        case F.CPPTYPE_FLOAT | F.CPPTYPE_DOUBLE:
            return rng.choice((0.0, 1.0, -1.0, 0.5, 90.0, 1e30, float("nan"), float("inf")))
        case F.CPPTYPE_INT32:
            return rng.choice((0, 1, -1, 7, (1 << 31) - 1))
        case F.CPPTYPE_INT64:
            return rng.choice((0, 1, -1, 7, (1 << 63) - 1))
        case F.CPPTYPE_UINT32:
            return rng.choice((0, 1, 3, 32, (1 << 32) - 1))
        case _:
            return rng.choice((0, 1, 3, 32, (1 << 64) - 1))


def by_reader(kind: type[Message], read: Callable[[Any], object]) -> Callable[[bytes], object]:
    """What becomes of the bytes of a message: parsed by the runtime, then converted."""
    return lambda data: read(wire.parse(kind, data))


def as_the_runtime_says(kind: type[Message], read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Reads a stream's message, and compares what comes of it with what the runtime reads.

    Raises AssertionError if these are two things.
    """

    def both(data: bytes) -> object:
        try:
            message = wire.parse(kind, data)
            name = message.WhichOneof("message")
            said = None if name is None else getattr(message, name)
        except InvalidInput:
            said = None
        try:
            found = read(data)
        except InvalidInput:
            assert said is None or isinstance(said, kvstore_pb2.Piece) or said == b"", f"{said} was refused"
            return None
        if isinstance(found, wire.Piece):
            assert isinstance(said, kvstore_pb2.Piece), f"a piece was found in {said}"
            assert (said.item, said.offset, said.data) == (found.item, found.offset, bytes(found.data)), "another piece"
        return found

    return both


def spoken(rng: random.Random) -> bytes:
    """Something that a WebSocket's client may say, as JSON."""
    name = rng.choice([*frames.KINDS])
    return json.dumps({name: json_format.MessageToDict(filled(rng, frames.KINDS[name]))}).encode()


def heard(data: bytes) -> object:
    """What the gateway makes of a text message; of what is no text it hears nothing."""
    return frames.parsed(data.decode(errors="replace"))


def answered(data: bytes) -> object:
    """The frame that an answer becomes, whose lengths have to add up."""
    message = wire.parse(pb.WalkResponse, data)
    sizes = [len(each.data) for each in message.drawn.pictures] if message.HasField("drawn") else []
    frame = frames.framed(message)
    (length,) = struct.unpack_from(">I", frame)
    said = json.loads(frame[4 : 4 + length])
    assert len(frame) == 4 + length + sum(sizes), "a frame of another length"
    assert [each["size"] for each in said.get("drawn", {}).get("pictures", ())] == sizes, "other sizes of pictures"
    return frame
