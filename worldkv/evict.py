"""Which chunks a world can do without: those whose views others show as well.

A chunk's own view is a grid of points before each of its frames. Another chunk shows such a point if it would see
it, in empty space, from a camera near this one: near by, because there may be a wall between places farther apart.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput
from worldkv.views import Candidates, sees, target

NEAR = 0.2
"""How far apart, as a share of the view range, two chunks may stand and still stand in for each other."""
GRID = {"columns": 4, "rows": 1, "depths": 3}
"""Points of each frame's view."""
FRAMES = 3
"""Frames of a chunk whose views are looked at, spread evenly."""
BLOCK = 4096
"""Pairs of chunks compared at once, to bound memory."""


class Cover:
    """Which chunks show which points of which chunks' views, while chunks are taken away.

    Pairs (shown, by) are sorted by `shown`, the chunk whose points they are; each chunk shows its own points.

    count  [n, points] int64: how many of the chunks that are left show each point
    loss   [n] int64: points that no other chunk left would show if this one went, its own or another's
    """

    def __init__(self, chunks: Candidates, view_range: float) -> None:
        if not 0 < view_range < float("inf"):
            raise InvalidInput(f"view_range must be a positive number of units, got {view_range}")
        n = len(chunks)
        self.shown, self.by = _neighbours(chunks, NEAR * view_range)
        self.mask = _shows(chunks, self.shown, self.by, view_range)
        self.begin = np.searchsorted(self.shown, np.arange(n + 1))
        order = np.argsort(self.by, kind="stable")
        self.pairs_by = np.split(order, np.searchsorted(self.by[order], np.arange(1, n)))
        self.left = np.ones(n, bool)
        self.count = np.add.reduceat(self.mask, self.begin[:-1], dtype=np.int64)
        # A point that one chunk shows is that chunk's own: each shows its own points.
        self.loss = (self.count == 1).sum(1)

    def remove(self, chunk: int) -> None:
        """Take a chunk away: its points stay, shown by one less, as do those of its neighbours."""
        self.left[chunk] = False
        pairs = self.pairs_by[chunk]
        shown, mask = self.shown[pairs], self.mask[pairs]
        self.count[shown] -= mask
        last = mask & (self.count[shown] == 1)
        for i in np.flatnonzero(last.any(1)):
            self._blame(int(shown[i]), last[i])

    def _blame(self, shown: int, points: NDArray[np.bool_]) -> None:
        """Count some points of a chunk as lost with the only chunk left that shows them."""
        pairs = slice(self.begin[shown], self.begin[shown + 1])
        by = self.by[pairs]
        self.loss[by] += (self.mask[pairs] & points).sum(1) * self.left[by]


def redundancy(chunks: Candidates, view_range: float) -> NDArray[np.float64]:
    """Share [n] of each chunk's own view points that at least one other chunk also shows, 0..1.

    view_range  how far views reach, units

    Raises InvalidInput for a view range that is not positive and finite.
    """
    if not len(chunks):
        return np.empty(0)
    return np.asarray((Cover(chunks, view_range).count > 1).mean(1), np.float64)


def least_useful(chunks: Candidates, count: int, view_range: float, protect: Collection[int] = ()) -> list[int]:
    """Numbers of at most `count` chunks to take away, in that order.

    Each time the chunk goes whose going leaves the fewest points of any view, of chunks still there or gone before,
    without a chunk that shows them. So of chunks that show the same, one stays. Of equals goes the one whose own
    view is shown by the most others, then the newest, which has drifted most.

    chunks   all that are there; those that are gone already must not be among them
    protect  chunk numbers that must stay, such as sink and recent; they count as showing what they show

    Raises InvalidInput for a view range that is not positive and finite.
    """
    if not len(chunks) or count <= 0:
        return []
    cover = Cover(chunks, view_range)
    free = ~np.isin(chunks.index, np.fromiter(protect, np.int64, len(protect)))
    gone: list[int] = []
    for _ in range(min(count, int(free.sum()))):
        rows = np.flatnonzero(free)
        rows = rows[cover.loss[rows] == cover.loss[rows].min()]
        shown = cover.count[rows].sum(1)
        row = int(rows[shown == shown.max()][-1])
        cover.remove(row)
        free[row] = False
        gone.append(int(chunks.index[row]))
    return gone


def _neighbours(chunks: Candidates, near: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of chunks that stand at most `near` apart and look the same half of all ways, each with itself, sorted."""
    centre = chunks.translation - chunks.translation.mean(0)
    ahead = chunks.rotation[..., 2]
    shown, by = [], []
    for begin in range(0, len(chunks), 256):
        block = slice(begin, begin + 256)
        close = ((centre[block, None] - centre) ** 2).sum(-1) <= near**2
        close &= ahead[block] @ ahead.T >= 0
        i, j = np.nonzero(close)
        shown.append(i + begin)
        by.append(j)
    return np.concatenate(shown), np.concatenate(by)


def _shows(chunks: Candidates, shown: NDArray[np.int64], by: NDArray[np.int64], view_range: float) -> NDArray[np.bool_]:
    """Which points of `shown` chunks the `by` chunks see, [pairs, points]."""
    frames = chunks.poses.shape[1]
    some = np.unique(np.linspace(0, frames - 1, min(frames, FRAMES)).round().astype(np.int64))
    points = np.empty((len(chunks), len(some) * GRID["columns"] * GRID["rows"] * GRID["depths"], 3))
    for row in range(len(chunks)):
        lens = float(chunks.fov[row]), float(chunks.aspect[row])
        points[row] = target(chunks.poses[row, some], *lens, view_range, **GRID).flat
    mask = np.empty((len(shown), points.shape[1]), bool)
    for begin in range(0, len(shown), BLOCK):
        block = slice(begin, begin + BLOCK)
        mask[block] = sees(chunks.take(by[block]), points[shown[block]], view_range, np.float32)
    mask[shown == by] = True
    return mask
