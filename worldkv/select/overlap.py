"""Selection by overlap of views: each candidate for itself (`Fov`), or as a set (`Coverage`)."""

from __future__ import annotations

from dataclasses import replace
from math import hypot, sqrt, tan

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix
from worldkv.select.greedy import Worth, grow, in_order
from worldkv.select.seam import Choice, Query, ranked
from worldkv.views import Candidates, Target, detour, join, sees, square, target

GRID = {"columns": 6, "rows": 2, "depths": 4}
"""Points of each frame of the coming chunk."""
FINE = {"columns": 12, "rows": 1, "depths": 8}
"""The same for selectors that show nothing twice: by fewer points the second choice would seem to add nothing."""
COARSE = {"columns": 3, "rows": 1, "depths": 4}
"""Points of its first and last frame by which many candidates are cut down to a shortlist."""
ROUNDS = 4
"""Choices that a shortlist is drawn up for, at least."""
BLOCK = 1024
"""Candidates compared at once, to bound memory."""


def _grid(query: Query, poses: Matrix, grid: dict[str, int]) -> Target:
    return target(poses, query.fov, query.aspect, query.view_range, **grid)


def _within_reach(query: Query, candidates: Candidates) -> NDArray[np.int64]:
    """Rows of the candidates that stand near enough to see a point of the coming view at all."""
    tangent = tan(query.fov / 2)
    corner = query.view_range * hypot(1, tangent, tangent * query.aspect)
    sources = query.poses[:, :3, 3]
    centre = sources.mean(0)
    spread = sqrt(float(square(sources, centre).max()))

    def near(part: Candidates) -> NDArray[np.bool_]:
        lens = np.tan(part.fov / 2)
        farthest = query.view_range * np.sqrt(1 + lens**2 * (1 + part.aspect**2))
        own = np.zeros(len(part))
        for frame in range(part.poses.shape[1]):
            np.maximum(own, square(part.poses[:, frame, :3, 3], part.translation), out=own)
        away = np.sqrt(square(part.translation, centre))
        return np.asarray(away <= (corner + farthest + spread + np.sqrt(own)) * (1 + 1e-6))

    return np.flatnonzero(np.concatenate([near(part) for part in candidates.parts]))


class Fov:
    """The k candidates that see the largest share of the coming view, each looked at for itself.

    The score is that share, 0..1: the mean over the coming frames of the share of a fixed grid of points, within the
    view range, that at least one frame of the candidate sees. Candidates that see nothing are not chosen. Ties go to
    the oldest.
    """

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        score = np.zeros(len(candidates))
        points = _grid(query, query.poses, GRID).flat
        rows = _within_reach(query, candidates)
        for begin in range(0, len(rows), BLOCK):
            block = rows[begin : begin + BLOCK]
            score[block] = sees(candidates.take(block), points, query.view_range).mean(-1)
        chosen = [row for row in ranked(score, k + spares) if score[row] > 0]
        choices = [
            Choice(row, float(score[row]), parts={"seen": float(score[row])}, spare=place >= k)
            for place, row in enumerate(chosen)
        ]
        return with_gains(query, candidates, choices)


