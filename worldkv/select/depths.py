"""Small depth maps: what they hide, and what they say of a view from elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldkv.pose import Matrix
from worldkv.views import EDGE, Candidates, sees

HALF_TEXELS = 1.0
"""How much deeper than a map a point may lie and still be seen, in half widths of a texel: by so much the depth of a
surface at 45 degrees changes between the middle of a texel and its edge."""
NEAREST = np.float32(1e6)
"""Largest 1 / depth: a surface in the camera itself."""

Floats = NDArray[np.floating]
Places = NDArray[np.int64]


def shows(views: Candidates, points: Matrix, reach: float, dtype: DTypeLike = np.float64) -> NDArray[np.bool_]:
    """Which points [points, 3] at least one frame of each view shows, [n, points]: as `worldkv.views.sees`, with walls.

    Maps are read between the middles of their texels, linearly in 1 / depth, in which planes are linear. A point that
    lies deeper than that by more than `HALF_TEXELS` is hidden. Where a map is not known it hides nothing.

    reach  how far views reach along their axis, units
    dtype  to compute in
    """
    if views.depth is None:
        return sees(views, points, reach, dtype)
    n, frames = views.poses.shape[:2]
    x, y, z = _local(views.poses.reshape(-1, 4, 4), points, dtype)
    tangent = np.repeat(np.tan(views.fov / 2), frames).astype(dtype)
    tall = np.repeat(np.tan(views.fov / 2) * views.aspect, frames).astype(dtype)
    edge = EDGE * reach
    x, y = x / tangent[:, None], y / tall[:, None]
    seen = (z >= 0) & (z <= reach + edge) & (np.maximum(np.abs(x), np.abs(y)) - z <= edge)
    frame, point = np.nonzero(seen)
    deep = np.maximum(z[frame, point], edge)
    across, down = x[frame, point] / deep, y[frame, point] / deep
    nearness = _nearness(views.depth.reshape(n * frames, *views.depth.shape[2:]), frame, across, down)
    allowed = 1 - HALF_TEXELS / views.depth.shape[-1] * tangent[frame]
    seen[frame, point] = ~(nearness * deep * allowed > 1)  # NaN, where nothing is known, hides nothing
    return np.asarray(seen.reshape(n, frames, -1).any(1))


def surfaces(views: Candidates, reach: float) -> list[Matrix]:
    """Points [points, 3] on the surfaces in the maps of each view, no deeper than views reach; it has maps."""
    assert views.depth is not None, "asked only where there are maps"
    n, _, rows, columns = views.depth.shape
    tangent = np.tan(views.fov / 2)[:, None, None, None]
    x = np.broadcast_to(((np.arange(columns) + 0.5) / columns * 2 - 1) * tangent, (n, 1, rows, columns))
    y = ((np.arange(rows) + 0.5) / rows * 2 - 1)[:, None] * tangent * views.aspect[:, None, None, None]
    y = np.broadcast_to(y, x.shape)
    known = np.isfinite(views.depth) & (views.depth <= reach)
    depth = np.where(known, views.depth, 0)[..., None]
    ray = np.stack([x, y, np.ones_like(x)], -1)
    turn, centre = views.poses[:, :, None, :3, :3], views.poses[:, :, None, None, :3, 3]
    points = depth * (ray @ turn.swapaxes(-1, -2)) + centre
    return [each[there] for each, there in zip(points, known, strict=True)]


def predicted(
    poses: Matrix, fov: float, aspect: float, reach: float, views: Candidates, columns: int, rows: int
) -> NDArray[np.float32] | None:
    """Depth maps [m, rows, columns] of the frames `poses` [m, 4, 4] as far as maps of other views tell, NaN where not.

    Each texel of a map of the views is a point; each cell holds the depth of the nearest of the points that fall into
    it. None where no view has a surface within reach.
    """
    points = np.concatenate(surfaces(views, reach)) if views.depth is not None and len(views) else np.empty((0, 3))
    if not len(points):
        return None
    x, y, z = _local(poses, points, np.float32)
    tangent = np.float32(np.tan(fov / 2))
    camera, point = np.nonzero((z > 0) & (z <= reach) & (np.abs(x) < z * tangent) & (np.abs(y) < z * tangent * aspect))
    deep = z[camera, point]
    column = ((x[camera, point] / (deep * tangent) + 1) / 2 * columns).astype(np.int64).clip(0, columns - 1)
    row = ((y[camera, point] / (deep * tangent * aspect) + 1) / 2 * rows).astype(np.int64).clip(0, rows - 1)
    nearest = np.full(len(poses) * rows * columns, np.inf, np.float32)
    np.minimum.at(nearest, (camera * rows + row) * columns + column, deep)
    nearest[np.isinf(nearest)] = np.nan
    return nearest.reshape(len(poses), rows, columns)


def _local(poses: Matrix, points: Matrix, dtype: DTypeLike) -> Floats:
    """Points [points, 3] as cameras [m, 4, 4] have them: [3, m, points]."""
    origin = points.mean(0)
    inverse = poses[:, :3, :3].swapaxes(-1, -2)
    offset = np.einsum("mij,mj->im", inverse, poses[:, :3, 3] - origin).astype(dtype)
    turn = inverse.swapaxes(0, 1).astype(dtype, order="C")
    return np.asarray(turn @ (points - origin).astype(dtype).T - offset[..., None])


def _nearness(depth: NDArray[np.float32], frame: Places, across: Floats, down: Floats) -> Floats:
    """1 / depth of maps [m, rows, columns] at places -1..1 of some frames, between texels; NaN where not known.

    Beyond the middles of the outermost texels a map goes on as it ends.
    """
    rows, columns = depth.shape[1:]
    column = np.clip((across + 1) / 2 * columns - 0.5, 0, columns - 1)
    row = np.clip((down + 1) / 2 * rows - 0.5, 0, rows - 1)
    left, top = column.astype(np.int64), row.astype(np.int64)
    right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
    column -= left
    row -= top

    texels, first = depth.ravel(), frame * (rows * columns)

    def read(row: Places, column: Places) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(np.minimum(1 / texels[first + row * columns + column], NEAREST))

    upper = read(top, left) * (1 - column) + read(top, right) * column
    lower = read(bottom, left) * (1 - column) + read(bottom, right) * column
    return np.asarray(upper * (1 - row) + lower * row)
