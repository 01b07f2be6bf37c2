"""One segment of shared memory, reserved and touched at start, and who has which bytes of it.

It begins with the nonce; then comes the table of generations; then, from a multiple of a huge page, the blocks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from services.kvstore.allocator import BLOCK_BYTES, Allocator, Run
from worldkv.errors import InvalidInput
from worldkv.shared import NONCE_BYTES, ArenaInfo, Extent, SharedFile, remove_stale

HUGE_PAGE = 2 << 20
SLOTS = 256
"""Entries of the table of generations for every block: parts have 4 KiB at least on average, or slots run out."""
_TABLE = 4096


class Arena:
    """Shared memory for parts, writable by this process alone.

    id, name, size, nonce_offset, generations_offset, slots  as in `info`, which is what readers are told
    nonce                                                    the 16 bytes that a reader proves its mapping by
    capacity                                                 bytes for parts, at least what was asked for
    stale                                                    names of segments of killed processes, removed

    Segments that a killed process left behind under the same prefix are removed first. Raises Unavailable if the
    host has not so much shared memory, InvalidInput for a capacity that is not positive.
    """

    def __init__(self, capacity: int, prefix: str = "worldkv-arena", huge_pages: bool = True) -> None:
        if capacity < 1:
            raise InvalidInput(f"an arena has room for at least a byte, got {capacity}")
        self.stale = remove_stale(prefix)
        blocks = -(-capacity // BLOCK_BYTES)
        self.id, self.nonce = secrets.token_bytes(16), secrets.token_bytes(NONCE_BYTES)
        self.slots, self.capacity = SLOTS * blocks, BLOCK_BYTES * blocks
        self.nonce_offset, self.generations_offset = 0, _TABLE
        self._begin = -(-(_TABLE + 8 * self.slots) // HUGE_PAGE) * HUGE_PAGE
        self.size = self._begin + self.capacity
        self._file = SharedFile.create(prefix, self.size, huge_pages)
        self.name = self._file.name
        self._file.view[:NONCE_BYTES] = self.nonce
        self._generations = self._file.view[_TABLE : _TABLE + 8 * self.slots].cast("Q")
        self._allocator = Allocator(blocks)
        self._slots: list[int] = []  # that were used and are free
        self._closed = False
        self._fresh = 0  # slots from here on were never used

    @property
    def info(self) -> ArenaInfo:
        """What readers on this host are told."""
        return ArenaInfo(self.id, self.name, self.size, self.nonce_offset, self.generations_offset, self.slots)

    @property
    def free_bytes(self) -> int:
        """Bytes that can be had, in whole units of the allocator."""
        return self._allocator.free_bytes

    @property
    def free_slots(self) -> int:
        """Parts that can be had."""
        return self.slots - self._fresh + len(self._slots)

    def rounded(self, size: int) -> int:
        """Bytes that a part of `size` bytes takes."""
        return self._allocator.rounded(size)

    def allocate(self, size: int) -> tuple[Extent, ...] | None:
        """Room for `size` bytes under one slot and its present generation; None if there is not so much."""
        if not size:
            return ()
        runs = self._allocator.allocate(size) if self.free_slots else None
        if runs is None:
            return None
        if self._slots:
            slot = self._slots.pop()
        else:
            slot, self._fresh = self._fresh, self._fresh + 1
        generation = self._generations[slot]
        return tuple(Extent(self._begin + offset, length, slot, generation) for offset, length in runs)

    def free(self, extents: tuple[Extent, ...]) -> None:
        """Give room back: the generation rises first, so that readers see it before the bytes can change."""
        if not extents or self._closed:
            return
        slot, generation = extents[0].slot, extents[0].generation
        assert self._generations[slot] == generation, "room was given back twice"
        self._generations[slot] = generation + 1
        self._slots.append(slot)
        self._allocator.free(self._runs(extents))

    def views(self, extents: tuple[Extent, ...]) -> tuple[memoryview, ...]:
        """Writable views of these bytes."""
        return tuple(self._file.view[begin : begin + length] for begin, length, _, _ in extents)

    def check_integrity(self, held: Iterable[tuple[Extent, ...]]) -> None:
        """Assert that `held`, which parts have, and what is free are all of the memory and all of the slots."""
        parts = [extents for extents in held if extents]
        self._allocator.check_integrity(run for extents in parts for run in self._runs(extents))
        slots = [extents[0].slot for extents in parts]
        assert sorted((*slots, *self._slots)) == list(range(self._fresh)), "slots that nobody has, or two"
        for extents in parts:
            assert {(e.slot, e.generation) for e in extents} == {(extents[0].slot, self._generations[extents[0].slot])}

    def close(self) -> None:
        """Unmap and remove the segment. Harmless a second time; views that are still used stay."""
        self._closed, self._generations = True, memoryview(b"").cast("Q")
        self._file.close()

    def _runs(self, extents: tuple[Extent, ...]) -> Iterable[Run]:
        return (Run(extent.offset - self._begin, extent.length) for extent in extents)
