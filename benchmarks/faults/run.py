"""Runs rows of faults, each in the middle of walks, and tells what came of each."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from time import monotonic
from typing import NamedTuple

from benchmarks.faults.rows import ROWS, Row
from benchmarks.faults.stage import Counts, Stage, stage
from benchmarks.faults.wanderer import Step, Wanderer, mean_psnr
from benchmarks.registry import Case, bench
from worldkv.client import ClientConfig, KVClient, WalkClient
from worldkv.store import Level

SEEDS = (0, 1)
"""Walks under way in every row."""
BEFORE, AFTER = 14, 10
"""Chunks that each walk draws before the fault, and good ones in a row after it."""
UNDISTURBED = 60
"""Chunks of the walks that nothing happens to."""
HELD_UP_SECONDS = 1.0
"""A chunk that is waited for longer is held up; on a slow machine it takes ten times what chunks take there."""
MOST_SECONDS = 60.0
"""That recall is waited for."""
NO_STEPS: Sequence[Sequence[Step]] = [[] for _ in SEEDS]
SETTINGS = {
    "GENERATOR__MEMORY__HOT_BYTES": "0",  # all that is recalled comes from the store
    "GENERATOR__SERVICE__DRAIN_SECONDS": "1",
}
CLIENT = ClientConfig(deadline_seconds=20.0, shared=False, landing_bytes=32 << 20)


@dataclass(frozen=True)
class Outcome:
    """What came of a row.

    row        which
    seconds    from the fault to recall as before, of the walk that waited longest; MOST_SECONDS: it did not come
    lost       acknowledged chunks that should be there and are not as they were, in words
    kept       acknowledged chunks
    ended      sessions that ended of it, in words
    told       notices that the walks were given, and how often
    before, after  PSNR of the chunks that look again, dB
    quiet      of the same chunks as `after`, where nothing happened
    waited     the longest that a chunk was waited for, seconds
    reencoded, left_out  chunks after the fault
    """

    row: Row
    seconds: float
    lost: tuple[str, ...]
    kept: int
    ended: tuple[str, ...]
    told: Counter[str]
    before: float
    after: float
    quiet: float
    waited: float
    reencoded: int
    left_out: int

    @property
    def line(self) -> str:
        """For people, under `HEADS`."""
        told = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.told.items()))
        numbers = f"{self.seconds:8.1f} {self.waited:8.1f} {len(self.lost):5d} {self.kept:6d} {len(self.ended):6d}"
        pictures = f"{self.before:7.2f} {self.after:7.2f} {self.quiet:7.2f}"
        return f"{self.row.name:18s} {numbers} {pictures} {self.reencoded:5d} {self.left_out:5d}  {told}"


HEADS = (
    f"{'row':18s} {'again s':>8s} {'wait s':>8s} {'lost':>5s} {'kept':>6s} {'ended':>6s} "
    f"{'before':>7s} {'after':>7s} {'quiet':>7s} {'made':>5s} {'late':>5s}  notices"
)


@bench("faults", bar="", about="every row of the failure table: seconds until recall works, and what the walks saw")
def faults() -> Iterator[Case]:
    for each in table().outcomes:
        yield Case(f"{each.row.name}: recall again", each.seconds, "s", table().step)
        yield Case(f"{each.row.name}: longest wait for a chunk", each.waited, "s", table().step)
        if math.isfinite(each.after):
            yield Case(f"{each.row.name}: revisit PSNR before", each.before, "dB")
            yield Case(f"{each.row.name}: revisit PSNR after", each.after, "dB", each.quiet)
        for kind, count in sorted(each.told.items()):
            yield Case(f"{each.row.name}: told {kind}", count, "notices")


@bench("faults.lost", bar="== 0", about="acknowledged chunks lost beyond the promise, every row of the failure table")
def lost() -> Iterator[Case]:
    for each in table().outcomes:
        yield Case(f"{each.row.name}, of {each.kept} acknowledged", len(each.lost), "chunks")


@bench("faults.steps", bar="== 0", about="sessions ended by a fault of memory, every such row of the failure table")
def steps() -> Iterator[Case]:
    for each in table().outcomes:
        if each.row.memory:
            yield Case(f"{each.row.name}, {len(SEEDS)} walks", len(each.ended), "sessions")


@bench("faults.recovery", bar="<= 15", about="from a fault until recall works as before, what restarts by itself")
def recovery() -> Iterator[Case]:
    for each in table().outcomes:
        if each.row.itself:
            yield Case(each.row.name, each.seconds, "s", table().step)


class Table(NamedTuple):
    """What came of all rows, and the seconds of a chunk where nothing happened."""

    outcomes: Sequence[Outcome]
    step: float


@cache
def table() -> Table:
    """Of all rows, from one run."""
    return run(ROWS)


def run(rows: Sequence[Row]) -> Table:
    """What comes of each of these rows; each is told on stderr as it comes."""
    with stage(Counts(), SETTINGS) as made:
        return asyncio.run(_run(made, rows))


async def _run(made: Stage, rows: Sequence[Row]) -> Table:
    await made.ready()
    quiet = await _undisturbed(made)
    _tell(HEADS)
    found = []
    for row in rows:
        found.append(await outcome(made, row, quiet))
        _tell(found[-1].line)
        for words in (*found[-1].lost, *found[-1].ended):
            _tell(f"    {words}")
    return Table(found, _step(quiet))


def _step(quiet: Sequence[Sequence[Step]]) -> float:
    """Seconds of a chunk, the median; 0 of none."""
    seconds = [step.seconds for steps in quiet for step in steps]
    return median(seconds) if seconds else 0.0


async def _undisturbed(made: Stage) -> list[list[Step]]:
    """The walks' chunks, where nothing happens to them."""
    async with WalkClient(made.address) as client, asyncio.TaskGroup() as group:
        walks = [Wanderer(client, seed) for seed in SEEDS]
        for walk in walks:
            group.create_task(walk.run())
        for walk in walks:
            await walk.drawn(UNDISTURBED)
            walk.stop()
    return [walk.steps for walk in walks]


