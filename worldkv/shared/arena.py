"""A shard's arena, as its readers in other processes see it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from worldkv.errors import InvalidInput
from worldkv.shared.copying import PARALLEL_BYTES, PIECE_BYTES, move, move_in_two, pairs, summing
from worldkv.shared.file import NONCE_BYTES, Extent, SharedFile, check_extents
from worldkv.store import Miss


class ArenaInfo(NamedTuple):
    """What a shard tells of its arena.

    id                  16 random bytes, new at every start
    name                of its segment on this host, without folders
    size                bytes of the segment
    nonce_offset        where the bytes stand that prove a mapping
    generations_offset  where the table of generations begins: little-endian 64-bit numbers, one a slot
    slots               entries of that table
    """

    id: bytes
    name: str
    size: int
    nonce_offset: int
    generations_offset: int
    slots: int


class ArenaReader:
    """A shard's arena, mapped to be read. Making one takes a while if the arena is large.

    id     of the arena, from `info`
    nonce  what stands in the memory that was mapped; the shard compares it with its own

    Raises Unavailable if there is no such segment on this host, or it is not as large as it should be. A segment of
    another host that happens to have the name is found out by the shard, which is sent the nonce with every `Get`.
    """

    def __init__(self, info: ArenaInfo) -> None:
        table = info.generations_offset + 8 * info.slots
        if info.generations_offset % 8 or max(table, info.nonce_offset + NONCE_BYTES) > info.size:
            raise InvalidInput(f"an arena's nonce and table lie within it, got {info}")
        self.id = info.id
        self._file = SharedFile.open(info.name, info.size)
        self._view = self._file.view
        self._generations = self._view[info.generations_offset : table].cast("Q")
        self.nonce = bytes(self._view[info.nonce_offset : info.nonce_offset + NONCE_BYTES])

    def copy(self, extents: Sequence[Extent], into: Sequence[memoryview], checksum: int | None = None) -> Miss | None:
        """Copy these extents, in order, into the caller's buffers, together as long; None if all is well.

        EVICTED if a slot was used for something else meanwhile, or this reader is closed: what is in the buffers is
        worthless. With a `checksum`, CORRUPT if the bytes are others. Raises InvalidInput for extents outside the
        arena or buffers of another length. May run in a thread of its own; large parts should.
        """
        generations, view = self._generations, self._view  # kept, should another thread close
        if not view.nbytes:
            return Miss.EVICTED
        check_extents(extents, view.nbytes)
        if any(not 0 <= extent.slot < len(generations) for extent in extents):
            raise InvalidInput(f"an extent names a slot that the arena's table of {len(generations)} has not")
        guards = {extent.slot: extent.generation for extent in extents}
        if any(guards[extent.slot] != extent.generation for extent in extents):
            return Miss.EVICTED
        source = [view[extent.offset : extent.offset + extent.length] for extent in extents]

        def reused() -> bool:
            return any(generations[slot] != generation for slot, generation in guards.items())

        if checksum is None or sum(piece.nbytes for piece in source) < PARALLEL_BYTES:
            digest = xxhash.xxh3_64()
            for piece, place in pairs(source, into, sys.maxsize if checksum is None else PIECE_BYTES):
                move_in_two(piece, place)
                if checksum is not None:
                    digest.update(place)
                if reused():
                    return Miss.EVICTED
            return None if checksum is None or digest.intdigest() == checksum else Miss.CORRUPT
        with summing(source) as total:
            for piece, place in pairs(source, into):
                move(piece, place)
                if reused():
                    return Miss.EVICTED
            correct = total() == checksum
        # The sum was taken of the arena: it is that of the copy only if nothing there changed until now.
        if reused():
            return Miss.EVICTED
        return None if correct else Miss.CORRUPT

    def close(self) -> None:
        """Unmap. Harmless a second time; a copy that runs in another thread ends well."""
        self._view = memoryview(b"")  # first: who has read the table before has it whole
        self._generations = memoryview(b"").cast("Q")
        self._file.close()

    def __enter__(self) -> ArenaReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
