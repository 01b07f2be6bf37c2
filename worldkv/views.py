"""Many views as arrays, and what they see of the points of another view.

A view is a camera pose with a field of view and a reach: a pyramid of space that the camera looks into. Walls are
not known here, so what is said to be seen is what would be seen in empty space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix

EDGE = 1e-6
"""Widening of a view's edges, as a share of its reach: a point on an edge is seen, however it is rounded."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The chunks that may be chosen, in order of time, as arrays.

    index        [n] int64: chunk numbers, rising
    poses        [n, frames, 4, 4] float64: camera-to-world
    translation  [n, 3] float64: mean camera centre of the frames
    rotation     [n, 3, 3] float64: mean rotation of the frames, not made a rotation again (as the paper does)
    fov          [n] float64: horizontal field of view, radians
    aspect       [n] float64: height of the picture over its width
    depth        [n, frames, h, w] float32: small depth maps along the viewing axis, units, infinite where there is
                 nothing and NaN where none is known; None: no chunk has any
    descriptor   [n, d] float32: what selectors that compare content compare, NaN where none is known; None: no chunk
                 has any
    """

    index: NDArray[np.int64]
    poses: Matrix
    translation: Matrix
    rotation: Matrix
    fov: Matrix
    aspect: Matrix
    depth: NDArray[np.float32] | None = field(default_factory=lambda: None)  # no attribute of the class, for _Joined
    descriptor: NDArray[np.float32] | None = field(default_factory=lambda: None)

    @classmethod
    def of(
        cls,
        poses: ArrayLike,
        fov: ArrayLike,
        aspect: ArrayLike,
        index: ArrayLike | None = None,
        depth: NDArray[np.float32] | None = None,
        descriptor: NDArray[np.float32] | None = None,
    ) -> Candidates:
        """Candidates of poses [n, frames, 4, 4], numbered from 0 if not told otherwise; fov and aspect may be shared.

        Raises InvalidInput for another shape.
        """
        p = np.asarray(poses, np.float64)
        if p.ndim != 4 or p.shape[2:] != (4, 4) or not p.shape[1]:
            raise InvalidInput(f"candidates have poses [n, frames, 4, 4], got {p.shape}")
        n = len(p)
        numbers = np.arange(n) if index is None else np.asarray(index, np.int64)
        if len(numbers) != n:
            raise InvalidInput(f"{n} candidates but {len(numbers)} chunk numbers")
        fovs, aspects = (np.broadcast_to(np.asarray(v, np.float64), (n,)) for v in (fov, aspect))
        return cls(numbers, p, _mean(p[..., :3, 3]), _mean(p[..., :3, :3]), fovs, aspects, depth, descriptor)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def parts(self) -> Sequence[Candidates]:
        """The same chunks in stretches whose arrays are at hand, one after the other: some can work on each alone."""
        return (self,)

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Candidates:
        """Some of them; a slice is not copied."""
        return Candidates(
            *(column[rows] for column in self.columns),
            *(None if extra is None else extra[rows] for extra in self.extras),
        )

    def middle(self) -> Candidates:
        """The same chunks by their middle frame alone, not copied."""
        middle = self.poses.shape[1] // 2
        one = slice(middle, middle + 1)
        return replace(self, poses=self.poses[:, one], depth=None if self.depth is None else self.depth[:, one])

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The arrays that every chunk has a row in, in the order of the fields."""
        return self.index, self.poses, self.translation, self.rotation, self.fov, self.aspect

    @property
    def extras(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """What chunks may lack: depth, descriptor."""
        return self.depth, self.descriptor


class _Joined(Candidates):
    """Candidates of several parts. A column is put together when it is first asked for: few selectors ask for all."""

    _parts: tuple[Candidates, ...]

    @property
    def parts(self) -> Sequence[Candidates]:
        return self._parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Candidates:
        """Some of them, from each part its own: the others' are not looked at."""
        rows = np.arange(len(self))[rows]
        ends = np.cumsum([len(part) for part in self._parts])
        part = np.searchsorted(ends, rows, "right")
        order = np.argsort(part, kind="stable")
        parts = [self._parts[i].take(rows[part == i] - (ends[i - 1] if i else 0)) for i in np.unique(part)]
        found = join(parts) if parts else self._parts[0].take(rows)
        back = np.argsort(order)
        return found if len(parts) < 2 else Candidates.take(found, back)

    def middle(self) -> Candidates:
        return join([part.middle() for part in self._parts])

    def __getattr__(self, name: str) -> Any:
        if name == "_parts" or name not in self.__dataclass_fields__:
            raise AttributeError(name)
        columns = [getattr(part, name) for part in self._parts]
        if name in ("depth", "descriptor"):
            column = _joined(columns, [len(part) for part in self._parts])
        else:
            column = np.concatenate(columns)
        object.__setattr__(self, name, column)
        return column


def join(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of several parts, one after the other, not copied before they are looked at; at least one part.

    Raises InvalidInput where the chunks have different numbers of frames, or depth maps or descriptors of other shapes.
    """
    if len(parts) == 1:
        return parts[0]
    if len(frames := {p.poses.shape[1] for p in parts}) > 1:
        raise InvalidInput(f"chunks of one world have equally many frames, got {sorted(frames)}")
    for what, extras in zip(("depth maps", "descriptors"), zip(*(p.extras for p in parts), strict=True), strict=True):
        if len(shapes := {extra.shape[1:] for extra in extras if extra is not None}) > 1:
            raise InvalidInput(f"{what} of one world have one shape, got {sorted(shapes)}")
    joined = object.__new__(_Joined)
    object.__setattr__(joined, "_parts", tuple(parts))
    return joined


def _mean(values: Matrix) -> Matrix:
    """Mean over the frames of [n, frames, ...], added one after the other: the same however many chunks there are."""
    total = values[:, 0].copy()
    for frame in range(1, values.shape[1]):
        total += values[:, frame]
    total /= values.shape[1]
    return total


def _joined(extras: Sequence[NDArray[np.float32] | None], lengths: Sequence[int]) -> NDArray[np.float32] | None:
    """Rows of several parts one after the other, NaN for the parts that have none; None if no part has any."""
    shape = next((extra.shape[1:] for extra in extras if extra is not None), None)
    if shape is None:
        return None
    rows = [np.full((n, *shape), np.nan, np.float32) if e is None else e for e, n in zip(extras, lengths, strict=True)]
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Target:
    """Points of views, wanted from elsewhere.

    sources  [views, 3] float64: camera centres
    points   [views, points, 3] float64: what each camera looks at, in the world
    """

    sources: Matrix
    points: Matrix

    @property
    def flat(self) -> Matrix:
        """All points [views * points, 3]."""
        return self.points.reshape(-1, 3)


def target(poses: Matrix, fov: float, aspect: float, reach: float, columns: int, rows: int, depths: int) -> Target:
    """A fixed grid of points in each view: midpoints of equal strata of its width, its height and its depth.

    poses   [views, 4, 4]
    fov     horizontal, radians; aspect: height over width
    reach   depth of the views along their axis, units
    """

    def midpoints(n: int) -> Matrix:
        return (np.arange(n) + 0.5) / n

    tangent = np.tan(fov / 2)
    z = midpoints(depths) * reach
    x = (midpoints(columns) * 2 - 1)[:, None, None] * tangent * z
    y = (midpoints(rows) * 2 - 1)[None, :, None] * tangent * aspect * z
    grid = np.empty((columns, rows, depths, 3))
    grid[..., 0], grid[..., 1], grid[..., 2] = x, y, z
    local = grid.reshape(-1, 3)
    sources = poses[:, :3, 3]
    return Target(sources, local @ poses[:, :3, :3].swapaxes(-1, -2) + sources[:, None])


def square(points: NDArray[np.floating], of: NDArray[np.floating]) -> NDArray[np.floating]:
    """Squared distances [n] of points [n, 3] from another, [3], or each from its own, [n, 3].

    Axis by axis: numpy is slow at sums over an axis as short as this.
    """
    x, y, z = (points[..., axis] - of[..., axis] for axis in range(3))
    return np.asarray(x * x + y * y + z * z)


class Cameras:
    """Views as matrices that bring points before their frames, to be asked more than once.

    origin  [3] float64: about where the points are, so that float32 is off by no more than 1e-6 of the distances
    reach   how far views reach along their axis, units
    dtype   to compute in: float32 is twice as fast
    """

    def __init__(self, views: Candidates, origin: Matrix, reach: float, dtype: DTypeLike = np.float64) -> None:
        self.origin, self.reach = origin, reach
        n, frames = views.poses.shape[:2]
        tangent = np.tan(views.fov / 2)
        lens = np.stack([1 / tangent, 1 / (tangent * views.aspect), np.ones(n)])[:, None]
        pose = views.poses.transpose(1, 3, 2, 0)
        matrices = np.empty((frames, 3, 4, n))  # x and y as shares of half the picture at depth 1
        np.multiply(pose[:, :3, :3], lens, out=matrices[:, :, :3])
        matrices[:, :, 3] = -(matrices[:, :, :3] * (pose[:, 3, None, :3] - origin[:, None])).sum(2)
        self._matrices = matrices.astype(dtype)

    def see(self, points: Matrix, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Which points [points, 3] at least one frame of each view, or of the views of some rows, sees, [n, points]."""
        matrices = self._matrices if rows is None else self._matrices.take(rows, -1)
        at = np.ones((len(points), 4), matrices.dtype)
        at[:, :3] = points - self.origin
        slack = EDGE * self.reach
        seen = np.zeros((len(points), matrices.shape[-1]), bool)  # views last: numpy's inner loops are long then
        for frame in matrices:
            x, y, z = at @ frame
            outside = np.maximum(np.abs(x, out=x), np.abs(y, out=y), out=x)
            outside -= z
            seen |= (outside <= slack) & (z <= self.reach + slack) & (z >= 0)
        return seen.T


def sees(views: Candidates, points: Matrix, reach: float, dtype: DTypeLike = np.float64) -> NDArray[np.bool_]:
    """Which points [points, 3] at least one frame of each view sees, [n, points]; see `Cameras`."""
    return Cameras(views, points.mean(0), reach, dtype).see(points)


def detour(centres: Matrix, wanted: Target, dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
    """Distance of each camera centre from each line of sight, [n, views * points], units.

    centres  [n, 3] float64
    wanted   its lines of sight are the segments from a source to each of its points

    Where a line of sight is free, so is what lies close to it: the nearer a camera stands to the line, the surer
    it is that it sees the point too.
    """
    origin = wanted.sources.mean(0)
    c, source = (centres - origin).astype(dtype).T, (wanted.sources - origin).astype(dtype)
    sight = (wanted.points - wanted.sources[:, None]).astype(dtype)
    length = np.linalg.norm(sight, axis=-1)[..., None]
    direction = sight / length
    along = (direction.reshape(-1, 3) @ c).reshape(*length.shape[:2], -1)  # [views, points, n]: long inner loops
    along -= direction @ source[..., None]
    nearest = np.clip(along, 0, length)
    along *= -2
    along += nearest
    along *= nearest
    along += np.stack([square(c.T, each) for each in source])[:, None]
    return np.asarray(np.sqrt(np.maximum(along, 0, out=along), out=along).reshape(-1, len(centres)).T)
