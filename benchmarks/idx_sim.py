"""How much of a coming view each selector brings back of what can be brought back, by exact truth.

    python -m benchmarks.idx_sim > benchmarks/results/select-sim.md

Somebody walks through a world of 20 x 20 units and looks around, see `benchmarks.halls`. At every question the truth
is known: which points of the ground that the coming chunk shows some evicted chunk saw and the recent window did not.
What counts is the share of these that the chosen chunks saw. Depth maps are the world's own, of 8 x 6 texels: what a
model could tell of depth will be worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from benchmarks.halls import FIRST, RECENT, STEPS, questions
from benchmarks.registry import Case, bench
from benchmarks.select_sim import MANY, MAP, latencies
from worldkv.select import make_selector

SEEDS = range(2_000_000, 2_000_008)
SLOTS = (2, 4, 6)
BEST = "greedy"
"""The best selector that needs no depth maps, in the open and with walls."""
BY_DEPTH = "greedy_visibility"
"""The best selector with depth maps."""
RANKED = ("random", "latest", "pose", "fov", "coverage", BEST, "visibility", BY_DEPTH)
"""Selectors of the table; `attention` is not among them, for what it compares only a model can tell."""


@cache
def shares(names: tuple[str, ...], walls: bool) -> dict[str, list[list[list[float]]]]:
    """Shares brought back, by selector, walk, question and slots; the first of many choices are those of few slots."""
    found: dict[str, list[list[list[float]]]] = {name: [] for name in names}
    for seed in SEEDS:
        for name in names:
            found[name].append([])
        for question in questions(seed, walls):
            for name in names:
                hits = make_selector(name).choose(question.query, question.candidates, max(SLOTS))
                rows = [hit.row for hit in hits]
                found[name][-1].append([question.covered(rows[:k]) for k in SLOTS])
    return found


def means(walks: list[list[list[float]]]) -> list[float]:
    """Mean share over all questions, by slots."""
    return [float(share) for share in np.mean([question for walk in walks for question in walk], 0)]


def beyond_pose(walls: bool) -> Case:
    """What the best selector without depth maps brings back more than `pose` does, at 4 slots."""
    found, four = shares(("pose", BEST), walls), SLOTS.index(4)
    pose, best = (means(found[name])[four] for name in ("pose", BEST))
    by_walk = [means([walk])[four] - means([other])[four] for walk, other in zip(found[BEST], found["pose"])]
    return Case(f"{BEST}, k = 4", best - pose, "share", pose, by_walk)


@bench("idx.sim.open", bar=">= 0.20", about="share brought back in a hall without inner walls, more than pose does")
def in_the_open() -> Iterator[Case]:
    """The best selector without depth maps."""
    yield beyond_pose(walls=False)


@bench("idx.sim.walls", bar=">= 0.12", about="share brought back in a hall of rooms, more than pose does")
def with_walls() -> Iterator[Case]:
    """The best selector without depth maps."""
    yield beyond_pose(walls=True)


@bench(
    "idx.sim.visibility", bar=">= 0.95", about="share brought back in a hall of rooms by oracle depth; baseline pose"
)
def with_depth() -> Iterator[Case]:
    """Selection by visibility."""
    found, four = shares(("pose", BY_DEPTH), True), SLOTS.index(4)
    by_walk = [means([walk])[four] for walk in found[BY_DEPTH]]
    yield Case(
        f"{BY_DEPTH}, oracle depth, k = 4", means(found[BY_DEPTH])[four], "share", means(found["pose"])[four], by_walk
    )


@bench("idx.sim.table", bar="", about="share brought back by each selector, open and with walls; baseline pose")
def everything() -> Iterator[Case]:
    """All selectors at 2, 4 and 6 slots."""
    for walls in (False, True):
        found = shares(RANKED, walls)
        for name in RANKED:
            for place, k in enumerate(SLOTS):
                case = f"{'walls' if walls else 'open'}, {name}, k = {k}"
                yield Case(case, means(found[name])[place], "share", means(found["pose"])[place])


@bench(
    "idx.5k.visibility", bar="", about="median thread ms to choose 4 of 5000 chunks by visibility; baseline coverage"
)
def many() -> Iterator[Case]:
    """Choosing by visibility."""
    coverage, runs = (latencies(make_selector(name), maps=MAP) for name in ("coverage", "visibility"))
    yield Case(f"{MANY} chunks, maps of {MAP[1]} x {MAP[0]}", np.median(runs), "ms", float(np.median(coverage)), runs)


def main() -> None:
    both = [shares(RANKED, walls) for walls in (False, True)]
    asked = [sum(map(len, found["pose"])) for found in both]
    print("# Selectors by simulation\n\n`python -m benchmarks.idx_sim`\n")
    print(
        "Share of what can be brought back that the first 2 / 4 / 6 choices bring: ground that the coming chunk shows,"
    )
    print("that some evicted chunk saw and the recent window did not. Mean over questions.")
    print(f"{len(SEEDS)} walks of {STEPS} frames; {RECENT} recent frames; asked from chunk {FIRST} on.\n")
    print(f"| Selector | open, {asked[0]} questions | walls, {asked[1]} questions |\n| --- | --- | --- |")
    for name in RANKED:
        label = f"`{name}`, oracle depth" if "visibility" in name else f"`{name}`"
        cells = [" / ".join(f"{share:.2f}" for share in means(found[name])) for found in both]
        print(f"| {label} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
