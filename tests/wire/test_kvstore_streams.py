"""Puts that are none: what a shard says of them, and what they leave behind."""

from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from tests.wire.shard import BRANCH, body, calling, inline, item, kv, part
from worldkv import rpc, wire
from worldkv.errors import InvalidInput
from worldkv.format import MAX_KV_BYTES, MAX_PART_BYTES
from worldkv.store import Level
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb

BAD_ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"size": 0}, "got 0"),
    "huge": ({"size": MAX_KV_BYTES + 1}, str(MAX_KV_BYTES + 1)),
    "no transport": ({"inline": None}, "how its bytes travel"),
    "no piece size": ({"inline": pb.InlinePieces()}, "has 0"),
    "huge pieces": ({"inline": pb.InlinePieces(piece_bytes=(3 << 20) + 1)}, "3145729"),
    "no key": ({"key": None}, "16 bytes"),
    "short branch": ({"key": chunk_pb2.PartKey(chunk=chunk_pb2.ChunkKey(branch=b"abc"), part=2)}, "abc"),
    "no part": ({"key": chunk_pb2.PartKey(chunk=chunk_pb2.ChunkKey(branch=BRANCH))}, "got 0"),
    "odd part": ({"key": chunk_pb2.PartKey(chunk=chunk_pb2.ChunkKey(branch=BRANCH), part=9)}, "got 9"),
    "huge index": ({"key": chunk_pb2.PartKey(chunk=chunk_pb2.ChunkKey(branch=BRANCH, index=1 << 63), part=2)}, "9223"),
    "odd level": ({"level": 7}, "got 7"),
}


@pytest.mark.parametrize("wrong", BAD_ITEMS)
async def test_an_item_that_is_none_is_refused_by_its_value(wrong):
    fields, words = BAD_ITEMS[wrong]
    async with calling() as caller:
        with pytest.raises(InvalidInput, match=words):
            await caller.put(inline(0, kv(), body(100), **fields))
        with pytest.raises(InvalidInput, match=str(MAX_PART_BYTES + 1)):
            await caller.put(inline(0, part(), body(100), size=MAX_PART_BYTES + 1))
        assert (await caller.stats()).parts == 0


def frames(*each: Any) -> list[bytes]:
    return [x if isinstance(x, bytes) else x.SerializeToString() for x in each]


A, B = item(kv(0), body(3000), 1000), item(kv(1), body(10), 1000)
C = item(kv(1), body(10), inline=pb.InlinePieces(piece_bytes=1000, checksum_follows=True))
SUM = pb.PutRequest(checksum=7)
BAD_STREAMS = {
    "a piece before an item": (frames(wire.piece_frame(0, 0, b"x")), "where an item was to begin"),
    "another item's piece": (frames(A, wire.piece_frame(1, 0, body(1000))), "of item 1"),
    "a hole": (frames(A, wire.piece_frame(0, 1000, body(1000))), "at 1000"),
    "the same piece twice": (frames(A, *[wire.piece_frame(0, 0, body(1000))] * 2), "at 0"),
    "a long piece": (frames(A, wire.piece_frame(0, 0, body(1001))), "got 1001"),
    "a short piece": (frames(A, wire.piece_frame(0, 0, body(999))), "got 999"),
    "past the size": (frames(B, wire.piece_frame(0, 0, body(11))), "got 11"),
    "one more piece": (frames(B, wire.piece_frame(0, 0, body(10)), wire.piece_frame(0, 10, b"x")), "item was to begin"),
    "an end too soon": (frames(A, wire.piece_frame(0, 0, body(1000))), "ended after 1000 of 3000"),
    "an item too soon": (frames(A, B), "after 0 of 3000"),
    "a checksum before an item": (frames(SUM), "where an item was to begin"),
    "a checksum too soon": (frames(C, SUM), "after 0 of 10 bytes of item 0 a checksum came too soon"),
    "a checksum told before": (frames(A, SUM), "after 0 of 3000 bytes of item 0 a checksum came again"),
    "no checksum": (frames(C, wire.piece_frame(0, 0, body(10))), "after 10 of 10 bytes, without its checksum"),
    "a piece for a checksum": (frames(C, *[wire.piece_frame(0, 0, body(10))] * 2), "after 10 of 10 bytes"),
    "an item for a checksum": (frames(C, wire.piece_frame(0, 0, body(10)), A), "item 1 began after 10 of 10"),
    "an empty message": ([b""], "carries nothing"),
    "noise": ([b"\xff" * 30], "no PutRequest"),
}


@pytest.mark.parametrize("wrong", BAD_STREAMS)
async def test_a_stream_that_is_none_leaves_nothing_behind(wrong):
    stream, words = BAD_STREAMS[wrong]
    async with calling() as caller:
        with pytest.raises(InvalidInput, match=words):
            await caller.put(stream)
        held = (await caller.stats()).parts
        assert held == (wrong == "one more piece")
        assert await caller.get(kv(0), kv(1)) == ["NEVER_STORED", body(10) if held else "NEVER_STORED"]


async def test_a_checksum_that_follows_is_the_one_that_counts():
    async with calling() as caller:
        right = pb.PutRequest(checksum=xxh3_64_intdigest(body(10)))
        piece = wire.piece_frame(0, 0, body(10))
        assert await caller.put(frames(C, piece, SUM)) == {0: "CORRUPT"}
        assert await caller.put(frames(C, piece, right, A, *wire.pieces(1, [memoryview(body(3000))], 1000))) == {
            0: Level.ONE,
            1: Level.ONE,
        }
        assert await caller.get(kv(0), kv(1)) == [body(3000), body(10)]
        assert await caller.put(frames(C, piece, right)) == {0: Level.ONE}, "what is held already is read over"


async def test_items_before_a_bad_one_are_kept_and_answered():
    async with calling() as caller:
        call = caller.putting([*inline(0, kv(), body(100)), b"\xff" * 30])
        answer = await call.read()
        assert (answer.item, answer.kept) == (0, Level.ONE)
        with pytest.raises(InvalidInput), rpc.translated():
            await call.read()
        assert await caller.get(kv()) == [body(100)]


async def test_bytes_that_are_not_what_was_announced_are_refused():
    async with calling() as caller:
        assert await caller.keep(kv(), body(100), checksum=5) == "CORRUPT"
        assert await caller.get(kv()) == ["NEVER_STORED"]
