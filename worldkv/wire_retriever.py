"""Messages of the retriever and the nouns they stand for: one conversion at each crossing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from worldkv import rpc, wire
from worldkv.chunk import MAX_INDEX, Branch, ChunkKey, Lineage, Meta, check_digest, check_key
from worldkv.errors import InvalidInput, InvalidPose, WorldKVError
from worldkv.index import Batch, Hit
from worldkv.pose import Matrix
from worldkv.select import Query
from worldkv.v1 import chunk_pb2
from worldkv.v1 import retriever_pb2 as pb

MAX_CHUNKS = 1024
"""Chunks of one request to add, and keys and branches of one to remove."""
MAX_COUNT = 1024
"""Chunks wanted by one query, and as many spares."""
MAX_QUERIES = 256
"""Queries of one request."""
MAX_PENDING = 1024
"""Chunks that may come along with one query."""
MESSAGE_BYTES = rpc.MAX_MESSAGE_BYTES // 2
"""About so many bytes go into one message."""
SELECTOR = "coverage"
"""How chunks are chosen if a query does not say."""

_NUMBERS = 12
"""Of a pose: its first three rows."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """One question of a session.

    lineage    the world; chunks outside it are never answered
    query      the coming view
    count      chunks wanted at most
    spares     further chunks, for those that prove to be gone
    exclude    chunk numbers that are not wanted
    published  chunks that the session has published, from chunk 0 of its lineage on
    pending    chunks that the session holds and the index has not acknowledged
    selector   name of the way to choose
    seed       for the selector `random`
    spec       digest of the model spec that asks; empty: not compared
    """

    lineage: Lineage
    query: Query
    count: int
    spares: int = 0
    exclude: Collection[int] = ()
    published: int = 0
    pending: Sequence[Meta] = ()
    selector: str = SELECTOR
    seed: int = 0
    spec: str = ""


@dataclass(frozen=True)
class Found:
    """The answer to a lookup.

    hits        best first, the spares last
    candidates  that were ranked
    missing     published chunks that were not known in time; 0: the answer is complete
    """

    hits: list[Hit]
    candidates: int
    missing: int


def meta_message(meta: Meta) -> chunk_pb2.ChunkMeta:
    return chunk_pb2.ChunkMeta(
        key=wire.chunk_message(meta.key),
        spec=meta.spec,
        begin=meta.begin,
        poses=_numbers(meta.poses),
        fov=meta.fov,
        aspect=meta.aspect,
        recalled=map(wire.chunk_message, meta.recalled),
        shown=meta.shown,
        descriptor=[] if meta.descriptor is None else meta.descriptor.tolist(),
        depth=_depth_message(meta.depth) if meta.depth is not None and meta.depth.size else None,
    )


def meta_of(message: chunk_pb2.ChunkMeta) -> Meta:
    """What an index knows of a chunk; InvalidInput naming the value that is wrong."""
    key = wire.chunk_of(message.key)
    return Meta(
        key,
        message.spec,
        message.begin,
        _poses(message.poses, f"chunk {key}"),
        message.fov,
        message.aspect,
        tuple(map(wire.chunk_of, message.recalled)),
        message.shown,
        _floats(message.descriptor) if message.descriptor else None,
        _depth(message.depth) if message.HasField("depth") else None,
    )


def meta_bytes(meta: Meta) -> int:
    """About how many bytes the message of a chunk has."""
    extras = sum(0 if extra is None else extra.nbytes for extra in (meta.depth, meta.descriptor))
    return 200 + meta.poses.nbytes + 32 * len(meta.recalled) + extras


def lookup_bytes(lookup: Lookup) -> int:
    """About how many bytes the message of a lookup has."""
    query = lookup.query
    view = query.poses.nbytes + query.visible.nbytes + query.descriptor.nbytes
    return (
        1000 + view + 10 * len(lookup.exclude) + 30 * len(lookup.lineage.parts) + sum(map(meta_bytes, lookup.pending))
    )


def add_message(metas: Iterable[Meta]) -> pb.AddRequest:
    return pb.AddRequest(chunks=map(meta_message, metas))


def batches_of(message: pb.AddRequest) -> list[Batch]:
    """The chunks of a request, in their order; InvalidInput naming the value that is wrong, or for too many."""
    _at_most(MAX_CHUNKS, "chunks", message.chunks)
    return [_batch(shape, [*chunks]) for shape, chunks in groupby(message.chunks, _shape)]


_Shape = tuple[int, int, tuple[int, int, int] | None]
"""Numbers of a chunk's poses and of its descriptor, and the shape of its depth maps."""


