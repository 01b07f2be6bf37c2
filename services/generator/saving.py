"""A session as bytes: what is saved of it when it begins, when it moves to another branch, and when it is suspended.

    prefix    magic, version, length of the header
    header    msgpack: the record, what the held chunks are, and the length and checksum of the body
    checksum  of prefix and header
    body      the picture, unless it is kept elsewhere, the model's state, and keys, then values, of each held chunk,
              uncoded

A record alone is a few hundred bytes, and enough to walk on from the last kept chunk. With the session's state a walk
goes on exactly as if it had not been interrupted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, cast

import msgpack
import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128_digest

from services.generator.session import HeldChunk, Mode, SessionState
from worldkv.actions import Walker
from worldkv.chunk import Branch, ModelSpec
from worldkv.coding import DTYPES, KV
from worldkv.errors import (
    BadHeader,
    BadMagic,
    ChecksumMismatch,
    InvalidInput,
    Oversized,
    Truncated,
    UnknownVersion,
)
from worldkv.format import Frame
from worldkv.pose import check
from worldkv.wire_sessions import FORMATS, MODES, NO_CHANGE, Format, MemoryChange

MAGIC = b"\x89WKS\r\n\x1a\n"
VERSION = 4
FIELDS = {1: 15, 2: 17, 3: 18, 4: 19}
"""Of a header, by version; the first had neither `chosen` nor `judged`, none before the third had a picture, and the
model's state stood in their header; in the third every record had its picture itself."""
MAX_HEADER = 1 << 20
"""Bytes of a header."""
CHOSEN = ("selector", "recalled", "keep", "codec", "budget_chunks")
"""What is saved of a `MemoryChange`, in this order."""

_PREFIX = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<Q")


class Elsewhere(NamedTuple):
    """Where a record's picture is kept, if not in the record.

    root    the branch under which the world's scene was saved, and its picture with it
    digest  of the picture, 16 bytes
    """

    root: Branch
    digest: bytes

    def holds(self, picture: bytes) -> bool:
        """Whether this is the picture that is meant."""
        return xxh3_128_digest(picture) == self.digest


@dataclass(frozen=True)
class Record:
    """All that is known of a session wherever it is.

    world    name of its world
    heads    branches, one of which is the world's head as long as nobody has taken it over; the last is the newest
    scene    in the model's own words; None: nobody knows how the world was entered
    start    where the world was entered
    seed     of the noise
    mode, lockstep, format  as when it was opened
    tour     path that is shown first, in the path grammar; empty: none, or no more
    next     number of the next chunk to be drawn, when this was saved
    walker   where the walker stood then
    numbers  newest numbers of moves, shows and holds that it had taken by then, and of changes that it had made
    chosen   how it remembers, where its client has chosen that; the mode aside
    judged   whether its pictures are compared with the true ones
    picture  image file that the world begins from; empty: none, or `elsewhere` and not at hand
    elsewhere  where the picture is kept; None: with the record
    """

    world: str
    heads: tuple[Branch, ...]
    scene: str | None
    start: Walker
    seed: int
    mode: Mode
    lockstep: bool
    format: Format
    tour: str
    next: int
    walker: Walker
    numbers: tuple[int, ...] = ()
    chosen: MemoryChange = NO_CHANGE
    judged: bool = False
    picture: bytes = b""
    elsewhere: Elsewhere | None = None


@dataclass(frozen=True, eq=False)
class Saved:
    """A record, and the session's state if that was saved too."""

    record: Record
    state: SessionState | None = None


