"""How well chunks are foreseen that the coming steps recall, and where a forecast has the camera.

After each chunk of a walk the prefetcher is told where it was drawn from and which action its last frame had; what is
done during the next chunk it does not know. Recall is by coverage, without the sink (one chunk) and the recent chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks.registry import Case, bench
from benchmarks.select_sim import ASPECT, FOV, FRAMES, RANGE
from benchmarks.smooth_walks import ABRUPT, SMOOTH, Walk, shaken
from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.index import Hit, ScanIndex
from worldkv.motion import LATEST, LONGEST, Forecast, predict
from worldkv.pose import Matrix, angle, distance
from worldkv.prefetch import Ask, PrefetchConfig, Prefetcher, PrefetchStats
from worldkv.select import Candidates, Coverage, Query
from worldkv.views import sees, target

SEEDS = range(1_000_000, 1_000_005)
CHUNKS, FIRST = 140, 60
"""Chunks of a walk, and the first whose recall is foreseen."""
SLOTS = (2, 4)
HOT = 8
"""Chunks that stay at hand, for each slot."""
LINEAGE = Lineage.begin(bytes(16))


@dataclass(frozen=True)
class Told:
    """What is known after one step of a walk, and what the next one recalls.

    recalled, coming  keys that this step recalled, and that the next one will
    current, steady   the keys that are named without a forecast, and for constant velocity without the action
    answers           of the index to what the prefetcher asks
    """

    index: int
    poses: Matrix
    walk: Walk
    visible: Matrix
    recalled: list[ChunkKey]
    coming: list[ChunkKey]
    current: list[ChunkKey]
    steady: list[ChunkKey]
    answers: list[list[Hit]]

    @property
    def new(self) -> set[ChunkKey]:
        """Chunks that the next step recalls and this one did not."""
        return set(self.coming) - set(self.recalled)

    def asks(self, prefetcher: Prefetcher, at_hand: Collection[ChunkKey]) -> list[Ask]:
        """Tell a prefetcher of the step."""
        held = self.walk.actions[self.index * FRAMES + FRAMES - 1]
        exclude = {0, self.index}
        return prefetcher.step(self.index, self.poses, held, self.recalled, at_hand, self.visible, exclude)

    def plan(self, prefetcher: Prefetcher, at_hand: Collection[ChunkKey]) -> list[ChunkKey]:
        """Tell a prefetcher of the step and of what the index says: what it has under way then."""
        self.asks(prefetcher, at_hand)
        prefetcher.plan(self.answers)
        return prefetcher.under_way


def fresh(slots: int, ahead: int = 2, least: float = 0.05) -> Prefetcher:
    return Prefetcher(PrefetchConfig(slots, FOV, ASPECT, RANGE, ahead, least))


@cache
def told(kind: str, seed: int) -> dict[int, list[Told]]:
    """The steps of a walk by slots, the index asked after each.

    Choices by coverage do not depend on how many more are to be made, so that all but the prefetchers' are shared.
    """
    walk = (SMOOTH | ABRUPT)[kind](seed, CHUNKS * FRAMES)
    chunks = walk.poses.reshape(-1, FRAMES, 4, 4)
    index, select, most = ScanIndex(), Coverage(), max(SLOTS)
    prefetchers, steps = {slots: fresh(slots) for slots in SLOTS}, {slots: list[Told]() for slots in SLOTS}
    recalled: list[ChunkKey] = []
    for n, poses in enumerate(chunks[:-1]):
        index.add(Meta(LINEAGE.key(n), "0" * 32, n * FRAMES, poses, FOV, ASPECT))
        if n < FIRST - 2:
            continue
        visible, exclude = np.concatenate([chunks[0], poses]), {0, n}

        def names(view: Matrix, k: int, visible: Matrix = visible, exclude: set[int] = exclude) -> list[ChunkKey]:
            hits = index.nearest(Query(view, FOV, ASPECT, RANGE, visible), select, k, LINEAGE, exclude)
            return [hit.key for hit in hits]

        steady = predict(walk.poses[: (n + 1) * FRAMES], None, 1, FRAMES, RANGE)[0].poses
        coming, current, constant = names(chunks[n + 1], most), names(poses, 3 * most), names(steady, 3 * most)
        for slots, prefetcher in prefetchers.items() if n >= FIRST - 1 else ():
            step = Told(n, poses, walk, visible, recalled[:slots], coming[:slots], current, constant, [])
            asks = step.asks(prefetcher, [])
            answers = [index.nearest(a.query, select, a.k, LINEAGE, a.exclude, a.spares) for a in asks]
            steps[slots].append(replace(step, answers=answers))
        recalled = coming
    return steps


def foreseen(kind: str, seed: int, slots: int, name: Callable[[Told], Sequence[ChunkKey]]) -> tuple[int, int, int]:
    """Of the chunks that a step recalls and the one before did not: how many were among the first 2 `slots` that are
    named and were not recalled already, how many there were, and how many were named."""
    hits = events = named = 0
    for step in told(kind, seed)[slots]:
        names = [key for key in name(step) if key not in step.recalled][: 2 * slots]
        hits, events, named = hits + len(step.new & set(names)), events + len(step.new), named + len(names)
    return hits, events, named


def _share(counts: Sequence[tuple[int, int, int]]) -> float:
    return sum(c[0] for c in counts) / sum(c[1] for c in counts)


def _ours(slots: int) -> Callable[[Told], Sequence[ChunkKey]]:
    prefetcher = fresh(slots)
    return lambda step: step.plan(prefetcher, step.recalled)


def _cases(kinds: Sequence[str]) -> Iterator[Case]:
    for kind in kinds:
        for slots in SLOTS:
            ours = [foreseen(kind, seed, slots, _ours(slots)) for seed in SEEDS]
            blind = [foreseen(kind, seed, slots, lambda step: step.current) for seed in SEEDS]
            yield Case(f"{kind}, k = {slots}", _share(ours), "share", _share(blind), [h / e for h, e, _ in ours])


@bench("idx.predict", bar=">= 0.8", about="share of newly recalled chunks named a step before; baseline: current view")
def smooth() -> Iterator[Case]:
    """At most 2k chunks named, on smooth walks, k = 2 and 4."""
    yield from _cases([*SMOOTH])


@bench("idx.predict.abrupt", bar="", about="the same on walks of sudden moves, turning 9 or 22 degrees a frame")
def abrupt() -> Iterator[Case]:
    """No bar: what a walker is about to do, nobody knows."""
    yield from _cases([*ABRUPT])


def _of(step: Told, *answers: int, spares: bool = False) -> list[ChunkKey]:
    """The choices of some answers one after the other, each once; then, if told so, the spares of the first."""
    hits = [hit for i in answers if i < len(step.answers) for hit in step.answers[i] if not hit.spare]
    hits += [hit for hit in step.answers[0] if hit.spare and spares]
    return [*dict.fromkeys(hit.key for hit in hits)]


def _stops(step: Told) -> tuple[int, ...]:
    """The place of the answer for a camera that stops: behind those of the chunks ahead, if it moves."""
    return (2,) if len(step.answers) > 2 else ()


WAYS: dict[str, Callable[[Told], Sequence[ChunkKey]]] = {
    "current view": lambda step: step.current,
    "constant velocity, 2k best": lambda step: step.steady,
    "forecast, k best": lambda step: _of(step, 0),
    "and spares": lambda step: _of(step, 0, spares=True),
    "and if it stops": lambda step: _of(step, 0, *_stops(step)),
    "and two ahead": lambda step: _of(step, 0, 1),
    "and both": lambda step: _of(step, 0, *_stops(step), 1, spares=True),
}


@bench("idx.predict.ways", bar="", about="the same by way of naming, all smooth walks; baseline: chunks named a step")
def ways() -> Iterator[Case]:
    """What each part of naming is worth, beside the chunks it names."""
    for slots in SLOTS:
        walks = [(kind, seed) for kind in SMOOTH for seed in SEEDS]
        steps = sum(len(told(*walk)[slots]) for walk in walks)
        for name, way in WAYS.items():
            counts = [foreseen(*walk, slots, way) for walk in walks]
            yield Case(f"{name}, k = {slots}", _share(counts), "share", sum(c[2] for c in counts) / steps)
        counts = [foreseen(*walk, slots, _ours(slots)) for walk in walks]
        yield Case(f"prefetcher, k = {slots}", _share(counts), "share", sum(c[2] for c in counts) / steps)


def fetched(steps: Sequence[Told], slots: int, delay: int, least: float) -> tuple[PrefetchStats, int, int]:
    """What becomes of the fetches of a walk if each takes `delay` steps; and how many newly recalled chunks were at
    hand in time, and how many there were. `HOT` chunks a slot stay at hand, those that came or were recalled last."""
    prefetcher, hot, begun, before = fresh(slots, least=least), dict[ChunkKey, None](), dict[ChunkKey, int](), None
    ready = new = 0
    for step in steps:
        came = [key for key in prefetcher.under_way if begun[key] + delay <= step.index]
        prefetcher.ended(came)
        ahead = hot | dict.fromkeys(came)
        if before is not None:
            new += len(before.new)
            ready += len(before.new & ahead.keys())
        recalled = dict.fromkeys(step.recalled)
        hot = dict.fromkeys([*(key for key in ahead if key not in recalled), *recalled][-HOT * slots :])
        begun = {key: begun.get(key, step.index) for key in step.plan(prefetcher, hot)}
        before = step
    return prefetcher.stats, ready, new


@bench(
    "idx.predict.hand", bar="", about="share of newly recalled chunks at hand in time; baseline: fetches that were used"
)
def hand() -> Iterator[Case]:
    """All smooth walks, where a fetch takes one or two steps, with sure and less sure chunks fetched."""
    for slots in SLOTS:
        for delay in (1, 2):
            for least in (0.05, 0.2):
                runs = [fetched(told(kind, seed)[slots], slots, delay, least) for kind in SMOOTH for seed in SEEDS]
                used = sum(stats.used + stats.early + stats.late for stats, _, _ in runs)
                share = sum(run[1] for run in runs) / sum(run[2] for run in runs)
                name = f"k = {slots}, {delay} steps, least {least}"
                yield Case(name, share, "share", used / sum(stats.requested for stats, _, _ in runs))


class Errors:
    """How far forecasts for one chunk were off, by its middle frame, and the camera had it stood still: degrees, units,
    degrees and units again; whether half of the view overlapped, and confidence."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def add(self, forecast: Forecast, truth: Matrix, now: Matrix) -> None:
        both, true = np.stack([forecast.poses[len(truth) // 2], now]), truth[len(truth) // 2]
        turns, steps = np.degrees(angle(both[:, :3, :3], true[:3, :3])).tolist(), distance(both, true).tolist()
        self.rows.append((*turns, *steps, overlap(forecast.poses, truth) >= 0.5, forecast.confidence))

    def cases(self, name: str) -> Iterator[Case]:
        turn, still_turn, step, still_step, holds, confidence = np.mean(self.rows, 0).tolist()
        yield Case(f"{name}: turn", turn, "degrees", still_turn)
        yield Case(f"{name}: step", step, "units", still_step)
        yield Case(f"{name}: overlaps by half", holds, "share", confidence)


def overlap(forecast: Matrix, truth: Matrix) -> float:
    """Share of the true views [frames, 4, 4] that the forecast's frames see, each of its own."""
    points = target(truth, FOV, ASPECT, RANGE, 8, 2, 4).points
    return float(sees(Candidates.of(forecast[:, None], FOV, ASPECT), points, RANGE).mean())


def forecasts(walks: Sequence[Walk], truths: Sequence[Walk], told: bool) -> dict[tuple[str, int], Errors]:
    """Errors by motion and chunk of forecasts for walks as they are seen, held against what is true."""
    errors: dict[tuple[str, int], Errors] = {}
    for walk, true in zip(walks, truths, strict=True):
        for end in range(LATEST, len(walk.poses) - LONGEST * FRAMES + 1, 2 * FRAMES):
            held = walk.actions[end - 1] if told else None
            for forecast in predict(walk.poses[:end], held, LONGEST, FRAMES, RANGE):
                begin = end + (forecast.chunk - 1) * FRAMES
                each = errors.setdefault((forecast.motion, forecast.chunk), Errors())
                each.add(forecast, true.poses[begin : begin + FRAMES], true.poses[end - 1])
    return errors


@bench(
    "idx.predict.pose",
    bar="",
    about="error of forecasts, and how many overlap by half; baselines: standing still, confidence",
)
def poses() -> Iterator[Case]:
    """By chunks ahead, on smooth walks, abrupt ones, and smooth ones seen by a tracker that shakes."""
    smooth = [walk(seed, CHUNKS * FRAMES) for walk in SMOOTH.values() for seed in SEEDS]
    sudden = {name: [walk(seed, CHUNKS * FRAMES) for seed in SEEDS] for name, walk in ABRUPT.items()}
    rng = np.random.default_rng(0)
    kinds = {
        "smooth": (smooth, smooth, True),
        "smooth, action not known": (smooth, smooth, False),
        "shaken by 0.5 degrees": ([shaken(walk, rng, 0.5, 0.01) for walk in smooth], smooth, False),
        "shaken by 2 degrees": ([shaken(walk, rng, 2.0, 0.04) for walk in smooth], smooth, False),
        **{name: (abrupt, abrupt, True) for name, abrupt in sudden.items()},
    }
    for name, (walks, truths, known) in kinds.items():
        for (motion, chunk), errors in sorted(forecasts(walks, truths, known).items()):
            yield from errors.cases(f"{name}, {motion}, {chunk} ahead")
