"""The chunks of one branch, as arrays sorted by chunk number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldkv.views import Candidates

CAPACITY = 16
"""Chunks a branch has room for at first."""
GROWTH = 1.5
"""How much room a full table is given, as a multiple of what it holds."""
GAPS = 32
"""Chunks taken away that stay in the arrays as gaps; when there are more, they are packed."""
RUNS = 64
"""Runs of adjoining chunks that are handed out as they are; what is more scattered is copied into one."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """Chunks of one branch. A change makes another table, and leaves what readers of this one see as it is.

    The next table may share the arrays and write behind the `size` rows that belong to this one: so only the
    newest table of a branch is changed.

    spec  digest of the model spec of all
    rows  arrays with room to grow: the first `size` rows are in use, rising by number
    gaps  rows among them that were taken away, rising
    """

    spec: str
    rows: Candidates
    size: int
    gaps: Numbers

    @classmethod
    def of(cls, spec: str, new: Candidates) -> Table:
        """A table of some chunks, rising by number."""
        return cls(spec, _merged(None, new, CAPACITY), len(new), np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.size - len(self.gaps)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, with their room."""
        return sum(column.nbytes for column in _columns(self.rows) if column is not None)

    @property
    def index(self) -> Numbers:
        """Numbers of the rows in use, gaps among them."""
        return self.rows.index[: self.size]

    def find(self, numbers: Numbers) -> Numbers:
        """Rows of the chunks of these numbers, -1 for those that are not there."""
        rows = np.searchsorted(self.index, numbers)
        known = rows < self.size
        known[known] = self.index[rows[known]] == numbers[known]
        if len(self.gaps):
            known &= ~np.isin(rows, self.gaps)
        return np.where(known, rows, -1)

    def count(self, begin: int, end: int) -> int:
        """How many chunks are there of those numbered from `begin` up to `end`."""
        low, high = np.searchsorted(self.index, (begin, end))
        return int(high - low - np.diff(np.searchsorted(self.gaps, (low, high)))[0])

    def numbers(self, begin: int, end: int) -> Numbers:
        """Numbers of the chunks that are there of those numbered from `begin` up to `end`, rising."""
        held = self.index[self._live()]
        return held[slice(*np.searchsorted(held, (begin, end)))]

    def added(self, new: Candidates) -> Table:
        """With some chunks that are not there, rising by number, of as many frames and the same shape of extras."""
        in_order = new.index[0] > self.index[-1]
        missing = any(a is None and b is not None for a, b in zip(self.rows.extras, new.extras, strict=True))
        end = self.size + len(new)
        if in_order and not missing and end <= len(self.rows):
            _put(self.rows, slice(self.size, end), new)
            return replace(self, size=end)
        kept = self.rows.take(self._live())
        rows = _merged(kept, new, int(GROWTH * (len(kept) + len(new))))
        return Table(self.spec, rows, len(kept) + len(new), self.gaps[:0])

    def without(self, rows: Numbers) -> Table:
        """Without the chunks of some rows, which are there, each once."""
        gaps = np.sort(np.concatenate([self.gaps, rows]))
        if len(gaps) <= GAPS:
            return replace(self, gaps=gaps)
        kept = self.rows.take(replace(self, gaps=gaps)._live())
        return Table(self.spec, _merged(None, kept, CAPACITY), len(kept), self.gaps[:0])

    def between(self, begin: int, end: int | None, exclude: Numbers, cuts: Numbers) -> Iterator[Candidates]:
        """Chunks numbered from `begin` up to `end` but those of `exclude`, rising, in parts; mostly not copied.

        exclude, cuts  chunk numbers, rising; at those of `cuts`, which are not there, one part ends and another begins
        """
        low = int(np.searchsorted(self.index, begin))
        high = self.size if end is None else int(np.searchsorted(self.index, end))
        gone = self.find(exclude)
        gone = np.union1d(gone[gone >= 0], self.gaps)
        borders = np.searchsorted(self.index, cuts)
        borders = borders[(borders > low) & (borders < high)]
        for first, last in pairwise([low, *borders.tolist(), high]):
            inside = gone[slice(*np.searchsorted(gone, (first, last)))]
            starts, ends = [first, *(inside + 1).tolist()], [*inside.tolist(), last]
            if len(inside) < RUNS:
                yield from (self.rows.take(slice(*run)) for run in zip(starts, ends, strict=True) if run[0] < run[1])
            elif len(inside) < last - first:
                yield self.rows.take(np.delete(np.arange(first, last), inside - first))

    def _live(self) -> Numbers | slice:
        """Rows that hold chunks."""
        return np.delete(np.arange(self.size), self.gaps) if len(self.gaps) else slice(0, self.size)


def _columns(rows: Candidates) -> tuple[NDArray[Any] | None, ...]:
    return *rows.columns, *rows.extras


def _merged(kept: Candidates | None, new: Candidates, capacity: int) -> Candidates:
    """New arrays of some capacity or more, that begin with the chunks of both, rising by number."""
    old = 0 if kept is None else len(kept)
    capacity = max(capacity, old + len(new))
    places: list[slice | Numbers] = [slice(0, old), slice(old, old + len(new))]
    if kept is not None and old and new.index[0] < kept.index[-1]:
        among = np.searchsorted(kept.index, new.index) + np.arange(len(new))
        places = [np.delete(np.arange(old + len(new)), among), among]
    parts = [part for part in (kept, new) if part is not None]
    columns: list[NDArray[Any] | None] = []
    for like in zip(*map(_columns, parts), strict=True):
        some = next((column for column in like if column is not None), None)
        columns.append(None if some is None else np.empty((capacity, *some.shape[1:]), some.dtype))
    rows = Candidates(*columns)  # type: ignore[arg-type]  # the first columns are always there
    for place, part in zip(places[-len(parts) :], parts, strict=True):
        _put(rows, place, part)
    return rows


def _put(rows: Candidates, place: slice | Numbers, values: Candidates) -> None:
    """Write chunks in their place; NaN where they lack an extra that others have."""
    for column, value in zip(_columns(rows), _columns(values), strict=True):
        if column is not None:
            column[place] = np.nan if value is None else value