def _shape(message: chunk_pb2.ChunkMeta) -> _Shape:
    depth = message.depth
    maps = (depth.frames, depth.height, depth.width) if message.HasField("depth") else None
    return len(message.poses), len(message.descriptor), maps


def _batch(shape: _Shape, messages: Sequence[chunk_pb2.ChunkMeta]) -> Batch:
    """Chunks of one shape as columns: numbers of all poses are read in one go."""
    numbers, length, maps = shape
    keys = [wire.chunk_of(message.key) for message in messages]
    if not numbers or numbers % _NUMBERS:
        raise InvalidPose(f"a chunk has {_NUMBERS} numbers a pose, at least one pose; {keys[0]} has {numbers} numbers")
    return Batch.packed(
        keys,
        [message.spec for message in messages],
        [message.begin for message in messages],
        _column(np.float64, [message.poses for message in messages], numbers),
        [message.fov for message in messages],
        [message.aspect for message in messages],
        None if maps is None else np.stack([_depth(message.depth) for message in messages]),
        _column(np.float32, [message.descriptor for message in messages], length) if length else None,
    )


def _column(dtype: type[np.floating[Any]], rows: Sequence[Collection[float]], length: int) -> NDArray[Any]:
    """Rows of equally many numbers as one array [n, length]."""
    numbers = chain.from_iterable(rows)
    return np.fromiter(numbers, dtype, len(rows) * length).reshape(len(rows), length)


def removal_of(message: pb.RemoveRequest) -> tuple[list[ChunkKey], list[Branch]]:
    """Keys and branches to be looked after; InvalidInput for what is none, or for too many."""
    _at_most(MAX_CHUNKS, "keys", message.keys)
    _at_most(MAX_CHUNKS, "branches", message.branches)
    return [*map(wire.chunk_of, message.keys)], [*map(branch_of, message.branches)]


def branch_of(branch: bytes) -> Branch:
    """The branch itself; InvalidInput for another length."""
    return check_key(ChunkKey(branch, 0)).branch


def lookup_message(lookup: Lookup) -> pb.NearestQuery:
    query = lookup.query
    view = pb.ViewQuery(
        poses=_numbers(query.poses),
        fov=query.fov,
        aspect=query.aspect,
        view_range=query.view_range,
        visible=_numbers(query.visible),
        descriptor=query.descriptor.tolist(),
    )
    return pb.NearestQuery(
        lineage=wire.lineage_message(lookup.lineage),
        view=view,
        selector=lookup.selector,
        seed=lookup.seed,
        count=lookup.count,
        spares=lookup.spares,
        exclude=lookup.exclude,
        published=lookup.published,
        pending=map(meta_message, lookup.pending),
        spec=lookup.spec,
    )


def lookups_of(message: pb.NearestRequest) -> list[Lookup]:
    """The questions of a request; InvalidInput naming the value that is wrong, or for too many."""
    _at_most(MAX_QUERIES, "queries", message.queries)
    return [*map(_lookup, message.queries)]


def _lookup(message: pb.NearestQuery) -> Lookup:
    view = message.view
    for name, number in (("count", message.count), ("spares", message.spares)):
        if number > MAX_COUNT:
            raise InvalidInput(f"a query's {name} is at most {MAX_COUNT}, got {number}")
    _at_most(MAX_PENDING, "pending chunks", message.pending)
    return Lookup(
        lineage=wire.lineage_of(message.lineage),
        query=Query(
            _poses(view.poses, "a query"),
            view.fov,
            view.aspect,
            view.view_range,
            _poses(view.visible, "visible"),
            _floats(view.descriptor),
        ),
        count=message.count,
        spares=message.spares,
        exclude=numbers_of("exclude", message.exclude),
        published=published_of(message.published),
        pending=[*map(meta_of, message.pending)],
        selector=message.selector or SELECTOR,
        seed=message.seed,
        spec=check_digest(message.spec) if message.spec else "",
    )


