"""How much of a coming view each selector brings back, judged by true visibility, and how long it takes to say so.

    python -m benchmarks.select_sim

Somebody roams through worlds of rooms (and the same walk with the inner walls taken away), goes through doors and
looks around. At every query the truth is found by casting rays: which pixels of the coming chunk (its lower half; the
ceiling tells nothing) are places that some stored chunk saw and that sink and recent window did not. *Seen* is the
share of these that the chosen chunks saw; *sharp* the same, each pixel counted by how finely it was seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import atan2, cos, degrees, hypot, radians, sin, tan

import numpy as np
from numpy.typing import NDArray

from benchmarks.registry import Case, bench
from pocket.rooms import FIELD_OF_VIEW, HALF_HEIGHT, SIDE, Rooms, build, free_place, slide
from pocket.walks import STEP, TURN, camera
from worldkv.evict import least_useful
from worldkv.pose import Matrix
from worldkv.select import Candidates, Coverage, Fov, Latest, Nothing, Pose, Query, Random, Selector, make_selector

FOV, ASPECT, RANGE, FRAMES = radians(FIELD_OF_VIEW), 48 / 64, 8.0, 3
SEEDS = range(1_000_000, 1_000_008)
CHUNKS, FIRST, EVERY = 300, 60, 8
"""Chunks of a walk, the first that is asked about, and how many lie between two questions."""
COLUMNS, ROWS = 12, 6
"""Pixels of a judged frame; its rows lie below the horizon."""
WORTH = 0.05
"""A question counts in the table if at least this share of the view can be brought back."""
BLIND = 0.05
"""A choice is blind if it truly shows less than this share of the view."""
MANY = 5_000
MAP = (6, 8)
"""Rows and columns of depth maps."""
SELECTORS: dict[str, Selector] = {
    "random": Random(),
    "latest": Latest(),
    "pose (the paper)": Pose(),
    "fov": Fov(),
    "coverage": Coverage(),
    "coverage, no fill": Coverage(fill=None),
    "greedy": make_selector("greedy"),
    "visibility*": make_selector("visibility"),
    "greedy_visibility*": make_selector("greedy_visibility"),
}
"""With a star: by oracle depth, the world's own in maps of `MAP` texels."""

Bools = NDArray[np.bool_]


def roam(rooms: Rooms, frames: int, rng: np.random.Generator) -> Matrix:
    """Poses [frames, 4, 4] of somebody who crosses rooms, passes doors and looks around."""
    (x, z), yaw, poses = free_place(rooms, rng), float(rng.uniform(0, 360)), []

    def go(to_x: float, to_z: float) -> None:
        nonlocal x, z, yaw
        for _ in range(80):
            way = hypot(to_x - x, to_z - z)
            if way < 0.2:
                return
            error = (degrees(atan2(to_x - x, to_z - z)) - yaw + 180) % 360 - 180
            yaw += min(max(error, -TURN), TURN)
            step = min(STEP, way) if abs(error) < 30 else 0.0
            old = x, z
            x, z = slide(rooms, x, z, step * sin(radians(yaw)), step * cos(radians(yaw)))
            poses.append(camera(x, z, yaw))
            if step and hypot(x - old[0], z - old[1]) < 0.02:
                return

    def inside(room: NDArray[np.float32], px: float, pz: float) -> bool:
        return bool(room[0] - 0.05 <= px <= room[2] + 0.05 and room[1] - 0.05 <= pz <= room[3] + 0.05)

    while len(poses) < frames:
        room = next((r for r in rooms.rooms if inside(r, x, z)), rooms.rooms[0])
        doors = [d for d in rooms.doors.tolist() if inside(room, *d)]
        if doors and rng.random() < 0.5:
            px, pz = doors[int(rng.integers(len(doors)))]
            beside = min(abs(px - room[0]), abs(px - room[2])) < 0.05  # a door in a wall x = const
            dx = 0.7 * float(np.sign(room[0] + room[2] - 2 * px)) if beside else 0.0
            dz = 0.0 if beside else 0.7 * float(np.sign(room[1] + room[3] - 2 * pz))
            go(px + dx, pz + dz)
            go(px - dx, pz - dz)
        else:
            go(float(rng.uniform(room[0] + 0.6, room[2] - 0.6)), float(rng.uniform(room[1] + 0.6, room[3] - 0.6)))
        if rng.random() < 0.6:
            turn = float(rng.choice([-1, 1]) * rng.uniform(0.6, 1) * TURN)
            for _ in range(int(rng.integers(7, 40))):
                yaw += turn
                poses.append(camera(x, z, yaw))
    return np.stack(poses[:frames])


