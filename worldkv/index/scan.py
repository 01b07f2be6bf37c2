"""The exact scan: the selector looks at every chunk of a world."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldkv.chunk import Branch, ChunkKey, Lineage, Meta
from worldkv.errors import InvalidInput
from worldkv.evict import least_useful
from worldkv.index.batch import Batch
from worldkv.index.seam import Hit, hits
from worldkv.index.sift import sift
from worldkv.index.table import Table
from worldkv.select import Query, Selector
from worldkv.views import Candidates, join


class Gap(NamedTuple):
    """Numbers `begin` up to `end` (exclusive) of a branch, none of which is held."""

    branch: Branch
    begin: int
    end: int


class ScanIndex:
    """Keeps the poses of each branch in arrays, and lets the selector look at every one of them.

    One thread changes it at a time; others may read meanwhile. What `candidates` gives stays as it is.
    """

    def __init__(self) -> None:
        self._tables: dict[Branch, Table] = {}
        self._chunks = self._bytes = 0

    def __len__(self) -> int:
        return self._chunks

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, with their room to grow."""
        return self._bytes

    def branches(self) -> list[Branch]:
        """Branches with at least one chunk."""
        return list(self._tables)

    def held(self, branch: Branch) -> int:
        """Chunks of a branch."""
        return len(table) if (table := self._tables.get(branch)) else 0

    def branch_bytes(self, branch: Branch) -> int:
        """Bytes of the table of a branch, with its room to grow."""
        return table.nbytes if (table := self._tables.get(branch)) else 0

    def add(self, meta: Meta) -> bool:
        """See `PoseIndex.add`."""
        return bool(self.add_many(Batch.of([meta])))

    def add_many(self, batch: Batch) -> int:
        """Make chunks findable; how many were not. A known one stays as it is.

        Raises as `PoseIndex.add` does, and InvalidInput for depth maps or descriptors of another shape than its
        branch's; chunks before the one that is refused are findable.
        """
        views = batch.views()
        return sum(self._add(branch, batch, views, rows) for branch, rows in batch.runs())

    def remove(self, key: ChunkKey) -> bool:
        """See `PoseIndex.remove`."""
        return bool(self.remove_many([key]))

    def remove_many(self, keys: Collection[ChunkKey]) -> int:
        """Make chunks unfindable; how many were not yet."""
        removed = 0
        for branch, own in groupby(sorted(set(keys)), lambda key: key.branch):
            if (table := self._tables.get(branch)) is not None:
                rows = table.find(np.array([key.index for key in own]))
                rows = rows[rows >= 0]
                self._set(branch, table.without(rows))
                removed += len(rows)
        return removed

    def drop_branch(self, branch: Branch) -> int:
        """Forget a branch; how many chunks it had."""
        held = self.held(branch)
        self._set(branch, None)
        return held

    def missing(self, lineage: Lineage, published: int) -> list[Gap]:
        """Which chunks of a world, of the `published` from number 0 on, are not held: the longest gaps, rising."""
        gaps: list[Gap] = []
        begin = 0
        for branch, end in lineage.parts:
            end = published if end is None else min(end, published)
            if begin < end:
                gaps += self._gaps(branch, begin, end)
            begin = end
        return gaps

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
        return hits(lineage, candidates, selector.choose(query, candidates, k, spares))

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
        """The chunks of a lineage but those excluded, by number, as they are now; None if there is none.

        They are mostly views of the index's own arrays: not to be written to.

        Raises InvalidInput where the chunks have different numbers of frames.
        """
        unwanted = np.sort(np.fromiter(exclude, np.int64, len(exclude)))
        new = self._new(lineage, pending, unwanted)
        cuts = new.index if new is not None else unwanted[:0]
        parts: list[Candidates] = []
        begin = 0
        for branch, end in lineage.parts:
            if (table := self._tables.get(branch)) is not None:
                parts += table.between(begin, end, unwanted, cuts)
            begin = end or 0
        if new is not None:
            parts += [new.take(slice(row, row + 1)) for row in range(len(new))]
            parts.sort(key=lambda part: int(part.index[0]))
        return join(parts) if parts else None

    def _new(self, lineage: Lineage, pending: Sequence[Meta], unwanted: NDArray[np.int64]) -> Candidates | None:
        """Chunks of a lineage that are not held, nor unwanted, rising by number; None if there is none."""
        fresh = {
            meta.key.index: meta
            for meta in pending
            if lineage.covers(meta.key) and not self._holds(meta.key) and meta.key.index not in unwanted
        }
        return Batch.of([fresh[number] for number in sorted(fresh)]).views() if fresh else None

    def _holds(self, key: ChunkKey) -> bool:
        table = self._tables.get(key.branch)
        return table is not None and table.count(key.index, key.index + 1) > 0

    def _gaps(self, branch: Branch, begin: int, end: int) -> list[Gap]:
        """Runs of numbers from `begin` up to `end` of which a branch holds none."""
        if (table := self._tables.get(branch)) is None:
            return [Gap(branch, begin, end)]
        if table.count(begin, end) == end - begin:
            return []
        held = table.numbers(begin, end)
        borders = np.concatenate([[begin - 1], held, [end]])
        before = np.flatnonzero(np.diff(borders) > 1)
        return [Gap(branch, int(borders[i]) + 1, int(borders[i + 1])) for i in before]

    def _add(self, branch: Branch, batch: Batch, views: Candidates, rows: slice) -> int:
        """Add rows of a batch that belong to one branch, up to the first that is refused."""
        table = self._tables.get(branch)
        new, refusal = sift(table, batch, views, rows)
        if len(new):
            self._set(branch, table.added(new) if table else Table.of(batch.specs[rows.start], new))
        if refusal is not None:
            raise refusal
        return len(new)

    def _set(self, branch: Branch, table: Table | None) -> None:
        """Put a table in the place of a branch's; none, or an empty one, in the place of none."""
        old = self._tables.get(branch)
        self._chunks -= len(old) if old else 0
        self._bytes -= old.nbytes if old else 0
        if table:
            self._tables[branch] = table
            self._chunks += len(table)
            self._bytes += table.nbytes
        else:
            self._tables.pop(branch, None)
