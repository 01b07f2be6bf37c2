"""Pieces as raw bytes mean what the protobuf runtime says, and messages carry nouns there and back."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv import wire
from worldkv.catalog import World
from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import InvalidInput
from worldkv.shared import ArenaInfo, Extent
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import chunk_pb2, kvstore_pb2

STREAMS = (
    kvstore_pb2.PutRequest,
    kvstore_pb2.GetResponse,
    kvstore_pb2.SaveSnapshotRequest,
    kvstore_pb2.LoadSnapshotResponse,
)
BRANCH = bytes(range(16))
items = st.integers(0, (1 << 32) - 1)
offsets = st.integers(0, (1 << 63) - 1)


@pytest.mark.parametrize("kind", STREAMS)
@given(item=items, offset=offsets, data=st.binary(min_size=1, max_size=300))
def test_a_piece_is_what_the_runtime_reads_and_writes(kind, item, offset, data):
    frame = wire.piece_frame(item, offset, data)
    read = kind.FromString(frame).piece
    assert (read.item, read.offset, read.data) == (item, offset, data)
    written = kind(piece=kvstore_pb2.Piece(item=item, offset=offset, data=data)).SerializeToString()
    for each in (frame, written):
        found = wire.piece(each)
        assert found is not None
        assert (found.item, found.offset, bytes(found.data)) == (item, offset, data)


def outcome(read: Callable[[bytes], object], frame: bytes) -> object:
    try:
        return read(frame)
    except InvalidInput:
        return "refused"


def by_runtime(frame):
    message = wire.parse(kvstore_pb2.PutRequest, frame)
    name = message.WhichOneof("message")
    if name is None:
        raise InvalidInput("nothing")
    content = getattr(message, name)
    return (content.item, content.offset, content.data) if name == "piece" else content


def by_wire(frame):
    content = wire.put_request(frame)
    return (content.item, content.offset, bytes(content.data)) if isinstance(content, wire.Piece) else content


frames = st.builds(wire.piece_frame, items, offsets, st.binary(max_size=40))


@given(
    frame=st.one_of(
        st.binary(max_size=60),
        frames,
        st.tuples(frames, st.binary(max_size=12)).map(b"".join),
        st.tuples(frames, frames).map(b"".join),
        frames.flatmap(lambda f: st.integers(0, len(f)).map(lambda n: f[:n])),
        st.tuples(frames, st.integers(0, 30), st.integers(0, 255)).map(
            lambda t: t[0][: t[1]] + bytes((t[2],)) + t[0][t[1] + 1 :]
        ),
    )
)
def test_whatever_bytes_come_mean_what_the_runtime_says(frame):
    assert outcome(by_wire, frame) == outcome(by_runtime, frame)


@given(
    views=st.lists(st.binary(max_size=50), max_size=6),
    size=st.integers(1, 40),
)
def test_pieces_of_views_leave_no_holes_and_are_full_but_for_the_last(views, size):
    found = [wire.piece(frame) for frame in wire.pieces(7, [memoryview(v) for v in views], size)]
    whole = b"".join(views)
    assert b"".join(p.data for p in found) == whole
    assert [p.offset for p in found] == list(range(0, len(whole), size))
    assert {p.item for p in found} <= {7}


@pytest.mark.parametrize("kind", ["part", "kv"])
def test_keys_there_and_back(kind):
    key = PartKey(ChunkKey(BRANCH, 12), kind)
    assert wire.key_of(wire.key_message(key)) == key


@pytest.mark.parametrize(
    ("branch", "index", "part", "words"),
    [
        (b"", 0, 1, "16 bytes"),
        (b"x" * 17, 0, 1, "16 bytes"),
        (BRANCH, 1 << 63, 1, "9223372036854775808"),
        (BRANCH, 0, 0, "got 0"),
        (BRANCH, 0, 77, "got 77"),
    ],
)
def test_odd_keys_are_refused_by_their_value(branch, index, part, words):
    message = chunk_pb2.PartKey(chunk=chunk_pb2.ChunkKey(branch=branch, index=index), part=part)
    with pytest.raises(InvalidInput, match=words):
        wire.key_of(message)


def test_every_miss_and_level_has_a_number():
    for miss in Miss:
        assert wire.miss_of(wire.miss_message(miss)) is miss
    assert wire.miss_of(99) is Miss.NEVER_STORED
    for level in (None, *Level):
        assert wire.level_of(wire.level_message(level)) == level
    with pytest.raises(InvalidInput, match="got 9"):
        wire.level_of(9)
    for kind in (None, "part", "kv"):
        assert wire.kind_of(wire.part_message(kind)) == kind


def test_extents_arenas_and_worlds_there_and_back():
    extents = (Extent(1, 2, 3, 4), Extent(5, 6, 7, 8))
    assert wire.extents_of(wire.extent_messages(extents)) == extents
    arena = ArenaInfo(b"i" * 16, "worldkv-arena-1", 1 << 30, 64, 128, 4096)
    assert wire.arena_of(wire.arena_message(arena)) == arena
    assert wire.arena_of(kvstore_pb2.Arena()) is None
    lineage = Lineage.begin(BRANCH).fork(7, b"b" * 16)
    world = World("a room", lineage, 3, "0" * 32, 9)
    assert wire.world_of(wire.world_message(world)) == world


def test_a_lineage_without_an_open_end_is_refused():
    with pytest.raises(InvalidInput, match="open branch"):
        wire.lineage_of(chunk_pb2.Lineage())
    with pytest.raises(InvalidInput, match="open branch"):
        wire.lineage_of(chunk_pb2.Lineage(parts=[chunk_pb2.LineagePart(branch=BRANCH, end=4)]))
