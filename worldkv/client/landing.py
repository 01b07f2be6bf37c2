"""Memory that frames land in: reused while it is warm, for the first touch of fresh pages costs ten times a copy."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque

import numpy as np
import xxhash
from numpy.typing import NDArray

from worldkv.errors import ChunkCorrupt, InvalidInput

SMALL = 1 << 16
"""Bytes below which memory is not pooled: the allocator has it warm."""
LARGE = 16 << 20
"""Bytes from which memory is touched ahead, in a thread: more than a few milliseconds of somebody's waiting."""
_PAGE = 1 << 21
"""Bytes of a huge page; blocks are whole ones."""
_TOUCH = 4096
"""Every so many bytes one is written: there are no smaller pages."""
_SLACK = 5 / 4
"""How much larger than asked for a block may be that is used again."""

Block = NDArray[np.uint8]


class Landing:
    """A pool of blocks of memory, bounded by what it keeps while nobody uses it.

    keep_bytes  bytes that are kept warm at most; InvalidInput if negative

    A block comes back by itself when nothing refers to its memory any more, neither a frame nor an array or view
    made of one, from whatever thread. So there is nothing to release, and nothing to release too early.
    """

    def __init__(self, keep_bytes: int) -> None:
        if keep_bytes < 0:
            raise InvalidInput(f"bytes kept for landing must not be negative, got {keep_bytes}")
        self.keep_bytes = keep_bytes
        self._idle: list[Block] = []  # longest unused first
        # Filled by finalizers, which may run in any thread and in the middle of `take`: appending is atomic.
        self._returned: deque[Block] = deque()
        self._touching: threading.Thread | None = None

    def expect(self, size: int) -> None:
        """Frames of this size will come: have memory for one warm, if it is large. Returns at once."""
        if size < LARGE or self.idle_bytes + size > self.keep_bytes or self._fitting(size):
            return
        if self._touching is None or not self._touching.is_alive():
            self._touching = threading.Thread(target=self._touch, args=(size,), name="worldkv-landing")
            self._touching.start()

    def take(self, size: int) -> memoryview:
        """`size` writable bytes with anything in them."""
        if size < SMALL:
            return memoryview(bytearray(size))
        self._collect()
        if fitting := self._fitting(size):
            block = min(fitting, key=lambda each: each.nbytes)
            self._idle = [each for each in self._idle if each is not block]
        else:
            block = _fresh(size)
        # Every view is made from `lease`, so it dies with the last of them; the block itself is never given out.
        lease = block[:size]
        weakref.finalize(lease, self._give_back, block).atexit = False
        self.expect(size)  # the next one
        return lease.data

    def rest(self) -> None:
        """Keep nothing warm until some is used again."""
        self._collect()
        self._idle.clear()

    def close(self) -> None:
        """Keep nothing warm any more; what is in use stays as it is."""
        self.keep_bytes = 0
        if self._touching is not None:
            self._touching.join()
        self._collect()

    @property
    def idle_bytes(self) -> int:
        """Bytes kept warm for later."""
        self._collect()
        return sum(block.nbytes for block in self._idle)

    def _give_back(self, block: Block) -> None:
        if self.keep_bytes:
            self._returned.append(block)

    def _fitting(self, size: int) -> list[Block]:
        return [block for block in self._idle if size <= block.nbytes <= size * _SLACK + _PAGE]

    def _touch(self, size: int) -> None:
        block = _fresh(size)
        block[::_TOUCH] = 0
        self._returned.append(block)

    def _collect(self) -> None:
        """Take in what came back, then let go of what is more than should be kept, longest unused first."""
        while self._returned:
            self._idle.append(self._returned.popleft())
        over = sum(block.nbytes for block in self._idle) - self.keep_bytes
        while over > 0:
            over -= self._idle.pop(0).nbytes


def _fresh(size: int) -> Block:
    memory = mmap.mmap(-1, -(-size // _PAGE) * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class Arrival:
    """A run of bytes that comes in pieces, summed as it comes.

    view      where it lands
    checksum  xxh3-64 of all of it; None: whoever reads it knows how to tell
    complete  whether all bytes are there
    correct   whether they are the ones that were put, as far as the checksum tells
    """

    def __init__(self, view: memoryview, checksum: int | None) -> None:
        self.view, self.checksum, self._at, self._digest = view, checksum, 0, xxhash.xxh3_64()

    def add(self, offset: int, data: memoryview) -> None:
        """The next piece. Raises ChunkCorrupt for one that is not the next, or that goes past the end."""
        end = self._at + data.nbytes
        if offset != self._at or end > self.view.nbytes:
            raise ChunkCorrupt(f"bytes {offset} to {offset + data.nbytes} came where {self._at} was the next")
        self.view[self._at : end] = data
        if self.checksum is not None:
            self._digest.update(data)
        self._at = end

    @property
    def complete(self) -> bool:
        return self._at == self.view.nbytes

    @property
    def correct(self) -> bool:
        return self.complete and self.checksum in (None, self._digest.intdigest())
