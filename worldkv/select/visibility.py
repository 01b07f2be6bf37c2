"""Selection by overlap of views, with walls: a chunk shows only what its own depth maps do not hide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldkv.pose import Matrix
from worldkv.select.depths import predicted, shows, surfaces
from worldkv.select.overlap import Coverage
from worldkv.select.seam import Query
from worldkv.views import Candidates, Target

CELLS = {"columns": 12, "rows": 8}
"""Texels of the depth maps that are predicted for the coming frames."""


class Visibility(Coverage):
    """As `Coverage`, but with walls, where candidates have depth maps.

    A frame shows no point that lies behind what its map holds there, see `worldkv.select.depths.shows`. Frames
    without a map, and places where a map is not known, hide nothing; nor do the frames of the window, which have none.

    What the coming frames will look at is not known, but often told by what the candidates saw: of all points on
    surfaces in their maps, those nearest to a coming frame make a map of what it will see. Wanted are the points of
    that map, and the points of the grid: what lies before a surface is seen by who sees the surface from here, and
    for what lies behind it only a candidate behind it counts, from far off the lines of sight, and so for little.
    Without any depth map this chooses as `Coverage` does.
    """

    def _wanted(self, query: Query, some: Candidates) -> Target:
        grid = super()._wanted(query, some)
        depth = predicted(query.poses, query.fov, query.aspect, query.view_range, some, **CELLS)
        if depth is None:
            return grid
        frames = replace(Candidates.of(query.poses[:, None], query.fov, query.aspect), depth=depth[:, None])
        found = surfaces(frames, query.view_range)
        points = [np.concatenate(both) for both in zip(grid.points, found, strict=True)]
        sources = np.repeat(grid.sources, [len(each) for each in points], 0)
        return Target(sources, np.concatenate(points)[:, None])

    def _sees(self, some: Candidates, points: Matrix, reach: float, dtype: DTypeLike) -> NDArray[np.bool_]:
        return shows(some, points, reach, dtype if some.depth is None else np.float32)  # no maps are finer