def encode(saved: Saved) -> Frame:
    """The bytes of a session; shares those of picture, model state, keys and values with it."""
    record, state = saved.record, saved.state
    held, of_model = ((), Frame(())) if state is None else (state.held, state.model)
    picture = record.picture if record.elsewhere is None else b""
    body = [memoryview(picture), *of_model.buffers]
    body += [_bytes(tensor) for chunk in held for tensor in chunk.kv]
    digest = xxh3_64()
    for each in body:
        digest.update(each)
    fields = [
        record.world,
        list(record.heads),
        record.scene,
        _numbers(record.start),
        record.seed,
        record.mode,
        record.lockstep,
        record.format,
        record.tour,
        record.next,
        _numbers(record.walker),
        list(record.numbers),
        [getattr(record.chosen, name) for name in CHOSEN],
        record.judged,
        len(picture),
        record.elsewhere,
        None if state is None else [state.spec, of_model.nbytes, [_described(chunk) for chunk in held]],
        sum(each.nbytes for each in body),
        digest.intdigest(),
    ]
    header: bytes = msgpack.packb(fields)
    if len(header) > MAX_HEADER:
        raise InvalidInput(f"a session's header has at most {MAX_HEADER} bytes, got {len(header)}")
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header)) + header
    return Frame.of(prefix + _CHECKSUM.pack(xxh3_64_intdigest(prefix)), *body)


def decode(frame: Frame, spec: ModelSpec) -> Saved:
    """The session that `encode` wrote, for a model.

    Raises ChunkCorrupt, by the way in which the bytes are wrong, and SpecMismatch for another model's state.
    """
    fields, at, version = _header(frame)
    try:
        record, state = replace(_record(fields[:14]), elsewhere=_elsewhere(fields[15])), fields[16]
        picture, size, digest = _typed([fields[14], *fields[17:]], (int, int, int))
        described = None if state is None else _typed(state, (str, bytes if version < 3 else int, list))
        shapes = [] if described is None else [_shape(each) for each in described[2]]
    except (ValueError, TypeError, OverflowError) as error:
        raise BadHeader(f"not the header of a session: {str(error)[:200]}") from error
    if frame.nbytes != at + size:
        kind = Truncated if frame.nbytes < at + size else Oversized
        raise kind(f"a session of {at + size} bytes has {frame.nbytes}")
    body = frame.slice(at, size)
    if xxh3_64_intdigest(body) != digest:
        raise ChecksumMismatch(f"{size} bytes of a session's body have not the checksum {digest:016x}")
    held_at = picture + (described[1] if described and version >= 3 else 0)
    if not 0 <= picture <= held_at <= size or (picture and record.elsewhere):
        raise BadHeader(f"a body of {size} bytes has a picture of {picture}, and a state up to {held_at}")
    record = replace(record, picture=bytes(body[:picture]))
    if described is None:
        return Saved(record)
    spec.require(described[0])
    held = _held(shapes, body[held_at:], spec)
    of_model = Frame.of(described[1] if version < 3 else body[picture:held_at])
    return Saved(record, SessionState(described[0], record.seed, record.next, record.walker, held, of_model))


def _header(frame: Frame) -> tuple[list[Any], int, int]:
    """Fields of the header, as many as the newest version has, where the body begins, and the version."""
    if frame.nbytes < _PREFIX.size:
        raise Truncated(f"{frame.nbytes} bytes are less than a session's prefix of {_PREFIX.size}")
    magic, version, length = _PREFIX.unpack(frame.slice(0, _PREFIX.size))
    if magic != MAGIC:
        raise BadMagic(f"a session begins with {MAGIC!r}, got {magic!r}")
    if not 1 <= version <= VERSION:
        raise UnknownVersion(f"a session of version {version}; known here: 1 to {VERSION}")
    if length > MAX_HEADER:
        raise Oversized(f"a session's header has at most {MAX_HEADER} bytes, got {length}")
    end = _PREFIX.size + length
    if frame.nbytes < end + _CHECKSUM.size:
        raise Truncated(f"{frame.nbytes} bytes end within a header of {length}")
    (digest,) = _CHECKSUM.unpack(frame.slice(end, _CHECKSUM.size))
    if xxh3_64_intdigest(frame.slice(0, end)) != digest:
        raise ChecksumMismatch(f"the header of a session has not the checksum {digest:016x}")
    try:
        fields = msgpack.unpackb(frame.slice(_PREFIX.size, length))
    except (ValueError, msgpack.UnpackException) as error:
        raise BadHeader(f"the header of a session is no msgpack: {error}") from error
    if not isinstance(fields, list) or len(fields) != FIELDS[version]:
        raise BadHeader(f"the header of a session has {FIELDS[version]} fields, got {str(fields)[:80]}")
    if version == 1:
        fields[12:12] = [None] * len(CHOSEN), False
    if version < 3:
        fields.insert(14, 0)
    if version < 4:
        fields.insert(15, None)
    return fields, end + _CHECKSUM.size, version


