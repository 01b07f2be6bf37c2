"""The pose index in one process: exact, fast, small.

Times are processor time of the whole process, so that they mean the same on a busy machine as on an idle core. Each is
taken in turn with a plain pass over the numbers that the work must look at, or with the bytes it must hold.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from math import acos

import numpy as np

from benchmarks.registry import Case, bench
from benchmarks.select_sim import ASPECT, FOV, FRAMES, RANGE, roam, without_walls
from pocket.rooms import build
from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.index import Batch, Hit, ScanIndex
from worldkv.pose import Matrix
from worldkv.select import Candidates, Coverage, Pose, Query, Selector

SPEC = "0" * 32
K, SPARES = 4, 2
RUNS = 40
WORLDS, LENGTH, WIRE = 2_000, 500, 50
"""Worlds, chunks of each, and how many are added at once, where bytes are counted."""


def wander(chunks: int, seed: int, side: float = 12.0) -> Matrix:
    """Poses [chunks, frames, 4, 4] of a random walk in a square world, turning back at its walls."""
    rng = np.random.default_rng(seed)
    frames = chunks * FRAMES
    yaw = np.radians(np.cumsum(np.repeat(rng.uniform(-9, 9, frames // 10 + 1), 10)[:frames]))
    steps = np.cumsum(rng.uniform(-0.15, 0.15, (2, frames)), 1)
    poses = np.zeros((frames, 4, 4))
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = np.cos(yaw), np.sin(yaw), -np.sin(yaw), np.cos(yaw)
    poses[:, 1, 1] = poses[:, 3, 3] = 1
    poses[:, (0, 2), 3] = np.abs(steps.T % (2 * side) - side)
    return poses.reshape(chunks, FRAMES, 4, 4)


def batch(keys: Sequence[ChunkKey], poses: Matrix) -> Batch:
    """A batch from columns as they come off the wire: 12 numbers a pose."""
    n = len(keys)
    numbers = np.array([key.index * FRAMES for key in keys])
    return Batch.packed(keys, [SPEC] * n, numbers, poses[:, :, :3].reshape(n, -1), np.full(n, FOV), np.full(n, ASPECT))


def filled(lineage: Lineage, poses: Matrix) -> ScanIndex:
    index = ScanIndex()
    for begin in range(0, len(poses), 1000):
        keys = [lineage.key(number) for number in range(begin, min(begin + 1000, len(poses)))]
        index.add_many(batch(keys, poses[begin : begin + 1000]))
    return index


def query(poses: Matrix, now: int) -> Query:
    return Query(poses[now], FOV, ASPECT, RANGE, np.concatenate([poses[0], poses[now - 1]]))


def in_turn(work: Callable[[int], object], plain: Callable[[], object], runs: int = RUNS) -> tuple[list[float], float]:
    """Processor ms of each run of some work, and the median of a plain pass that is taken between them."""
    taken: list[float] = []
    passes: list[float] = []
    work(0)
    for run in range(runs):
        for times, do in ((taken, lambda run=run: work(run)), (passes, plain)):
            begin = time.process_time()
            do()
            times.append((time.process_time() - begin) * 1e3)
    return taken, statistics.median(passes)


# Exact


def oracle(asked: Query, metas: Sequence[Meta], count: int) -> list[ChunkKey]:
    """The paper's rule, number by number; of equals the oldest."""
    centre, turn = (asked.poses[:, :3, columns].mean(0) for columns in (3, slice(0, 3)))
    squares, angles = [], []
    for meta in metas:
        away = meta.poses[:, :3, 3].mean(0) - centre
        cosine = (float((meta.poses[:, :3, :3].mean(0) * turn).sum()) - 1) / 2
        squares.append(float((away**2).sum()))
        angles.append(acos(min(1.0, max(-1.0, cosine))))
    most = [max(values, default=0) or 1 for values in (squares, angles)]
    worst = [square / most[0] / 2 + angle / most[1] / 2 for square, angle in zip(squares, angles, strict=True)]
    order = sorted(range(len(metas)), key=lambda i: (round(worst[i], 9), metas[i].key.index))
    return [metas[i].key for i in order[:count]]


