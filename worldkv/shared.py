"""Memory that processes of one host share: a shard's arena seen by its readers, and a writer's staging segment.

Both are files under /dev/shm. A shard alone writes its arena; a reader maps it read-only, copies what a plan says
and looks at the plan's generations after each run of bytes: a part that made room meanwhile is a miss, never wrong
data, and there is no lease that could leak. A writer alone writes its staging segment; the shard maps that read-only
and copies out of it. Sixteen random bytes in each segment prove that both sides see the same memory.

The order of a generation and the bytes it guards is that of stores on x86; on other machines verify the checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from worldkv.chunk import Buffer
from worldkv.store import Miss

HUGE_PAGE = 2 << 20
"""Bytes of a huge page; large things in a segment begin at multiples of it."""
NONCE_BYTES = 16
PIECE_BYTES = 256 << 10
"""How much is copied, and then summed while it is still in the processor's cache, at a time."""


class Extent(NamedTuple):
    """A run of bytes in a segment.

    offset, length    bytes from the begin of the segment, and bytes
    slot, generation  which entry of the arena's table guards it, and what that said; zero in a staging segment
    """

    offset: int
    length: int
    slot: int = 0
    generation: int = 0


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


def copy(source: Sequence[memoryview], target: Sequence[memoryview]) -> None:
    """Copy the bytes of `source`, in order, into `target`; InvalidInput if they are not as many."""
    raise NotImplementedError


def copy_checked(source: Sequence[memoryview], target: Sequence[memoryview]) -> int:
    """Like `copy`, and answers the xxh3-64 of the bytes as they now lie in `target`; reads them once."""
    raise NotImplementedError


def checksum(views: Sequence[memoryview]) -> int:
    """The xxh3-64 of these bytes, one view after the other."""
    raise NotImplementedError


def cut(extents: Sequence[Extent], begin: int, length: int) -> tuple[Extent, ...]:
    """The extents of `length` bytes from byte `begin` of a part; InvalidInput if it has not so many."""
    raise NotImplementedError


def remove_stale(prefix: str) -> list[str]:
    """Remove segments whose names begin so and whose process is gone, also if it was killed; answers their names."""
    raise NotImplementedError


class ArenaReader:
    """A shard's arena, mapped to be read.

    id     of the arena, from `info`
    nonce  what stands in the memory that was mapped; the shard compares it with its own

    Raises Unavailable if there is no such segment on this host, or it is not as large as it should be. A segment of
    another host that happens to have the name is found out by the shard, which is sent the nonce with every `Get`.
    """

    id: bytes
    nonce: bytes

    def __init__(self, info: ArenaInfo) -> None:
        raise NotImplementedError

    def copy(self, extents: Sequence[Extent], into: Sequence[memoryview], checksum: int | None = None) -> Miss | None:
        """Copy these extents, in order, into the caller's buffers, together as long; None if all is well.

        EVICTED if a slot was used for something else meanwhile: what is in the buffers is worthless. With a
        `checksum`, CORRUPT if the bytes are others. Raises InvalidInput for extents outside the arena or buffers of
        another length. May run in a thread of its own; large parts should.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Unmap. Harmless a second time."""
        raise NotImplementedError

    def __enter__(self) -> ArenaReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Staged(NamedTuple):
    """Room in a staging segment: `extents` to be sent to the shard, `views` of the same bytes to be written."""

    extents: tuple[Extent, ...]
    views: tuple[memoryview, ...]


class Staging:
    """A writer's own segment: reserved and touched when made, so that writing is as fast as memory.

    name   of the segment, without folders
    nonce  the 16 bytes at its begin
    size   bytes of the segment
    room   bytes that parts may have together

    Raises Unavailable if the host has not so much shared memory.
    """

    name: str
    nonce: bytes
    size: int
    room: int

    def __init__(self, room: int, prefix: str = "worldkv-staging", huge_pages: bool = True) -> None:
        raise NotImplementedError

    def reserve(self, size: int) -> Staged | None:
        """Room for `size` bytes in one run, or None if there is none at present. Give it back with `release`."""
        raise NotImplementedError

    def release(self, staged: Staged) -> None:
        """Give room back: after the shard answered the item, and never twice."""
        raise NotImplementedError

    @contextmanager
    def fill(self, *buffers: Buffer) -> Iterator[tuple[Staged, int] | None]:
        """These bytes copied in, and their checksum, until the block ends; None if there is no room."""
        raise NotImplementedError
        yield

    def close(self) -> None:
        """Unmap and remove the segment. Harmless a second time."""
        raise NotImplementedError

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StagingReader:
    """The shard's view of a writer's staging segment.

    Raises Unavailable if there is no such segment here or its first 16 bytes are not `nonce`, InvalidInput for a name
    with folders in it.
    """

    def __init__(self, name: str, nonce: bytes) -> None:
        raise NotImplementedError

    def views(self, extents: Sequence[Extent]) -> tuple[memoryview, ...]:
        """Read-only views of these bytes; InvalidInput for extents that are empty or outside the segment."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap. Harmless a second time."""
        raise NotImplementedError
