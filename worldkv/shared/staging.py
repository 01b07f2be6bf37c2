"""A writer's staging segment: parts are written there once, and copied from there by the shard."""

from __future__ import annotations

import secrets
from bisect import insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from worldkv.chunk import Buffer
from worldkv.errors import InvalidInput, Unavailable
from worldkv.format import Frame
from worldkv.shared.copying import copy_checked
from worldkv.shared.file import NONCE_BYTES, PAGE, Extent, SharedFile, check_extents, check_name, remove_stale

_LEFT = slice(NONCE_BYTES, NONCE_BYTES + 8)
"""Where a segment counts how often its writer left before the answer: little-endian, after the nonce."""


class Staged(NamedTuple):
    """Room in a staging segment: `extents` to be sent to the shard, `views` of the same bytes to be written.

    An extent's generation is how often the writer had left early when the room was taken.
    """

    extents: tuple[Extent, ...]
    views: tuple[memoryview, ...]


class Staging:
    """A writer's own segment: reserved and touched when made, so that writing is as fast as memory.

    name   of the segment, without folders
    nonce  the 16 bytes at its begin
    size   bytes of the segment
    room   bytes that parts may have together

    Segments that a killed process left behind under the same prefix are removed first. Raises Unavailable if the
    host has not so much shared memory, InvalidInput for room that is not positive.
    """

    def __init__(self, room: int, prefix: str = "worldkv-staging", huge_pages: bool = True) -> None:
        if room < 1:
            raise InvalidInput(f"a staging segment has room for at least a byte, got {room}")
        remove_stale(check_name(prefix))
        self.room = -(-room // PAGE) * PAGE
        self._file = SharedFile.create(prefix, PAGE + self.room, huge_pages)
        self.name, self.size, self.nonce = self._file.name, self._file.size, secrets.token_bytes(NONCE_BYTES)
        self._file.view[:NONCE_BYTES] = self.nonce
        self._left = 0
        self._free = [(PAGE, self.size)]  # begin and end of what is free, in order, none touching another

    def reserve(self, size: int) -> Staged | None:
        """Room for `size` bytes in one run, or None if there is none at present. Give it back with `release`."""
        if size < 1:
            raise InvalidInput(f"a part has at least a byte to be staged, got {size}")
        for at, (begin, end) in enumerate(self._free):
            stop = begin + -(-size // PAGE) * PAGE
            if stop <= end:
                self._free[at : at + 1] = [(stop, end)] if stop < end else []
                extents = (Extent(begin, size, generation=self._left),)
                return Staged(extents, (self._file.view[begin : begin + size],))
        return None

    def release(self, staged: Staged, answered: bool = True) -> None:
        """Give room back, never twice.

        answered  whether the shard is done with it. If not, it may be reading still, and is told to look twice
        """
        if not answered:
            self._left += 1
            self._file.view[_LEFT] = self._left.to_bytes(8, "little")
        for begin, length, _, _ in staged.extents:
            run = begin, begin + -(-length // PAGE) * PAGE
            insort(self._free, run)
            at = self._free.index(run)
            near = self._free[max(at - 1, 0) : at + 2]
            assert all(left[1] <= right[0] for left, right in pairwise(near)), "room was given back twice"
            joined: list[tuple[int, int]] = []
            for each in near:
                if joined and joined[-1][1] == each[0]:
                    joined[-1] = joined[-1][0], each[1]
                else:
                    joined.append(each)
            self._free[max(at - 1, 0) : at + 2] = joined

    @contextmanager
    def fill(self, *buffers: Buffer) -> Iterator[tuple[Staged, int] | None]:
        """These bytes copied in, and their checksum, until the block ends; None if there is no room."""
        frame = Frame.of(*buffers)
        staged = self.reserve(frame.nbytes)
        if staged is None:
            yield None
            return
        answered = False
        try:
            yield staged, copy_checked(frame.buffers, staged.views, steady=True)
            answered = True
        finally:
            self.release(staged, answered)

    def close(self) -> None:
        """Unmap and remove the segment. Harmless a second time."""
        self._file.close()

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
        self._file = SharedFile.open(name, NONCE_BYTES)
        if bytes(self._file.view[:NONCE_BYTES]) != nonce:
            self._file.close()
            raise Unavailable(f"shared memory {name!r} is not the one that was meant")

    def views(self, extents: Sequence[Extent]) -> tuple[memoryview, ...]:
        """Read-only views of these bytes; InvalidInput for extents that are empty or outside the segment."""
        check_extents(extents, self._file.view.nbytes)
        return tuple(self._file.view[begin : begin + length] for begin, length, _, _ in extents)

    def steady(self, extents: Sequence[Extent]) -> bool:
        """Whether these bytes cannot have changed until now: their writer never left early since it took the room."""
        left = self._file.view[_LEFT]
        return bool(left) and all(extent.generation == int.from_bytes(left, "little") for extent in extents)

    def close(self) -> None:
        """Unmap. Harmless a second time; views that are still used stay."""
        self._file.close()
