"""Small depth maps: what stands before a point, and what stored maps say will come into view."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldkv.pose import Matrix
from worldkv.views import EDGE, Candidates

Floats = NDArray[np.floating]


def shows(
    views: Candidates, points: Matrix, reach: float, slack: float = 1.0, dtype: DTypeLike = np.float32
) -> NDArray[np.bool_]:
    """Which points [points, 3] at least one frame of each view truly shows, [n, points].

    As `worldkv.views.sees`, but a point that lies behind what the frame's depth map holds there is hidden. The map is
    read between its texels, linearly in 1 / depth, in which planes are linear. A point counts as hidden where it is
    farther away than the map by more than `slack` half texels: by so much a surface that lies at 45 degrees may change
    within half a texel. Where the map is unknown nothing hides anything.
    """
    n, frames = views.poses.shape[:2]
    local = _local(views.poses.reshape(-1, 4, 4), points, dtype).reshape(n, frames, 3, -1)
    x, y, z = (local[:, :, axis] for axis in range(3))
    edge = EDGE * reach
    tangent = np.tan(views.fov / 2).astype(dtype)[:, None, None]
    tall = tangent * views.aspect.astype(dtype)[:, None, None]
    seen = (np.abs(x) <= z * tangent + edge) & (np.abs(y) <= z * tall + edge) & (z <= reach + edge) & (z > 0)
    if views.depth is not None:
        chunk, frame, point = np.nonzero(seen)
        distance = z[chunk, frame, point]
        across = x[chunk, frame, point] / (distance * tangent[chunk, 0, 0])
        down = y[chunk, frame, point] / (distance * tall[chunk, 0, 0])
        nearness = _read(views.depth, chunk * frames + frame, across, down)
        texel = slack * tangent[chunk, 0, 0] / views.depth.shape[-1]
        seen[chunk, frame, point] = ~(nearness * distance * (1 - texel) > 1)  # where unknown, not hidden
    return np.asarray(seen.any(1))


def predict(
    views: Candidates, poses: Matrix, fov: float, aspect: float, reach: float, columns: int, rows: int
) -> Floats:
    """What stored maps say lies before the cameras `poses` [m, 4, 4]: depth maps [m, rows, columns], NaN where unknown.

    Each texel of a stored map is a point in the world; each cell of a predicted map holds the nearest of the points
    that fall into it.
    """
    m = len(poses)
    nearest = np.full(m * rows * columns, np.inf, np.float32)
    if views.depth is None:
        return np.full((m, rows, columns), np.nan, np.float32)
    points = _surfaces(views, reach)
    local = _local(poses, points, np.float32)
    x, y, z = (local[:, axis] for axis in range(3))
    tangent = np.float32(np.tan(fov / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        across, down = x / (z * tangent), y / (z * tangent * np.float32(aspect))
    seen = (z > 0) & (z <= reach) & (np.abs(across) < 1) & (np.abs(down) < 1)
    camera, point = np.nonzero(seen)
    column = ((across[camera, point] + 1) / 2 * columns).astype(np.int64)
    row = ((down[camera, point] + 1) / 2 * rows).astype(np.int64)
    np.minimum.at(nearest, (camera * rows + row) * columns + column, z[camera, point])
    return np.where(np.isinf(nearest), np.float32(np.nan), nearest).reshape(m, rows, columns)


def unproject(depth: Floats, poses: Matrix, fov: Matrix, aspect: Matrix) -> Matrix:
    """Points in the world [n, rows, columns, 3] of depth maps [n, rows, columns]; fov and aspect are [n]."""
    rows, columns = depth.shape[-2:]
    tangent = np.tan(fov / 2)[:, None, None]
    x = ((np.arange(columns) + 0.5) / columns * 2 - 1) * tangent
    y = ((np.arange(rows) + 0.5) / rows * 2 - 1)[:, None] * tangent * aspect[:, None, None]
    ray = np.stack(np.broadcast_arrays(x, y, np.ones_like(depth)), -1) * depth[..., None]
    turn, centre = poses[:, None, :3, :3], poses[:, None, None, :3, 3]
    return np.asarray(ray @ turn.swapaxes(-1, -2) + centre)


def _surfaces(views: Candidates, reach: float) -> Matrix:
    """Points [points, 3] on the surfaces that maps of the views hold, as far as views reach."""
    assert views.depth is not None, "asked only where there are maps"
    _, frames, rows, columns = views.depth.shape
    depth = views.depth.reshape(-1, rows, columns)
    known = np.isfinite(depth) & (depth <= reach)
    fov, aspect = np.repeat(views.fov, frames), np.repeat(views.aspect, frames)
    points = unproject(np.where(known, depth, 0), views.poses.reshape(-1, 4, 4), fov, aspect)
    return np.asarray(points[known])


def _local(poses: Matrix, points: Matrix, dtype: DTypeLike) -> Floats:
    """Points [points, 3] as cameras [m, 4, 4] have them: [m, 3, points]."""
    origin = points.mean(0) if len(points) else np.zeros(3)
    inverse = poses[:, :3, :3].swapaxes(-1, -2)
    offset = (inverse @ (poses[:, :3, 3] - origin)[..., None]).astype(dtype)
    turned = inverse.astype(dtype, order="C").reshape(-1, 3) @ (points - origin).astype(dtype).T
    return np.asarray(turned.reshape(len(poses), 3, -1) - offset)


def _read(depth: NDArray[np.float32], frame: NDArray[np.int64], across: Floats, down: Floats) -> Floats:
    """1 / depth of maps [..., rows, columns] at places -1..1 of a frame, between texels; NaN where unknown."""
    rows, columns = depth.shape[-2:]
    with np.errstate(divide="ignore"):
        nearness = np.minimum(1 / depth.reshape(-1, rows, columns), np.float32(1e6))
    column = np.clip((across + 1) / 2 * columns - 0.5, 0, columns - 1)
    row = np.clip((down + 1) / 2 * rows - 0.5, 0, rows - 1)
    left, top = column.astype(np.int64), row.astype(np.int64)
    right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
    across, down = column - left, row - top
    upper = nearness[frame, top, left] * (1 - across) + nearness[frame, top, right] * across
    lower = nearness[frame, bottom, left] * (1 - across) + nearness[frame, bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down)
