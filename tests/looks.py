"""Chunks and queries to choose by: drawn by hand or at random."""

import numpy as np
from hypothesis import strategies as st

from worldkv.pose import Matrix, camera
from worldkv.select import Candidates, Query

FOV, ASPECT, RANGE = np.radians(65), 0.75, 8.0
MAP = (6, 8)
"""Rows and columns of depth maps."""
LENGTH = 5
"""Values of a descriptor."""


def chunk(x: float = 0.0, z: float = 0.0, yaw: float = 0.0, turn: float = 0.0, step: float = 0.0) -> Matrix:
    """Poses [3, 4, 4] of a chunk that begins at (x, z), turning and going on to the right."""
    return np.stack([camera(x + step * i, 0, z, yaw + turn * i) for i in range(3)])


def chunks(*poses: Matrix, depth: np.ndarray | None = None, descriptor: np.ndarray | None = None) -> Candidates:
    return Candidates.of(np.stack(poses), FOV, ASPECT, depth=depth, descriptor=descriptor)


def look(poses: Matrix, visible: Matrix | None = None, descriptor: np.ndarray | None = None) -> Query:
    none = np.empty(0, np.float32)
    seen = np.empty((0, 4, 4)) if visible is None else visible
    return Query(poses, FOV, ASPECT, RANGE, seen, none if descriptor is None else descriptor)


def world(
    seed: int, n: int, spread: float = 4.0, depth: str = "none", descriptor: str = "none", asked: bool = True
) -> tuple[Candidates, Query]:
    """Random chunks and a random query, in three dimensions, with some frames in the window.

    depth, descriptor  whether "none", "some" or "all" of the chunks have them
    asked              whether the query has a descriptor, where chunks have
    """
    rng = np.random.default_rng(seed)

    def some(frames: int) -> Matrix:
        (x, y, z), yaw, pitch = rng.uniform(-spread, spread, 3), rng.uniform(0, 360), rng.uniform(-20, 20)
        return np.stack([camera(x + 0.1 * i, y, z, yaw + 9 * i, pitch) for i in range(frames)])

    poses, fov = [some(3) for _ in range(n)], rng.uniform(0.8, 1.6, n)
    query = look(some(3), some(2) if n % 2 else None)
    maps = rng.uniform(0.5, 12, (n, 3, *MAP)).astype(np.float32)
    maps[rng.random(maps.shape) < 0.05] = np.inf
    vectors = rng.normal(size=(n + 1, LENGTH)).astype(np.float32)
    if depth == "some":
        maps[rng.random(n) < 0.5] = np.nan
    if descriptor == "some":
        vectors[:-1][rng.random(n) < 0.5] = np.nan
    candidates = Candidates.of(
        poses,
        fov,
        ASPECT,
        depth=None if depth == "none" else maps,
        descriptor=None if descriptor == "none" else vectors[:-1],
    )
    known = asked and descriptor != "none"
    return candidates, look(query.poses, query.visible, vectors[-1] if known else None)


worlds = st.builds(world, st.integers(0, 10**6), st.integers(1, 40))
_how_many = st.sampled_from(["none", "some", "all"])
described = st.builds(
    world,
    st.integers(0, 10**6),
    st.integers(1, 40),
    depth=_how_many,
    descriptor=_how_many,
    asked=st.booleans(),
)
"""The same with depth maps and descriptors."""
