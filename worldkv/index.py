"""Which chunks saw what the camera sees now: the `PoseIndex` seam and its exact scan.

An index is a hint: it holds nothing that the store cannot give back, and a chunk that it names may be gone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worldkv.chunk import Branch, ChunkKey, Lineage, Meta
from worldkv.errors import AlreadyExists, InvalidInput
from worldkv.evict import least_useful
from worldkv.select import Query, Selector
from worldkv.views import Candidates, join

CAPACITY = 64
"""Chunks a branch has room for at first; doubled whenever it is full."""


@dataclass(frozen=True)
class Hit:
    """A chunk that is worth recalling.

    key    its name
    score, gain, parts, spare  as the selector chose it, see `worldkv.select.Choice`
    """

    key: ChunkKey
    score: float
    gain: float
    parts: Mapping[str, float]
    spare: bool


class PoseIndex(Protocol):
    """The poses of the chunks of any number of branches."""

    def add(self, meta: Meta) -> bool:
        """Make a chunk findable; False if it was. Raises AlreadyExists if its key has another pose or lens."""
        ...

    def remove(self, key: ChunkKey) -> bool:
        """Make a chunk unfindable; False if it was not known. It may be added again."""
        ...

    def nearest(
        self,
        query: Query,
        selector: Selector,
        k: int,
        lineage: Lineage,
        exclude: Collection[int] = (),
        spares: int = 0,
        pending: Sequence[Meta] = (),
    ) -> list[Hit]:
        """At most `k` chunks of a lineage, best first, and behind them at most `spares` spares.

        selector  chooses among all chunks of the lineage that are not excluded, in order of time
        exclude   chunk numbers that are not wanted: sink, recent, not yet to be seen
        pending   chunks that may not have been added yet, ranked with all others; those of no concern are ignored

        Raises InvalidInput if `k` or `spares` is negative.
        """
        ...

    def __len__(self) -> int:
        """Chunks of all branches."""
        ...


class ScanIndex:
    """Keeps the poses of each branch in arrays, and lets the selector look at every one of them."""

    def __init__(self) -> None:
        self._metas: dict[ChunkKey, Meta] = {}
        self._branches: dict[Branch, _Table] = {}

    def __len__(self) -> int:
        return len(self._metas)

    def add(self, meta: Meta) -> bool:
        """See `PoseIndex.add`. Raises InvalidInput where the branch has chunks of another number of frames."""
        if (known := self._metas.get(meta.key)) is not None:
            if not _same_view(known, meta):
                raise AlreadyExists(f"chunk {meta.key} is indexed with another pose or lens")
            return False
        if (table := self._branches.get(meta.key.branch)) is None:
            table = self._branches[meta.key.branch] = _Table(len(meta.poses))
        table.put(meta)
        self._metas[meta.key] = meta
        return True

    def remove(self, key: ChunkKey) -> bool:
        """See `PoseIndex.remove`."""
        if self._metas.pop(key, None) is None:
            return False
        table = self._branches[key.branch]
        table.drop(key.index)
        if not table.live:
            del self._branches[key.branch]
        return True

    def nearest(
        self,
        query: Query,
        selector: Selector,
        k: int,
        lineage: Lineage,
        exclude: Collection[int] = (),
        spares: int = 0,
        pending: Sequence[Meta] = (),
    ) -> list[Hit]:
        """See `PoseIndex.nearest`."""
        if k < 0 or spares < 0:
            raise InvalidInput(f"k and spares must not be negative, got {k} and {spares}")
        candidates = self.candidates(lineage, exclude, pending)
        if candidates is None or not k:
            return []
        return [
            Hit(lineage.key(int(candidates.index[c.row])), c.score, c.gain, c.parts, c.spare)
            for c in selector.choose(query, candidates, k, spares)
        ]

    def least_useful(
        self,
        lineage: Lineage,
        count: int,
        view_range: float,
        protect: Collection[int] = (),
        exclude: Collection[int] = (),
    ) -> list[ChunkKey]:
        """At most `count` chunks of a lineage that it can do without, in the order to take them away.

        view_range  how far views reach, units
        protect     chunk numbers that must stay, such as sink and recent
        exclude     chunk numbers that are gone already: never named, and not counted on to show anything
        """
        chunks = self.candidates(lineage, exclude)
        return [lineage.key(i) for i in least_useful(chunks, count, view_range, protect)] if chunks else []

    def candidates(
        self, lineage: Lineage, exclude: Collection[int] = (), pending: Sequence[Meta] = ()
    ) -> Candidates | None:
        """The chunks of a lineage but those excluded, by number; None if there is none.

        They may be a view of the index's own arrays: not to be written to, nor kept beyond the next change.

        Raises InvalidInput where the chunks have different numbers of frames.
        """
        unwanted = np.sort(np.fromiter(exclude, np.int64, len(exclude)))
        parts, begin = [], 0
        for branch, end in lineage.parts:
            if (table := self._branches.get(branch)) is not None:
                parts.append(table.between(begin, end, unwanted))
            begin = end or 0
        new = [m for m in pending if m.key not in self._metas and lineage.covers(m.key) and m.key.index not in exclude]
        if new:
            fresh = _Table(len(new[0].poses))
            for meta in {m.key: m for m in new}.values():
                fresh.put(meta)
            parts.append(fresh.between(0, None, unwanted[:0]))
        if not (parts := [part for part in parts if len(part)]):
            return None
        found = join(parts)
        return found.take(np.argsort(found.index, kind="stable")) if new and len(parts) > 1 else found


class _Table:
    """Poses of one branch, in arrays with room to grow, sorted by chunk number.

    Chunks come in order, but for retries, so putting one at the end is the common case. A chunk that is dropped
    leaves a gap, and the arrays are packed when more than half of them are gaps.
    """

    def __init__(self, frames: int) -> None:
        self.frames, self.size, self.live = frames, 0, 0
        self._rows = _empty(CAPACITY, frames)
        self._alive = np.zeros(CAPACITY, bool)

    def put(self, meta: Meta) -> None:
        """Add a chunk that is not there. Raises InvalidInput if it has another number of frames."""
        if len(meta.poses) != self.frames:
            raise InvalidInput(f"chunk {meta.key} has {len(meta.poses)} frames, others of its branch {self.frames}")
        if self.size == len(self._alive):
            self._keep(np.arange(self.size), 2 * self.size)
        place = int(np.searchsorted(self._rows.index[: self.size], meta.key.index))
        gap = place < self.size and self._rows.index[place] == meta.key.index
        if not gap:
            for column in (*self._rows.columns, self._alive):
                column[place + 1 : self.size + 1] = column[place : self.size]
            self.size += 1
        one = Candidates.of(meta.poses[None], meta.fov, meta.aspect, [meta.key.index])
        for column, value in zip(self._rows.columns, one.columns, strict=True):
            column[place] = value[0]
        self._alive[place] = True
        self.live += 1

    def drop(self, index: int) -> None:
        """Take away a chunk that is there."""
        self._alive[np.searchsorted(self._rows.index[: self.size], index)] = False
        self.live -= 1
        if self.size > CAPACITY and 2 * self.live < self.size:
            self._keep(np.flatnonzero(self._alive[: self.size]), max(CAPACITY, 2 * self.live))

    def between(self, begin: int, end: int | None, exclude: NDArray[np.int64]) -> Candidates:
        """Chunks numbered from `begin` up to `end` but those of `exclude` (sorted); not copied where they adjoin."""
        low = int(np.searchsorted(self._rows.index[: self.size], begin))
        high = self.size if end is None else int(np.searchsorted(self._rows.index[: self.size], end))
        index, wanted = self._rows.index[low:high], self._alive[low:high].copy()
        places = np.searchsorted(index, exclude)
        known = np.flatnonzero(places < len(index))
        known = known[index[places[known]] == exclude[known]]
        wanted[places[known]] = False
        rows = np.flatnonzero(wanted) + low
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return self._rows.take(slice(int(rows[0]), int(rows[-1]) + 1))
        return self._rows.take(rows)

    def _keep(self, rows: NDArray[np.int64], capacity: int) -> None:
        """Move some rows, in order, to the front of new arrays."""
        old, alive, self.size = self._rows.take(rows), self._alive[rows], len(rows)
        self._rows, self._alive = _empty(capacity, self.frames), np.zeros(capacity, bool)
        self._alive[: self.size] = alive
        for column, kept in zip(self._rows.columns, old.columns, strict=True):
            column[: self.size] = kept


def _empty(capacity: int, frames: int) -> Candidates:
    """Room for so many chunks."""
    numbers, values = np.empty(capacity, np.int64), ((frames, 4, 4), (3,), (3, 3), (), ())
    return Candidates(numbers, *(np.empty((capacity, *shape)) for shape in values))


def _same_view(a: Meta, b: Meta) -> bool:
    return np.array_equal(a.poses, b.poses) and (a.fov, a.aspect) == (b.fov, b.aspect)