@bench("idx.pose.exact", bar="== 1", about="share of queries answered as by brute force, keys and order")
def exact() -> Iterator[Case]:
    """Worlds of up to 300 chunks, some alike; forked, with exclusions, and with chunks that are not yet added."""
    rng = np.random.default_rng(0)
    right: dict[str, list[bool]] = {"one branch": [], "forks": [], "exclusions and pending": []}
    for world in range(60):
        length = int(rng.integers(2, 300))
        poses = wander(length, world, float(rng.uniform(0.5, 20)))
        alike = rng.random(length) < 0.1
        poses[alike] = poses[int(rng.integers(length))]
        for name, found in right.items():
            lineage = Lineage.begin()
            for _ in range(0 if name == "one branch" else int(rng.integers(1, 4))):
                lineage = lineage.fork(int(rng.integers(0, length)))
            metas = [Meta(key, SPEC, 3 * key.index, poses[key.index], FOV, ASPECT) for key in lineage.keys(length)]
            odd = name == "exclusions and pending"
            exclude = {int(i) for i in rng.integers(0, length, 12)} | {0, length - 1} if odd else set()
            late = {int(i) for i in rng.integers(0, length, 6)} | {length - 2} if odd else set()
            index = ScanIndex()
            index.add_many(Batch.of([meta for meta in metas if meta.key.index not in late]))
            index.add_many(Batch.of([Meta(Lineage.begin().key(3), SPEC, 9, poses[0], FOV, ASPECT)]))
            wanted = [meta for meta in metas if meta.key.index not in exclude]
            for _ in range(5):
                asked = Query(
                    poses[int(rng.integers(length))] @ wander(1, int(rng.integers(99)))[0], FOV, ASPECT, RANGE
                )
                hits = index.nearest(asked, Pose(), K, lineage, exclude, SPARES, [metas[i] for i in late])
                found.append([hit.key for hit in hits] == oracle(asked, wanted, K + SPARES))
    for name, found in right.items():
        yield Case(f"{name}, {len(found)} queries", statistics.mean(found), "share", 1.0)


# Fast


def latency(selector: Selector, lineage: Lineage, poses: Matrix) -> tuple[list[float], float]:
    """Processor ms of `nearest` by run, for views of places seen before, and of a pass over the means of the poses."""
    index = filled(lineage, poses)
    means = index.candidates(lineage)
    assert means is not None
    last = len(poses) - 1
    visible = np.concatenate([poses[0], poses[last]])
    coming = np.random.default_rng(1).integers(len(poses), size=RUNS).tolist()
    asked = [Query(poses[place] @ wander(1, place)[0, :1], FOV, ASPECT, RANGE, visible) for place in coming]

    def ask(run: int) -> list[Hit]:
        return index.nearest(asked[run], selector, K, lineage, {0, last}, SPARES)

    parts = means.parts
    return in_turn(ask, lambda: [part.translation.sum() + part.rotation.sum() for part in parts])


@bench("idx.5k.pose", bar="<= 1", about="median processor ms to rank 5,000 chunks by pose; baseline reads their means")
def pose_of_5k() -> Iterator[Case]:
    runs, plain = latency(Pose(), Lineage.begin(), wander(5_000, 0))
    yield Case("one branch", statistics.median(runs), "ms", plain, runs)


@bench("idx.5k.coverage", bar="<= 8", about="median processor ms, coverage of 5,000 chunks; baseline reads their means")
def coverage_of_5k() -> Iterator[Case]:
    for name, lineage in (("one branch", Lineage.begin()), ("fork near its end", Lineage.begin().fork(4_900))):
        runs, plain = latency(Coverage(), lineage, wander(5_000, 0))
        yield Case(name, statistics.median(runs), "ms", plain, runs)