async def outcome(
    made: Stage, row: Row, quiet: Sequence[Sequence[Step]] = NO_STEPS, patience: float = MOST_SECONDS
) -> Outcome:
    """Walk, hurt, and walk on until recall works again and all parts serve.

    quiet     chunks of the same walks, where nothing happened
    patience  seconds that recall is waited for
    """
    await made.ready()
    async with WalkClient(made.address) as client, KVClient(made.members, CLIENT) as store:
        walks = [Wanderer(client, seed) for seed in SEEDS]
        async with asyncio.TaskGroup() as group:
            for walk in walks:
                group.create_task(walk.run())
            try:
                for walk in walks:
                    await walk.drawn(BEFORE)
                begun = monotonic()
                await row.do(made, walks)
                over = monotonic()
                await asyncio.gather(*(_goes_on(walk, over, patience) for walk in walks))
                await made.ready()
            finally:
                for walk in walks:
                    walk.stop()
        least = Level.TWO if row.ram else Level.ONE
        broken = [
            await walk.promises.broken(store, walk.walk.world.lineage, walk.promises.at_least(least))
            for walk in walks
            if walk.walk is not None
        ]
    after = [[step for step in walk.steps if step.answered > begun] for walk in walks]
    held_up = max(HELD_UP_SECONDS, 10 * _step(quiet))
    recovered = [
        patience if walk.ended is not None else recovery_seconds(steps, begun, held_up, patience)
        for walk, steps in zip(walks, after, strict=True)
    ]
    same = [
        [step for step in before if step.index in {each.index for each in steps}]
        for before, steps in zip(quiet, after, strict=True)
    ]
    known = [
        [step for step in steps if step.index in {each.index for each in old}]
        for steps, old in zip(after, quiet, strict=True)
    ]
    return Outcome(
        row,
        seconds=max(recovered),
        lost=tuple(words for each in broken for words in each),
        kept=sum(len(walk.promises.kept) for walk in walks),
        ended=tuple(f"session ended: {walk.ended}" for walk in walks if walk.ended is not None),
        told=Counter(notice.kind.value for walk in walks for notice in walk.notices),
        before=mean_psnr([step for walk in walks for step in walk.steps if step.answered <= begun]),
        after=mean_psnr([step for steps in known for step in steps]),
        quiet=mean_psnr([step for steps in same for step in steps]),
        waited=max((step.seconds for steps in after for step in steps), default=MOST_SECONDS),
        reencoded=sum(step.reencoded for steps in after for step in steps),
        left_out=sum(step.left_out for steps in after for step in steps),
    )


async def _goes_on(walk: Wanderer, over: float, patience: float) -> None:
    """Wait until a walk has drawn good chunks for a while since the fault was over, or too long."""
    end = monotonic() + patience

    def steady() -> bool:
        last = walk.steps[-AFTER:]
        return len(last) == AFTER and last[0].asked > over and sum(not step.recalls for step in last) <= 1

    while not steady() and walk.ended is None and monotonic() < end:
        try:
            async with asyncio.timeout(end - monotonic()):
                await walk.drawn(len(walk.steps) + 1)
        except TimeoutError:
            return


def recovery_seconds(steps: Sequence[Step], begun: float, held_up: float, patience: float) -> float:
    """Seconds from the fault until a chunk came from which on recall worked, and none was held up.

    A single chunk without it, and none other near, is how a busy machine is at any time.
    """
    first = 0
    for n, step in enumerate(steps):
        if not step.recalls and any(not each.recalls for each in steps[max(n - AFTER, 0) : n]):
            first = n + 1
        elif step.recalls and step.seconds > held_up:
            first = n  # it came, late
    return patience if first == len(steps) else steps[first].answered - begun


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
