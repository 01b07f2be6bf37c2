"""Which chunks a world can do without: those whose views others show as well.

A chunk's own view is a grid of points before each of its frames. Another chunk shows such a point if it would see
it, in empty space, from a camera near this one: near by, because there may be a wall between places farther apart.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix
from worldkv.views import Cameras, Candidates, square, target

NEAR = 0.2
"""How far apart, as a share of the view range, two chunks may stand and still stand in for each other."""
GRID = {"columns": 4, "rows": 1, "depths": 3}
"""Points of each frame's view."""
FRAMES = 3
"""Frames of a chunk whose views are looked at, spread evenly."""
BLOCK = 64
"""Chunks that are compared with the others at once: as they follow each other, so are they close together."""


class Cover:
    """Which chunks show which points of which chunks' views, while chunks are taken away.

    Pairs (shown, by) are sorted by `shown`, the chunk whose points they are; each chunk shows its own points.

    count  [n, points] int32: how many of the chunks that are left show each point
    total  [n] int64: the same, over all points of a chunk
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
        runs = zip(self.begin, self.begin[1:], strict=False)
        self.count = np.stack([self.mask[slice(*run)].sum(0, dtype=np.int32) for run in runs])
        self.total = self.count.sum(1)
        # A point that one chunk shows is that chunk's own: each shows its own points.
        self.loss = (self.count == 1).sum(1)

    def remove(self, chunk: int) -> None:
        """Take a chunk away: its points stay, shown by one less, as do those of its neighbours."""
        self.left[chunk] = False
        pairs = self.pairs_by[chunk]
        shown, mask = self.shown[pairs], self.mask[pairs]
        count = self.count[shown] - mask
        self.count[shown] = count
        self.total[shown] -= mask.sum(1)
        last = mask & (count == 1)
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
        row = int(rows[cover.total[rows] == cover.total[rows].max()][-1])
        cover.remove(row)
        free[row] = False
        gone.append(int(chunks.index[row]))
    return gone


def _neighbours(chunks: Candidates, near: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of chunks that stand at most `near` apart and look the same half of all ways, each with itself, sorted."""
    centre, ahead = chunks.translation, chunks.rotation[..., 2]
    shown, by = [], []
    for begin in range(0, len(chunks), BLOCK):
        block, around = slice(begin, begin + BLOCK), near * (1 + 1e-6)
        low, high = centre[block].min(0) - around, centre[block].max(0) + around
        rows = np.flatnonzero(((centre >= low) & (centre <= high)).all(1))
        close = square(centre[block, None], centre[rows]) <= near**2
        close &= ahead[block] @ ahead[rows].T >= 0
        i, j = np.nonzero(close)
        shown.append(i + begin)
        by.append(rows[j])
    return np.concatenate(shown), np.concatenate(by)


def _shows(chunks: Candidates, shown: NDArray[np.int64], by: NDArray[np.int64], view_range: float) -> NDArray[np.bool_]:
    """Which points of `shown` chunks the `by` chunks see, [pairs, points]."""
    points = _points(chunks, view_range)
    mask = np.empty((len(shown), points.shape[1]), bool)
    begin = np.searchsorted(shown, np.arange(len(chunks) + 1))
    for first in range(0, len(chunks), BLOCK):
        block = points[first : first + BLOCK]
        pairs = slice(begin[first], begin[first + len(block)])
        near, place = np.unique(by[pairs], return_inverse=True)
        cameras = Cameras(chunks.take(near), block.reshape(-1, 3).mean(0), view_range, np.float32)
        for row, own in enumerate(block, first):
            run = slice(begin[row], begin[row + 1])
            mask[run] = cameras.see(own, place[run.start - pairs.start : run.stop - pairs.start])
    mask[shown == by] = True
    return mask


def _points(chunks: Candidates, view_range: float) -> Matrix:
    """Points of the views of each chunk's own frames, [n, points, 3]."""
    frames = chunks.poses.shape[1]
    some = chunks.poses[:, np.unique(np.linspace(0, frames - 1, min(frames, FRAMES)).round().astype(np.int64))]
    grid = target(np.eye(4)[None], np.pi / 2, 1.0, view_range, **GRID).flat
    tangent = np.tan(chunks.fov / 2)
    lens = np.stack([tangent, tangent * chunks.aspect, np.ones(len(chunks))], -1)
    points = (lens[:, None, None] * grid) @ some[..., :3, :3].swapaxes(-1, -2) + some[..., None, :3, 3]
    return np.asarray(points.reshape(len(chunks), -1, 3))
