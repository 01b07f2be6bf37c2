"""Walks through large worlds of rooms, and the exact truth of which ground each frame sees.

A world is a square of `SIDE` units, cut into a grid of rooms by walls of no thickness and any height; doors join the
rooms. The truth is looked up: every point of a lattice on the ground is tested against every frame of a walk by a ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import cos, hypot, radians, sin, tan

import numpy as np
from numpy.typing import NDArray

from benchmarks.select_sim import MAP, cast, walls_at
from pocket.rooms import Rooms, clearance, slide
from pocket.walks import STEP, TURN, camera
from worldkv.pose import Matrix
from worldkv.select import Candidates, Query

SIDE = 20.0
"""World side, units."""
CUTS = 3
"""Rooms along each side."""
DOOR = 1.5
"""Door width, units."""
FOV, ASPECT, RANGE = radians(70), 0.75, 8.0
FRAMES, RECENT, STEPS = 3, 6, 600
"""Frames of a chunk, of the recent window and of a walk."""
EVERY, FIRST = 3, 20
"""Chunks between two questions, and the first that is asked about."""
SPACING = 0.4
"""Units between lattice points."""
WORTH = 0.05
"""A question counts if at least this share of the view can be brought back."""


def halls(seed: int) -> Rooms:
    """The world of a seed: a grid of rooms with jittered walls, all of which can be reached, by doors between some."""
    rng = np.random.default_rng(seed)
    x, z = ([0.0, *(SIDE / CUTS * i + rng.uniform(-1, 1) for i in range(1, CUTS)), SIDE] for _ in range(2))
    walls = [(0, 0.0, 0.0, SIDE), (0, SIDE, 0.0, SIDE), (1, 0.0, 0.0, SIDE), (1, SIDE, 0.0, SIDE)]
    doors: list[tuple[float, float]] = []
    joined = np.arange(CUTS * CUTS)  # rooms with the same number can be reached from each other
    between = [(axis, i, j) for axis in (0, 1) for i in range(1, CUTS) for j in range(CUTS)]
    for axis, i, j in rng.permutation(between).tolist():
        place, (begin, end) = (x, z)[axis][i], (z, x)[axis][j : j + 2]
        one, other = ((i - 1) * CUTS + j, i * CUTS + j) if axis == 0 else (j * CUTS + i - 1, j * CUTS + i)
        if joined[one] == joined[other] and rng.random() < 0.5:
            walls.append((axis, place, begin, end))
            continue
        joined[joined == joined[other]] = joined[one]
        middle = float(rng.uniform(begin + DOOR, end - DOOR))
        walls += [(axis, place, begin, middle - DOOR / 2), (axis, place, middle + DOOR / 2, end)]
        doors.append((place, middle) if axis == 0 else (middle, place))
    table, none = np.array(walls, np.float32), np.empty(0, np.float32)
    rooms = [(x[i], z[j], x[i + 1], z[j + 1]) for i in range(CUTS) for j in range(CUTS)]
    places = np.array(rooms, np.float32), np.array(doors, np.float32)
    return Rooms(seed, table[:, 0].astype(np.int64), table[:, 1], table[:, 2:], none, none, none, *places)


def open_hall(hall: Rooms) -> Rooms:
    """The same world with its four outer walls only."""
    return replace(hall, axis=hall.axis[:4], place=hall.place[:4], span=hall.span[:4])


def wander(hall: Rooms, rng: np.random.Generator) -> Matrix:
    """Poses [STEPS, 4, 4] of somebody who walks straight on for a while, looks around, and walks on from there."""
    place = rng.uniform(2, SIDE - 2, 2)
    while clearance(hall, *place.tolist()) < 0.8:
        place = rng.uniform(2, SIDE - 2, 2)
    (x, z), yaw = place.tolist(), float(rng.uniform(0, 360))
    poses: list[Matrix] = []
    while len(poses) < STEPS:
        for _ in range(int(rng.integers(5, 25))):
            poses.append(camera(x, z, yaw))
            was = x, z
            x, z = slide(hall, x, z, STEP * sin(radians(yaw)), STEP * cos(radians(yaw)))
            if hypot(x - was[0], z - was[1]) < STEP / 4:
                break
        turn = float(rng.choice([-1, 1])) * TURN
        for _ in range(int(rng.integers(3, 40))):
            yaw += turn
            poses.append(camera(x, z, yaw))
    return np.stack(poses[:STEPS])


@dataclass(frozen=True)
class Question:
    """A coming view, what may be chosen for it, and the truth.

    seen  [candidates, points]: which points of the ground that the view shows, and the window does not, each saw
    """

    query: Query
    candidates: Candidates
    seen: NDArray[np.bool_]

    def covered(self, rows: Sequence[int]) -> float:
        """Share of what can be brought back that these candidates bring."""
        return float(self.seen[list(rows)].any(0).sum() / self.seen.any(0).sum())


def questions(seed: int, walls: bool) -> Iterator[Question]:
    """The questions of one walk at which there is something to bring back. Depth maps are exact."""
    hall, rng = halls(seed), np.random.default_rng(seed)
    hall = hall if walls else open_hall(hall)
    poses = wander(hall, rng)
    chunks = poses.reshape(-1, FRAMES, 4, 4)
    shown = np.asarray(sees(hall, poses).reshape(len(chunks), FRAMES, -1).any(1))
    depth = depths(hall, poses).reshape(len(chunks), FRAMES, *MAP)
    recent = RECENT // FRAMES
    for now in range(FIRST, len(chunks), EVERY):
        old = slice(0, now - recent)
        view = shown[now] & ~shown[now - recent : now].any(0)
        seen = shown[old, view]
        if not seen.any() or seen.any(0).sum() < WORTH * shown[now].sum():
            continue
        window = chunks[now - recent : now].reshape(-1, 4, 4)
        candidates = replace(Candidates.of(chunks[old], FOV, ASPECT), depth=depth[old])
        yield Question(Query(chunks[now], FOV, ASPECT, RANGE, window), candidates, seen)


def sees(hall: Rooms, poses: Matrix) -> NDArray[np.bool_]:
    """Which lattice points each frame [frames, 4, 4] truly sees: in the picture, within range, no wall before it."""
    line = np.arange(SPACING / 2, SIDE, SPACING)
    ground = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    away = ground - poses[:, None, [0, 2], 3]
    x = (away * poses[:, [0, 2], 0][:, None]).sum(-1)
    z = (away * poses[:, [0, 2], 2][:, None]).sum(-1)
    seen = np.asarray((z > 0) & (z <= RANGE) & (np.abs(x) <= z * tan(FOV / 2)))
    for frame in range(len(poses)):
        point = np.flatnonzero(seen[frame])
        ray = away[frame, point]
        seen[frame, point] = cast(hall, np.broadcast_to(poses[frame, [0, 2], 3], ray.shape), ray)[0] >= 1
    return seen


def depths(hall: Rooms, poses: Matrix) -> NDArray[np.float32]:
    """Exact depth maps [frames, *MAP] at the middles of their texels; walls are of any height."""
    rows, columns = MAP
    return np.repeat(walls_at(hall, poses, FOV, columns)[:, None], rows, 1).astype(np.float32)