@bench("idx.100k", bar="<= 8", about="median processor ms to rank 100,000 chunks by pose; baseline reads their means")
def pose_of_100k() -> Iterator[Case]:
    for name, lineage in (("one branch", Lineage.begin()), ("fork near its end", Lineage.begin().fork(99_900))):
        runs, plain = latency(Pose(), lineage, wander(100_000, 0, 60.0))
        yield Case(name, statistics.median(runs), "ms", plain, runs)


@bench(
    "idx.add.core", bar="", about="chunks a second checked and added, from columns off the wire; baseline one by one"
)
def adding() -> Iterator[Case]:
    poses, lineage = wander(1024, 0), Lineage.begin()
    keys = [*lineage.keys(1024)]
    metas = [Meta(key, SPEC, 0, each, FOV, ASPECT) for key, each in zip(keys, poses, strict=True)]

    def one_by_one() -> None:
        index = ScanIndex()
        for meta in metas:
            index.add(meta)

    taken, single = in_turn(lambda run: ScanIndex().add_many(batch(keys, poses)), one_by_one, 20)
    runs = [1024 / (ms / 1e3) for ms in taken]
    yield Case("batches of 1024", statistics.median(runs), "chunks/s", 1024 / (single / 1e3), runs)


# Small


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def many_worlds(worlds: int) -> ScanIndex:
    """So many worlds in one index, added in turn as walks would be."""
    index, poses = ScanIndex(), wander(LENGTH, 0)
    lineages = [Lineage.begin(os.urandom(16)) for _ in range(worlds)]
    for begin in range(0, LENGTH, WIRE):
        for lineage in lineages:
            keys = [lineage.key(number) for number in range(begin, begin + WIRE)]
            index.add_many(batch(keys, poses[begin : begin + WIRE]))
    return index


@bench("idx.bytes", bar="<= 1024", about="bytes a chunk, many worlds of 500 chunks; baseline 3 poses of 3 x 4 float64")
def size() -> Iterator[Case]:
    bare = FRAMES * 12 * 8
    many_worlds(2)
    before = resident()
    index = many_worlds(WORLDS)
    yield Case(f"resident, {WORLDS} worlds", (resident() - before) / len(index), "bytes", bare)
    yield Case("tables, by their own account", index.nbytes / len(index), "bytes", bare)
    del index
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    few = many_worlds(WORLDS // 10)
    yield Case(
        f"traced, {WORLDS // 10} worlds", (tracemalloc.get_traced_memory()[0] - before) / len(few), "bytes", bare
    )
    tracemalloc.stop()


# What the shortlist costs


@bench("idx.coverage.same", bar=">= 0.99", about="share of queries where coverage with a shortlist answers as without")
def same() -> Iterator[Case]:
    """Somebody who roams through rooms, asked about late in the walk; in worlds with inner walls, and without."""
    for name, walls in (("rooms", True), ("open", False)):
        found: list[bool] = []
        for length, count in ((300, 60), (1_000, 40), (5_000, 12)):
            for seed in (1_000_000, 1_000_003):
                rooms, rng = build(seed), np.random.default_rng(seed)
                walk = roam(rooms if walls else without_walls(rooms), length * FRAMES, rng)
                chunks = walk.reshape(length, FRAMES, 4, 4)
                nows = rng.choice(np.arange(length // 2, length), count, replace=False)
                found += [_same(chunks, int(now)) for now in nows]
        yield Case(f"{name}, {len(found)} queries", statistics.mean(found), "share", 1.0)


def _same(chunks: Matrix, now: int) -> bool:
    candidates = Candidates.of(chunks[1 : now - 1], FOV, ASPECT)
    short, full = (
        [choice.row for choice in selector.choose(query(chunks, now), candidates, K, SPARES)]
        for selector in (Coverage(), Coverage(shortlist=len(chunks)))
    )
    return short == full