def _record(fields: list[Any]) -> Record:
    known = str if fields[2] is not None else type(None)
    kinds = (str, list, known, list, int, str, bool, str, str, int, list, list, list, bool)
    values = _typed(fields, kinds)
    world, heads, scene, start, seed, mode, lockstep, form, tour, following, walker, numbers, chosen, judged = values
    if mode not in MODES or form not in FORMATS or not following >= 0 or not 0 <= seed < 1 << 64 or not heads:
        raise ValueError(f"mode {mode!r}, format {form!r}, next {following}, seed {seed} or {len(heads)} heads")
    if not all(isinstance(each, bytes) for each in heads) or not all(isinstance(each, int) for each in numbers):
        raise ValueError("heads are bytes, and numbers whole")
    return Record(
        world=world,
        heads=tuple(heads),
        scene=scene,
        start=_walker(start),
        seed=seed,
        mode=cast(Mode, mode),
        lockstep=lockstep,
        format=cast(Format, form),
        tour=tour,
        next=following,
        walker=_walker(walker),
        numbers=tuple(numbers),
        chosen=_chosen(chosen),
        judged=judged,
    )


def _elsewhere(values: Any) -> Elsewhere | None:
    return None if values is None else Elsewhere(*_typed(values, (bytes, bytes)))


def _chosen(values: list[Any]) -> MemoryChange:
    kinds = (str, int, float, str, int)
    return MemoryChange(None, *_typed(values, tuple(type(v) if v is None else k for v, k in zip(values, kinds))))


def _numbers(walker: Walker) -> list[float]:
    return [float(each) for each in (walker.x, walker.z, walker.yaw, walker.pitch, walker.y)]


def _walker(numbers: list[Any]) -> Walker:
    x, z, yaw, pitch, y = _typed(numbers, (float,) * 5)
    walker = Walker(x, z, yaw, pitch, y)
    check(walker.pose)
    return walker


def _described(chunk: HeldChunk) -> list[Any]:
    return [chunk.index, len(chunk.poses), np.ascontiguousarray(chunk.poses, "<f8").tobytes(), chunk.kv.tokens]


def _shape(described: Any) -> tuple[int, Any, int]:
    """Number, poses and tokens of a held chunk."""
    index, frames, poses, tokens = _typed(described, (int, int, bytes, int))
    if index < 0 or frames < 1 or tokens < 0:
        raise ValueError(f"chunk {index} of {frames} frames and {tokens} tokens")
    return index, check(np.frombuffer(poses, "<f8").reshape(frames, 4, 4).copy()), tokens


def _held(shapes: list[tuple[int, Any, int]], body: memoryview, spec: ModelSpec) -> tuple[HeldChunk, ...]:
    """Held chunks, their keys and values views of `body`."""
    dtype, held, at = DTYPES[spec.dtype], list[HeldChunk](), 0
    for index, poses, tokens in shapes:
        shape = (spec.layers * spec.kv_sets, tokens, spec.heads, spec.head_dim)
        size, pair = prod(shape) * dtype.itemsize, list[Tensor]()
        for _ in range(2):
            if at + size > body.nbytes:
                raise BadHeader(f"held chunks need more than the {body.nbytes} bytes that are there")
            data = bytearray(body[at : at + size])  # torch wants memory that it may write
            pair.append(torch.frombuffer(data, dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype))
            at += size
        held.append(HeldChunk(index, poses, KV(*pair)))
    if at != body.nbytes:
        raise BadHeader(f"held chunks have {at} of {body.nbytes} bytes")
    return tuple(held)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _typed(values: Any, types: tuple[type, ...]) -> list[Any]:
    if type(values) is not list or tuple(map(type, values)) != types:
        raise ValueError(f"expected {', '.join(t.__name__ for t in types)}, got {str(values)[:80]}")
    return values
