"""Selection by overlap of views: each candidate for itself (`Fov`), or as a set (`Coverage`)."""

from __future__ import annotations

from math import hypot, sqrt, tan

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix
from worldkv.select.seam import TIE, Choice, Query, ranked
from worldkv.views import Candidates, Target, detour, sees, target

GRID = {"columns": 6, "rows": 2, "depths": 4}
"""Points of each frame of the coming chunk."""
COARSE = {"columns": 2, "rows": 1, "depths": 4}
"""Points of its first and last frame by which many candidates are cut down to a shortlist."""
BLOCK = 1024
"""Candidates compared at once, to bound memory."""


def _grid(query: Query, poses: Matrix, grid: dict[str, int]) -> Target:
    return target(poses, query.fov, query.aspect, query.view_range, **grid)


def _within_reach(query: Query, candidates: Candidates) -> NDArray[np.int64]:
    """Rows of the candidates that stand near enough to see a point of the coming view at all."""
    tangent = tan(query.fov / 2)
    corner = query.view_range * hypot(1, tangent, tangent * query.aspect)
    lens = np.tan(candidates.fov / 2)
    farthest = query.view_range * np.sqrt(1 + lens**2 * (1 + candidates.aspect**2))
    sources = query.poses[:, :3, 3]
    centre = sources.mean(0)
    spread = sqrt(float(((sources - centre) ** 2).sum(-1).max()))
    frames = candidates.poses[..., :3, 3]
    own = np.sqrt(((frames - candidates.translation[:, None]) ** 2).sum(-1).max(1))
    away = np.sqrt(((candidates.translation - centre) ** 2).sum(-1))
    return np.flatnonzero(away <= (corner + farthest + spread + own) * (1 + 1e-6))


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
        return [Choice(row, float(score[row]), spare=place >= k) for place, row in enumerate(chosen)]


class Coverage:
    """The set of candidates that together show most of what the window does not show already.

    A point p of the coming view is shown by candidate i to the extent

        near(i, p) = [a frame of i sees p] * (f + f^8) / 2,    f = exp(-d(i, p) / R)

    where R is the view range and d the distance of i's mean camera centre from the line of sight to p. Walls are
    unknown; but where a line of sight is free, so is what lies close to it, and pictures from close by look alike: half
    of near fades over the view range, half over an eighth of it. With the first half alone, views from anywhere in a
    room count as nearly the same; with the second alone, a view from across the room counts for nothing. The share of
    the view still missing after a set S is the mean over points of the product over S of (1 - near), times 1 - near of
    the best frame that is in the window anyway; what a candidate adds to that is its gain. The set grows by the
    candidate of largest gain + `again` * score: models draw better from two looks at the same thing than from one, by
    0.9 dB on half turns of the pocket model, and among sets that show as much, the one that shows it twice is chosen.

    threshold  abstain: a candidate that adds less than this share of the view is not chosen for what it adds
    fill       unless its score is at least this; None: no exception
    again      worth of showing what is shown already, beside showing what is not, 0..1
    shortlist  from how many candidates on they are cut down, by point, to about as many before the exact comparison

    The score is the mean of near(i, p) over the view, 0..1, absolute: 1 is a view that contains the coming one, from
    the same place. `gain` is the share added, in order of choice. Spares are
    those that would have been chosen first without the choices before them. Ties go to the oldest.

    Raises InvalidInput for values out of range.
    """

    def __init__(
        self, threshold: float = 0.015, fill: float | None = 0.35, again: float = 0.3, shortlist: int = 256
    ) -> None:
        for name, share in (("threshold", threshold), ("fill", fill), ("again", again)):
            if share is not None and not 0 <= share <= 1:
                raise InvalidInput(f"coverage {name} is a share between 0 and 1, got {share}")
        if shortlist < 1:
            raise InvalidInput(f"a shortlist holds at least one candidate, got {shortlist}")
        self.threshold, self.fill, self.again, self.shortlist = threshold, fill, again, shortlist

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        rows = self._shortlist(query, candidates)
        if not len(rows) or k <= 0:
            return []
        wanted = _grid(query, query.poses, GRID)
        near = _near(candidates.take(rows), wanted, query.view_range)
        missing = 1 - _in_window(query, wanted)
        score = near.mean(-1)
        relevant = score >= (self.fill if self.fill is not None else np.inf)
        first = _gains(near, missing)
        left = np.ones(len(rows), bool)
        chosen: list[Choice] = []

        def best(gains: Matrix) -> tuple[int, bool]:
            """Place of the best that is left, and whether it is worth a slot."""
            worth = left & (relevant | ((gains >= self.threshold) & (gains > 0)))
            place = ranked(np.where(worth, gains + self.again * score, -1), 1)[0]
            return place, bool(worth[place])

        def take(place: int, gain: float, spare: bool = False) -> None:
            left[place] = False
            chosen.append(Choice(int(rows[place]), float(score[place]), gain, {"alone": float(first[place])}, spare))

        while len(chosen) < k:
            gains = _gains(near, missing)
            place, worth = best(gains)
            if not worth:
                break
            take(place, float(gains[place]))
            missing = missing * (1 - near[place])
        for _ in range(spares):
            place, worth = best(first)
            if not worth or not first[place]:
                break
            take(place, 0.0, spare=True)
        return chosen

    def _shortlist(self, query: Query, candidates: Candidates) -> NDArray[np.int64]:
        """Rows of all candidates within reach, or, if they are many, of the nearest for each of a few points."""
        rows = _within_reach(query, candidates)
        if len(rows) <= self.shortlist:
            return rows
        wanted = _grid(query, query.poses[[0, -1]], COARSE)
        some = candidates if len(rows) == len(candidates) else candidates.take(rows)
        near = _near(some.middle(), wanted, query.view_range, np.float32).T
        each = max(1, self.shortlist // len(near))
        best = np.argpartition(-near, each - 1, axis=1)[:, :each]
        best = np.unique(best[np.take_along_axis(near, best, 1) > 0])
        return rows[best]


def _gains(near: Matrix, missing: Matrix) -> Matrix:
    """Share of the view that candidates [n, points] add where `missing` [points] is not yet shown."""
    return np.asarray(np.round(near @ missing / missing.shape[-1], TIE))


def _near(candidates: Candidates, wanted: Target, reach: float, dtype: DTypeLike = np.float64) -> Matrix:
    """near(i, p) of `Coverage`, [n, points]."""
    seen = sees(candidates, wanted.flat, reach, dtype)
    away = detour(candidates.translation, wanted, dtype)
    away *= -1 / reach
    fade = np.exp(away, out=away)
    close = fade**2
    close *= close
    close *= close
    fade += close
    fade *= 0.5
    return np.asarray(seen * fade)


def _in_window(query: Query, wanted: Target) -> Matrix:
    """near of the best frame that stands in the window anyway, [points]."""
    if not len(query.visible):
        return np.zeros(len(wanted.flat))
    frames = Candidates.of(query.visible[:, None], query.fov, query.aspect)
    return np.asarray(_near(frames, wanted, query.view_range).max(0))