class Coverage:
    """The set of candidates that together show most of what the window does not show already.

    A point p of the coming view is shown by candidate i to the extent

        near(i, p) = [a frame of i sees p] * ((1 - close) * f + close * f^8),    f = exp(-d(i, p) / R)

    where R is the view range and d the distance of i's mean camera centre from the line of sight to p. Walls are
    unknown; but where a line of sight is free, so is what lies close to it, and pictures from close by look alike: near
    fades over the view range, and `close` of it over an eighth of that. With the first part alone, views from anywhere
    in a room count as nearly the same; with the second alone, a view from across the room counts for nothing. The share
    of the view still missing after a set S is the mean over points of the product over S of (1 - near), times 1 - near
    of the best frame that is in the window anyway; what a candidate adds to that is its gain. The set grows by the
    candidate of largest gain + `again` * score: models draw better from two looks at the same thing than from one, by
    0.9 dB on half turns of the pocket model, and among sets that show as much, the one that shows it twice is chosen.

    threshold  abstain: a candidate that adds less than this share of the view is not chosen for what it adds
    fill       unless its score is at least this; None: no exception
    again      worth of showing what is shown already, beside showing what is not, 0..1
    close      part of near that fades over an eighth of the view range, 0..1
    early      how much more the score of the oldest candidate is worth than the newest's, -1..1: of views as good,
               old ones have drifted less, and new ones look more like what is drawn now
    grid       points of each coming frame: columns, rows and depths
    shortlist  candidates that are compared exactly for a few choices, where there are more than twice as many; for
               more choices it is longer

    The score is the mean of near(i, p) over the view, 0..1, absolute: 1 is a view that contains the coming one, from
    the same place. `gain` is the share added, in order of choice. Spares are those that would have been chosen first
    without the choices before them. Ties go to the oldest.

    Raises InvalidInput for values out of range.
    """

    def __init__(
        self,
        threshold: float = 0.015,
        fill: float | None = 0.35,
        again: float = 0.3,
        close: float = 0.5,
        early: float = 0.0,
        grid: dict[str, int] = GRID,
        shortlist: int = 128,
    ) -> None:
        if not 0 <= close <= 1:
            raise InvalidInput(f"close is a share between 0 and 1, got {close}")
        if shortlist < 1:
            raise InvalidInput(f"a shortlist holds at least one candidate, got {shortlist}")
        self.worth = Worth(threshold, fill, again, early)
        self.close, self.grid, self.shortlist = close, grid, shortlist

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        rows = self._shortlist(query, candidates, k)
        if not len(rows) or k <= 0:
            return []
        some = candidates.take(rows)
        wanted = self._wanted(query, some)
        near = self._near(some, wanted, query.view_range)
        return grow(rows, _age(candidates, rows), near, 1 - self._in_window(query, wanted), self.worth, k, spares)

    def _wanted(self, query: Query, some: Candidates) -> Target:
        """The points of the coming view."""
        return _grid(query, query.poses, self.grid)

    def _near(self, some: Candidates, wanted: Target, reach: float, dtype: DTypeLike = np.float64) -> Matrix:
        """near(i, p), [n, points]."""
        seen = self._sees(some, wanted.flat, reach, dtype)
        return _faded(seen, detour(some.translation, wanted, dtype), reach, self.close)

    def _sees(self, some: Candidates, points: Matrix, reach: float, dtype: DTypeLike) -> NDArray[np.bool_]:
        """Which points are seen, [n, points]."""
        return sees(some, points, reach, dtype)

    def _in_window(self, query: Query, wanted: Target) -> Matrix:
        """near of the best frame that stands in the window anyway, [points]."""
        if not len(query.visible):
            return np.zeros(len(wanted.flat))
        frames = Candidates.of(query.visible[:, None], query.fov, query.aspect)
        return np.asarray(self._near(frames, wanted, query.view_range).max(0))

    def _shortlist(self, query: Query, candidates: Candidates, k: int = ROUNDS) -> NDArray[np.int64]:
        """Rows of all candidates within reach, or, if they are many, of those that a coarse look finds good for a set.

        The set is grown as in `choose`, by fewer points, and with the best at each choice those next to it are taken
        in: what is not among these is hardly ever chosen by the exact comparison.
        """
        rows = _within_reach(query, candidates)
        rounds, each = max(k, ROUNDS), -(-self.shortlist // ROUNDS)
        if len(rows) <= 2 * rounds * each:
            return rows
        wanted = _grid(query, query.poses[[0, -1]], COARSE)
        some = candidates if len(rows) == len(candidates) else candidates.take(rows)
        near = self._near(some.middle(), wanted, query.view_range, np.float32)
        missing = (1 - self._in_window(query, wanted)).astype(np.float32)
        liked = self.worth.liked(near.mean(-1), _age(candidates, rows))
        left = near.max(-1) > 0
        taken = np.zeros(len(rows), bool)
        for _ in range(rounds):
            value = np.where(left, near @ missing / len(missing) + liked, -1)
            best = np.argpartition(-value, each)[:each]
            taken[best] |= left[best]
            left[best] = False
            missing *= 1 - near[best[value[best].argmax()]]
        return rows[taken]


def _age(candidates: Candidates, rows: NDArray[np.int64]) -> Matrix:
    """How old some of the candidates are among all, by number: 1 for the oldest, 0 for the newest."""
    first, last = candidates.index.min(), candidates.index.max()
    return np.asarray((last - candidates.index[rows]) / max(last - first, 1))


def with_gains(query: Query, candidates: Candidates, choices: list[Choice]) -> list[Choice]:
    """Choices that were made without regard to each other, with the gain of each as `Coverage` counts it."""
    rows = [choice.row for choice in choices if not choice.spare]
    if not rows:
        return choices
    by, some = Coverage(), candidates.take(np.array(rows))
    # One look at the choices and at the window's frames, each as a chunk that stands still.
    still = np.repeat(query.visible[:, None], some.poses.shape[1], 1)
    both = join([some, Candidates.of(still, query.fov, query.aspect)])
    near = by._near(both, by._wanted(query, some), query.view_range)
    gains = in_order(near[: len(rows)], 1 - near[len(rows) :].max(0, initial=0))
    return [*(replace(choice, gain=gain) for choice, gain in zip(choices, gains)), *choices[len(rows) :]]


def _faded(seen: NDArray[np.bool_], away: NDArray[np.floating], reach: float, close: float) -> Matrix:
    """near(i, p) of `Coverage`, [n, points], of what is seen, in place of the distances `away`."""
    away *= -1 / reach
    fade = np.exp(away, out=away)
    if close:
        sharp = fade**2
        sharp *= sharp
        sharp *= sharp
        sharp -= fade
        sharp *= close
        fade += sharp
    fade *= seen
    return np.asarray(fade)
