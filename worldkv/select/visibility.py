"""Selection by overlap of views, with walls: a chunk shows only what its own depth maps do not hide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldkv.pose import Matrix
from worldkv.select.depths import predict, shows, unproject
from worldkv.select.greedy import Worth, grow
from worldkv.select.overlap import GRID, Coverage
from worldkv.select.seam import Choice, Query
from worldkv.views import Candidates, Target, detour, target

MAP = {"columns": 8, "rows": 6}
"""Texels of the depth maps that are predicted for the coming frames."""


class Visibility:
    """The set of candidates that together show most of what the window lacks, and that walls do not hide."""

    def __init__(
        self,
        worth: Worth | None = None,
        shortlist: int = 256,
        slack: float = 1.0,
        fade: bool = True,
        surface: bool = True,
        hide: bool = True,
        cells: dict[str, int] = MAP,
        hide_slack: float = 1.0,
    ) -> None:
        self.worth, self.shortlist = worth or Worth(), shortlist
        self._coarse = Coverage(shortlist=shortlist)
        self.slack, self.fade, self.surface, self.hide, self.cells, self.hide_slack = (
            slack,
            fade,
            surface,
            hide,
            cells,
            hide_slack,
        )

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        rows = self._coarse._shortlist(query, candidates)
        if not len(rows) or k <= 0:
            return []
        some = candidates.take(rows)
        wanted = self._wanted(query, some)
        near = self._near(some, wanted, query.view_range)
        return grow(rows, near, 1 - self._in_window(query, wanted), self.worth, k, spares)

    def _wanted(self, query: Query, some: Candidates) -> Target:
        grid = target(query.poses, query.fov, query.aspect, query.view_range, **GRID)
        frames = len(query.poses)
        depth = predict(some, query.poses, query.fov, query.aspect, query.view_range, **self.cells)
        sources = np.repeat(grid.sources, grid.points.shape[1], 0)
        points = grid.flat
        if self.hide:
            own = Candidates.of(query.poses[:, None], query.fov, query.aspect)
            own = replace(own, depth=depth[:, None])
            free = shows(own, points, query.view_range, self.hide_slack)[
                np.repeat(np.arange(frames), grid.points.shape[1]), np.arange(len(points))
            ]
            if free.any():
                sources, points = sources[free], points[free]
        if self.surface:
            known = np.isfinite(depth)
            lens = np.full(frames, query.fov), np.full(frames, query.aspect)
            at = unproject(np.where(known, depth, 1), query.poses, *lens)[known]
            sources = np.concatenate([sources, np.repeat(query.poses[:, :3, 3], known.sum((1, 2)), 0)])
            points = np.concatenate([points, at])
        return Target(sources, points[:, None])

    def _near(self, some: Candidates, wanted: Target, reach: float) -> Matrix:
        seen = shows(some, wanted.flat, reach, self.slack)
        if not self.fade:
            return seen.astype(np.float64)
        fade = np.exp(detour(some.translation, wanted, np.float32) / -reach)
        return np.asarray(seen * (fade + fade**8) / 2)

    def _in_window(self, query: Query, wanted: Target) -> Matrix:
        if not len(query.visible):
            return np.zeros(len(wanted.flat))
        frames = Candidates.of(query.visible[:, None], query.fov, query.aspect)
        return np.asarray(self._near(frames, wanted, query.view_range).max(0))
