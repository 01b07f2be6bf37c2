"""Who has which bytes of a run of memory: whole blocks for what is large, slabs for what is small.

Memory is cut into blocks. A part takes whole blocks, and for its end, or all of it if it is small, units out of blocks
that are cut up (slabs). What is free in slabs and touches is one run; a slab that is all free is a block again. A part
need not lie in one run, so as long as units are free they can be had: nothing is ever lost to fragments but the
rounding of each part to units. The more is free, the fewer runs a part has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BLOCK_BYTES = 1 << 20
UNIT_BYTES = 1 << 10
GATHER = 4
"""A rest is put into the free runs of slabs if about so many will do; otherwise another block is cut up."""


class Run(NamedTuple):
    """Bytes from `offset`, `length` of them."""

    offset: int
    length: int


class Allocator:
    """Runs of bytes in `blocks` times `block_bytes`; knows numbers only, not the memory.

    free_bytes  that can be had, in whole units
    """

    def __init__(self, blocks: int, block_bytes: int = BLOCK_BYTES, unit_bytes: int = UNIT_BYTES) -> None:
        assert blocks > 0, "an allocator needs a block"
        assert block_bytes % unit_bytes == 0, "a block is made of units"
        self.unit_bytes, self._per_block, self._blocks = unit_bytes, block_bytes // unit_bytes, blocks
        self._whole = list(range(blocks))  # a heap: blocks nobody has
        self._free = blocks * self._per_block
        # Free runs in slabs, in units: where each ends by where it begins, the reverse, and their begins by length.
        # A bit of `_lengths` tells that there is a run of that length.
        self._ends: dict[int, int] = {}
        self._begins: dict[int, int] = {}
        self._by_length: list[dict[int, None]] = [{} for _ in range(self._per_block)]
        self._lengths = 0

    @property
    def free_bytes(self) -> int:
        return self._free * self.unit_bytes

    def rounded(self, size: int) -> int:
        """Bytes that a part of `size` bytes takes."""
        return -(-size // self.unit_bytes) * self.unit_bytes

    def allocate(self, size: int) -> tuple[Run, ...] | None:
        """Runs of together `size` bytes, each at a multiple of a unit; None if there is not so much.

        Every run but the last has whole units.
        """
        need = -(-size // self.unit_bytes)
        if need > self._free:
            return None
        self._free -= need
        taken: list[tuple[int, int]] = []  # begin and end, in units
        rest = need
        while rest >= self._per_block and self._whole:
            begin = heapq.heappop(self._whole) * self._per_block
            _append(taken, begin, begin + self._per_block)
            rest -= self._per_block
        while rest:
            begin, end = self._cut(rest)
            _append(taken, begin, end)
            rest -= end - begin
        runs = [Run(begin * self.unit_bytes, (end - begin) * self.unit_bytes) for begin, end in taken]
        if runs:
            runs[-1] = Run(runs[-1].offset, runs[-1].length - (need * self.unit_bytes - size))
        return tuple(runs)

    def free(self, runs: Iterable[Run]) -> None:
        """Give back what `allocate` gave, run for run."""
        for offset, length in runs:
            begin = offset // self.unit_bytes
            end = begin - (-length // self.unit_bytes)
            self._free += end - begin
            for left, right in self._pieces(begin, end):
                self._give(left, right)

    def check_integrity(self, taken: Iterable[Run]) -> None:
        """Assert that `taken`, which somebody has, and what is free are all of the memory, nothing twice."""
        runs = [(offset // self.unit_bytes, -(-(offset + length) // self.unit_bytes)) for offset, length in taken]
        runs += self._ends.items()
        runs += [(block * self._per_block, (block + 1) * self._per_block) for block in self._whole]
        at = 0
        for begin, end in sorted(runs):
            assert at == begin < end, f"units {at} to {begin} belong to nobody, or to two"
            at = end
        assert at == self._blocks * self._per_block
        assert self._free == sum(end - begin for begin, end in self._ends.items()) + len(self._whole) * self._per_block
        assert {end: begin for begin, end in self._ends.items()} == self._begins
        lengths = {begin: n for n, begins in enumerate(self._by_length) for begin in begins}
        assert lengths == {begin: end - begin for begin, end in self._ends.items()}
        assert self._lengths == sum(1 << n for n, begins in enumerate(self._by_length) if begins)
        for begin, end in self._ends.items():
            assert begin // self._per_block == (end - 1) // self._per_block, "a free run crosses blocks"
            assert end not in self._ends or end % self._per_block == 0, "two free runs touch"

    def _cut(self, rest: int) -> tuple[int, int]:
        """Units for a part, at most `rest` of them, that nobody has from now on."""
        fitting = self._lengths >> rest
        if fitting:
            begin, end = self._pop(rest + (fitting & -fitting).bit_length() - 1)  # the shortest that fits
        else:
            longest = self._lengths.bit_length() - 1
            if self._whole and (not self._lengths or longest * GATHER < rest):
                begin = heapq.heappop(self._whole) * self._per_block
                end = begin + self._per_block
            else:
                begin, end = self._pop(longest)
        cut = min(end, begin + rest)
        if cut < end:
            self._insert(cut, end)
        return begin, cut

    def _pieces(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """A run cut where blocks meet."""
        while begin < end:
            stop = min(end, (begin // self._per_block + 1) * self._per_block)
            yield begin, stop
            begin = stop

    def _give(self, begin: int, end: int) -> None:
        """Free units of one block, joined with the free runs they touch in it."""
        if begin % self._per_block and begin in self._begins:
            begin = self._remove(self._begins[begin])[0]
        if end % self._per_block and end in self._ends:
            end = self._remove(end)[1]
        if end - begin == self._per_block:
            heapq.heappush(self._whole, begin // self._per_block)
        else:
            self._insert(begin, end)

    def _insert(self, begin: int, end: int) -> None:
        self._ends[begin], self._begins[end] = end, begin
        self._by_length[end - begin][begin] = None
        self._lengths |= 1 << (end - begin)

    def _remove(self, begin: int) -> tuple[int, int]:
        end = self._ends.pop(begin)
        del self._begins[end]
        begins = self._by_length[end - begin]
        del begins[begin]
        if not begins:
            self._lengths ^= 1 << (end - begin)
        return begin, end

    def _pop(self, length: int) -> tuple[int, int]:
        """A free run of this length, taken out."""
        return self._remove(next(iter(self._by_length[length])))


def _append(runs: list[tuple[int, int]], begin: int, end: int) -> None:
    """Add a run, joined to the one before it if they touch."""
    if runs and runs[-1][1] == begin:
        runs[-1] = runs[-1][0], end
    else:
        runs.append((begin, end))