def numbers_of(name: str, numbers: Collection[int]) -> list[int]:
    """Chunk numbers of a message; InvalidInput for one that is out of range."""
    if max(numbers, default=0) > MAX_INDEX:
        raise InvalidInput(f"{name} holds chunk numbers up to {MAX_INDEX}, got {max(numbers)}")
    return [*numbers]


def published_of(count: int) -> int:
    """How many chunks a session has published; InvalidInput for more than there can be."""
    if count > MAX_INDEX:
        raise InvalidInput(f"published is at most {MAX_INDEX}, got {count}")
    return count


def answer_message(answer: Found | WorldKVError) -> pb.NearestAnswer:
    if isinstance(answer, WorldKVError):
        words = str(answer)[: rpc.MAX_DETAILS]
        return pb.NearestAnswer(failure=pb.Failure(error=rpc.name_of(answer), message=words))
    hits = [
        pb.Hit(
            key=wire.chunk_message(hit.key),
            score=hit.score,
            gain=hit.gain,
            spare=hit.spare,
            parts=hit.parts,
            poses=_numbers(hit.poses),
        )
        for hit in answer.hits
    ]
    return pb.NearestAnswer(hits=hits, candidates=answer.candidates, missing=answer.missing)


def answers_of(message: pb.NearestResponse) -> list[Found | WorldKVError]:
    """Answers, and why there is none; InvalidInput for keys that are none."""
    return [*map(_answer, message.answers)]


def _answer(message: pb.NearestAnswer) -> Found | WorldKVError:
    if message.HasField("failure"):
        return rpc.error_named(message.failure.error, message.failure.message)
    hits = [
        Hit(wire.chunk_of(hit.key), hit.score, hit.gain, dict(hit.parts), hit.spare, _poses(hit.poses, "a hit"))
        for hit in message.hits
    ]
    return Found(hits, message.candidates, message.missing)


def _at_most(limit: int, what: str, messages: Collection[Message] | Collection[bytes]) -> None:
    if len(messages) > limit:
        raise InvalidInput(f"one request holds at most {limit} {what}, got {len(messages)}")


def _numbers(poses: Matrix) -> list[float]:
    """Poses [frames, 4, 4] as they cross the wire."""
    numbers: list[float] = poses[:, :3].ravel().tolist()
    return numbers


def _poses(numbers: Collection[float], what: str) -> Matrix:
    """Poses [frames, 4, 4], not looked at yet; InvalidPose for a count of numbers that makes none."""
    frames, rest = divmod(len(numbers), _NUMBERS)
    if rest:
        raise InvalidPose(f"a pose has {_NUMBERS} numbers, the poses of {what} have {len(numbers)}")
    poses = np.zeros((frames, 4, 4))
    poses[:, :3] = np.fromiter(numbers, np.float64, len(numbers)).reshape(frames, 3, 4)
    poses[:, 3, 3] = 1
    return poses


def _floats(numbers: Collection[float]) -> NDArray[np.float32]:
    return np.fromiter(numbers, np.float32, len(numbers))


def _depth_message(depth: NDArray[np.float32]) -> chunk_pb2.Depth:
    frames, height, width = depth.shape
    return chunk_pb2.Depth(frames=frames, height=height, width=width, values=depth.astype("<f4").tobytes())


def _depth(message: chunk_pb2.Depth) -> NDArray[Any]:
    shape = message.frames, message.height, message.width
    if not all(shape) or 4 * shape[0] * shape[1] * shape[2] != len(message.values):
        raise InvalidInput(f"depth maps {shape} have 4 bytes a place, and a place at least, got {len(message.values)}")
    return np.frombuffer(message.values, "<f4").astype(np.float32).reshape(shape)