def without_walls(rooms: Rooms) -> Rooms:
    """The same world with its four outer walls only."""
    return replace(rooms, axis=rooms.axis[:4], place=rooms.place[:4], span=rooms.span[:4], tiles=rooms.tiles[:4])


def cast(rooms: Rooms, origin: Matrix, ray: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """Length, in rays, of ground rays [rays, 2] from [rays, 2] to the first wall they meet, and that wall's axis."""
    along = rooms.axis == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (rooms.place - np.where(along, origin[:, :1], origin[:, 1:])) / np.where(along, ray[:, :1], ray[:, 1:])
        at = np.where(along, origin[:, 1:], origin[:, :1]) + t * np.where(along, ray[:, 1:], ray[:, :1])
        met = (t > 1e-4) & (at >= rooms.span[:, 0]) & (at <= rooms.span[:, 1])
    t = np.where(met, t, np.inf)
    return t.min(1), rooms.axis[t.argmin(1)]


def walls_at(rooms: Rooms, poses: Matrix, fov: float, columns: int) -> Matrix:
    """Depth of the first wall in the middle of each column of level views [n, 4, 4], [n, columns]."""
    u = ((np.arange(columns) + 0.5) / columns * 2 - 1) * tan(fov / 2)
    ray = (np.stack([u, 0 * u, 0 * u + 1], -1) @ poses[:, :3, :3].swapaxes(-1, -2))[..., [0, 2]]
    origin = np.broadcast_to(poses[:, None, [0, 2], 3], ray.shape)
    return cast(rooms, origin.reshape(-1, 2), ray.reshape(-1, 2))[0].reshape(len(poses), columns)


def depths(rooms: Rooms, poses: Matrix) -> NDArray[np.float32]:
    """Exact depth maps [n, *MAP] of views [n, 4, 4], at the middles of their texels."""
    rows, columns = MAP
    down = np.abs((np.arange(rows) + 0.5) / rows * 2 - 1) * tan(FOV / 2) * ASPECT
    wall = walls_at(rooms, poses, FOV, columns)
    return np.minimum(wall[:, None], (HALF_HEIGHT / down)[:, None]).astype(np.float32)


def pixels(rooms: Rooms, poses: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """What the pixels of views [n, 4, 4] look at, [n * pixels, 3], and the axis it is square to: 0 x, 1 z, 2 up."""
    u = ((np.arange(COLUMNS) + 0.5) / COLUMNS * 2 - 1) * tan(FOV / 2)
    down = (np.arange(ROWS) + 0.5) / ROWS * tan(FOV / 2) * ASPECT
    ray = np.stack([u, 0 * u, 0 * u + 1], -1) @ poses[:, :3, :3].swapaxes(-1, -2)
    origin = np.broadcast_to(poses[:, None, :3, 3], ray.shape)
    wall, axis = cast(rooms, origin[..., [0, 2]].reshape(-1, 2), ray[..., [0, 2]].reshape(-1, 2))
    floor = HALF_HEIGHT / down
    t = np.minimum(wall[:, None] * 0.999, floor)
    points = origin.reshape(-1, 1, 3) + t[..., None] * ray.reshape(-1, 1, 3)
    points[..., 1] = t * down
    return points.reshape(-1, 3), np.where(t < floor, axis[:, None], 2).ravel()


def fineness(poses: Matrix, points: Matrix, axis: NDArray[np.int64]) -> Matrix:
    """How finely each view would show each point, [n, points]: slant over distance."""
    away = points - poses[:, None, :3, 3]
    far = np.maximum(np.linalg.norm(away, axis=-1), 0.2)
    square = np.take_along_axis(np.abs(away), np.array([0, 2, 1])[axis][None, :, None], -1)[..., 0]
    return np.asarray(np.maximum(square / far, 0.05) / far)


def sees(rooms: Rooms, poses: Matrix, points: Matrix) -> Bools:
    """Which points [points, 3] each view [n, 4, 4] truly sees: in the picture, and no wall before it."""
    local = (points - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    x, y, z = (local[..., i] for i in range(3))
    seen = (np.abs(x) <= z * tan(FOV / 2)) & (np.abs(y) <= z * tan(FOV / 2) * ASPECT)
    view, point = np.nonzero(seen)
    origin = poses[view][:, [0, 2], 3]
    seen[view, point] = cast(rooms, origin, points[point][:, [0, 2]] - origin)[0] >= 0.995
    return seen


def judge(rooms: Rooms, poses: Matrix, points: Matrix, axis: NDArray[np.int64], finest: Matrix) -> tuple[Bools, Matrix]:
    """Which points each view sees, and how finely as a share of `finest` [points], 0..1; both [n, points]."""
    seen = sees(rooms, poses, points)
    return seen, np.where(seen, np.minimum(fineness(poses, points, axis) / finest, 1), 0)


@dataclass(frozen=True)
class Question:
    """A coming view, what may be chosen for it, and the truth.

    seen, sharp  [candidates, pixels]: which pixels each shows, and how finely compared with the coming view, 0..1
    had_seen, had_sharp  [pixels]: the same of sink and recent window
    """

    query: Query
    candidates: Candidates
    seen: Bools
    sharp: Matrix
    had_seen: Bools
    had_sharp: Matrix

    def recovered(self, rows: list[int]) -> tuple[float, float]:
        """Share of what can be brought back that these candidates bring: seen, sharp."""
        seen = [(self.seen[r].any(0) & ~self.had_seen).sum() for r in (rows, slice(None))]
        sharp = [np.maximum(self.sharp[r].max(0, initial=0) - self.had_sharp, 0).sum() for r in (rows, slice(None))]
        return float(seen[0] / max(seen[1], 1)), float(sharp[0] / max(sharp[1], 1e-9))

    @property
    def recoverable(self) -> float:
        """Share of the view that can be brought back at all."""
        return float((self.seen.any(0) & ~self.had_seen).mean())

    def best(self, k: int) -> list[int]:
        """Rows of a set that knows the truth, grown greedily."""
        had, rows = self.had_sharp, []
        for _ in range(k):
            rows.append(int(np.maximum(self.sharp - had, 0).sum(1).argmax()))
            had = np.maximum(had, self.sharp[rows[-1]])
        return rows


def questions(walls: bool) -> Iterator[Question]:
    for seed in SEEDS:
        rooms, rng = build(seed), np.random.default_rng(seed)
        chunks = roam(rooms, CHUNKS * FRAMES, rng).reshape(-1, FRAMES, 4, 4)
        rooms = rooms if walls else without_walls(rooms)
        depth = depths(rooms, chunks.reshape(-1, 4, 4)).reshape(-1, FRAMES, *MAP)
        for now in range(FIRST, len(chunks), EVERY):
            visible = np.concatenate([chunks[0], chunks[now - 1]])
            points, axis = pixels(rooms, chunks[now])
            own = np.repeat(np.eye(FRAMES, dtype=bool), COLUMNS * ROWS, 1)
            finest = fineness(chunks[now], points, axis)[own]
            seen, sharp = judge(rooms, chunks[1 : now - 1].reshape(-1, 4, 4), points, axis, finest)
            had_seen, had_sharp = judge(rooms, visible, points, axis, finest)
            n = len(seen) // FRAMES
            yield Question(
                Query(chunks[now], FOV, ASPECT, RANGE, visible),
                replace(Candidates.of(chunks[1 : now - 1], FOV, ASPECT), depth=depth[1 : now - 1]),
                np.asarray(seen.reshape(n, FRAMES, -1).any(1)),
                sharp.reshape(n, FRAMES, -1).max(1),
                np.asarray(had_seen.any(0)),
                had_sharp.max(0),
            )


def rows(selector: Selector, question: Question, k: int) -> list[int]:
    return [choice.row for choice in selector.choose(question.query, question.candidates, k)]


def recall_table(walls: bool) -> list[tuple[str, list[float]]]:
    """By selector: recovered at k = 2 and 4, seen and sharp each; at k = 4 choices a question and blind share."""
    asked = list(questions(walls))
    worth = [q for q in asked if q.recoverable >= WORTH]
    table = []
    for name, selector in SELECTORS.items():
        shares = [[*q.recovered(rows(selector, q, 2)), *q.recovered(rows(selector, q, 4))] for q in worth]
        shown = [q.seen[row].mean() for q in asked for row in rows(selector, q, 4)]
        blind = np.mean(np.array(shown) < BLIND)
        table.append((name, [*np.mean(shares, 0).tolist(), len(shown) / len(asked), float(blind)]))
    shares = [[*q.recovered(q.best(2)), *q.recovered(q.best(4))] for q in worth]
    return [*table, ("one that sees walls", [*np.mean(shares, 0).tolist(), float("nan"), float("nan")])]


def demotion_table(seeds: range = SEEDS[:3]) -> list[tuple[str, list[float]]]:
    """By rule: how sharply past views are still shown when half, three quarters, nine tenths of the chunks are gone."""
    kept: dict[str, list[list[float]]] = {}
    for seed in seeds:
        rooms, rng = build(seed), np.random.default_rng(seed)
        chunks = roam(rooms, CHUNKS * FRAMES, rng).reshape(-1, FRAMES, 4, 4)
        past = chunks[rng.choice(CHUNKS, 8, replace=False)].reshape(-1, 4, 4)
        points, axis = pixels(rooms, past)
        own = np.repeat(np.eye(len(past), dtype=bool), COLUMNS * ROWS, 1)
        finest = fineness(past, points, axis)[own]
        sharp = judge(rooms, chunks.reshape(-1, 4, 4), points, axis, finest)[1].reshape(CHUNKS, FRAMES, -1).max(1)
        order = least_useful(Candidates.of(chunks, FOV, ASPECT), CHUNKS, RANGE)
        rules = {"least useful": order, "any": rng.permutation(CHUNKS).tolist(), "oldest": list(range(CHUNKS))}
        for name, gone in rules.items():
            left = [sharp[gone[int(CHUNKS * share) :]].max(0).mean() for share in (0.5, 0.75, 0.9)]
            kept.setdefault(name, []).append(left)
    return [(name, np.mean(shares, 0).tolist()) for name, shares in kept.items()]


def latencies(selector: Selector, runs: int = 40, maps: tuple[int, int] | None = None) -> list[float]:
    """Processor ms of the choosing thread, by run: 4 of `MANY` chunks of a random walk in a 12 x 12 world.

    maps  rows and columns of the chunks' depth maps, which hold anything; None: they have none
    """
    rng = np.random.default_rng(0)
    turns = np.repeat(rng.uniform(-TURN, TURN, MANY * FRAMES // 10), 10)
    yaw, steps = np.cumsum(turns), rng.uniform(-STEP, STEP, (2, len(turns)))
    x, z = (np.abs(np.cumsum(step) % (2 * SIDE) - SIDE) for step in steps)  # turning back at the outer walls
    poses = np.stack([camera(*at) for at in zip(x.tolist(), z.tolist(), yaw.tolist(), strict=True)])
    chunks = poses.reshape(MANY, FRAMES, 4, 4)
    candidates, taken = Candidates.of(chunks, FOV, ASPECT), []
    if maps:
        depth = rng.uniform(1, RANGE, (MANY, FRAMES, *maps)).astype(np.float32)
        candidates = replace(candidates, depth=depth)
    for now in rng.choice(np.arange(1, MANY), runs):
        query = Query(chunks[now], FOV, ASPECT, RANGE, np.concatenate([chunks[0], chunks[now - 1]]))
        begin = time.thread_time()
        selector.choose(query, candidates, 4, 2)
        taken.append((time.thread_time() - begin) * 1e3)
    return taken


@bench("select.recovered", bar=">= 0.8", about="share of what can be brought back that coverage brings; baseline pose")
def recovered() -> Iterator[Case]:
    """Seen, at k = 2 and 4, with and without inner walls."""
    for walls in (True, False):
        table = dict(recall_table(walls))
        for place, k in ((0, 2), (2, 4)):
            name = f"{'rooms' if walls else 'open'}, k = {k}"
            yield Case(name, table["coverage"][place], "share", table["pose (the paper)"][place])


@bench("select.latency", bar="<= 8", about="median thread ms to choose 4 of 5000 chunks; baseline does nothing")
def latency() -> Iterator[Case]:
    """Choosing by pose and by coverage."""
    idle = float(np.median(latencies(Nothing())))
    for name in ("pose (the paper)", "coverage"):
        runs = latencies(SELECTORS[name])
        yield Case(name, float(np.median(runs)), "ms", idle, runs)


def main() -> None:
    for walls in (True, False):
        place = "rooms with walls" if walls else "open worlds"
        print(f"\n{place:24} k=2 seen sharp   k=4 seen sharp   choices    blind")
        for name, (seen2, sharp2, seen4, sharp4, count, blind) in recall_table(walls):
            print(f"{name:24} {seen2:8.3f} {sharp2:5.3f} {seen4:10.3f} {sharp4:5.3f} {count:9.2f} {blind:8.2f}")
    print("\nsharpness left of past views, with 50 %, 75 %, 90 % of the chunks gone")
    for name, left in demotion_table():
        print(f"{name:24} " + " ".join(f"{share:6.3f}" for share in left))
    print(f"\nthread ms to choose 4 of {MANY} chunks, median (worst)")
    for name, selector in SELECTORS.items():
        runs = latencies(selector)
        print(f"{name:24} {np.median(runs):8.2f} ({max(runs):.2f})")


if __name__ == "__main__":
    main()
