"""Camera poses: camera-to-world, OpenCV axes (x right, y down, z forward), world units.

All functions are pure and take any leading batch shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldkv.errors import InvalidPose

RIGID_TOLERANCE = 1e-4
"""How far R^T R may be from the identity, and det R from 1, by absolute value."""

MAX_UNITS = 1e9
"""How far a camera may be from the origin along an axis, world units: squares of distances stay finite."""

Matrix = NDArray[np.float64]

_LAST_ROW, _IDENTITY = np.array((0.0, 0.0, 0.0, 1.0)), np.eye(3)


@dataclass(frozen=True, eq=False)
class Pose:
    """A checked camera pose.

    matrix [4, 4] float64, read-only: camera-to-world.

    Raises InvalidPose if it is not finite, not 4 x 4, or not a rotation and a translation.
    """

    matrix: Matrix

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        check(matrix)
        if matrix.shape != (4, 4):
            raise InvalidPose(f"a pose is one 4 x 4 matrix, got shape {matrix.shape}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def translation(self) -> Matrix:
        """Camera centre [3], world units."""
        return self.matrix[:3, 3]

    @property
    def rotation(self) -> Matrix:
        """Camera axes in the world, as columns [3, 3]."""
        return self.matrix[:3, :3]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pose) and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.matrix.tobytes())


def check(matrices: ArrayLike) -> Matrix:
    """The matrices [..., 4, 4] as float64, or InvalidPose if one is not a finite rigid motion within `MAX_UNITS`."""
    m = np.asarray(matrices, np.float64)
    if m.shape[-2:] != (4, 4):
        raise InvalidPose(f"poses have shape [..., 4, 4], got {m.shape}")
    largest = np.abs(m).max(initial=0.0)
    if not largest <= MAX_UNITS:  # also where it is NaN; no product below can overflow
        if not np.isfinite(largest):
            raise InvalidPose(f"a pose must be finite, got {np.count_nonzero(~np.isfinite(m))} values that are not")
        if (far := np.abs(m[..., :3, 3]).max()) > MAX_UNITS:
            raise InvalidPose(f"a camera stands within {MAX_UNITS:.3g} units of the origin, got {far:.3g}")
        raise InvalidPose(f"a pose must hold a rotation, got numbers up to {largest:.3g}")
    if np.abs(m[..., 3, :] - _LAST_ROW).max(initial=0.0) > RIGID_TOLERANCE:
        raise InvalidPose("the last row of a pose must be 0 0 0 1")
    r = m[..., :3, :3]
    off = np.abs(r.swapaxes(-1, -2) @ r - _IDENTITY).max(initial=0.0)
    if off > RIGID_TOLERANCE:
        raise InvalidPose(f"a pose must hold a rotation, R^T R is off the identity by {off:.3g}")
    if r.size and np.linalg.det(r).min() < 0:
        raise InvalidPose("a pose must hold a proper rotation, got a reflection (determinant -1)")
    return m


def camera(x: float, y: float, z: float, yaw: float = 0.0, pitch: float = 0.0) -> Matrix:
    """Camera-to-world matrix [4, 4] at a point; yaw to the right and pitch upwards, degrees.

    Yaw turns about the world's y axis, pitch about the camera's own x axis.
    """
    cy, sy, cp, sp = cos(radians(yaw)), sin(radians(yaw)), cos(radians(pitch)), sin(radians(pitch))
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    pose[:3, 3] = x, y, z
    return pose


def stack(poses: Sequence[Pose]) -> Matrix:
    """The matrices of poses as one array [poses, 4, 4]."""
    return np.stack([p.matrix for p in poses]) if poses else np.empty((0, 4, 4))


def distance(a: Matrix, b: Matrix) -> Matrix:
    """Distance of the camera centres of [..., 4, 4] and [..., 4, 4], world units."""
    return np.asarray(np.linalg.norm(a[..., :3, 3] - b[..., :3, 3], axis=-1))


def angle(a: Matrix, b: Matrix) -> Matrix:
    """Angle between two rotations [..., 3, 3], radians in 0..pi: arccos((trace(A^T B) - 1) / 2).

    The matrices may be means of rotations (WorldKV averages the frames of a chunk so), hence the clip.
    """
    trace = np.einsum("...ij,...ij->...", a, b)
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
