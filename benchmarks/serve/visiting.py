"""Sessions that come to a service at their times, whatever it does, and what they see there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from benchmarks.serve.arrivals import TOUR, TOURS, Visit, arrivals
from benchmarks.serve.tally import Summary, Visited, summary
from benchmarks.serve.viewer import Viewer
from worldkv.actions import Action, parse_path
from worldkv.client import WalkClient
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Drawn, Opened
from worldkv.errors import WorldKVError

SAMPLE_SECONDS = 0.5
"""Between looks at how many sessions there are."""
CLOSE_SECONDS = 30.0
"""That sessions have to close when all is over."""


@dataclass(frozen=True)
class Plan:
    """How load is put on a service.

    seconds  that are measured, after
    settle   seconds in which sessions come and nothing is measured
    stay     mean seconds that a session plays
    mix      kinds of walk, and how often each is
    lead     chunks by which moves run ahead of what is shown
    warm     chunks of a session before it is measured: as many as fill a window
    seed     of all that is random
    """

    seconds: float
    settle: float
    stay: float
    mix: dict[str, float]
    lead: int = 2
    warm: int = 8
    seed: int = 0


async def probe(client: WalkClient) -> Opened:
    """What worlds of a service are like; it has drawn for somebody then."""
    async with client.open() as walk:
        await walk.move(Action())
        return walk.opened


async def loaded(client: WalkClient, rate: float, plan: Plan, playing: float) -> Summary:
    """What a service does while sessions arrive at this rate. A chunk plays `playing` seconds."""
    clock = asyncio.get_running_loop().time
    coming = arrivals(rate, plan.settle + plan.seconds, plan.stay, plan.mix, plan.seed)
    begin, end = clock(), clock() + plan.settle + plan.seconds
    visits = Visits(plan, begin + plan.settle, end)
    tasks = [asyncio.create_task(visits.visit(client, who, begin + who.at)) for who in coming]
    sampled: list[int] = []
    while clock() < end:
        await asyncio.sleep(min(SAMPLE_SECONDS, max(end - clock(), 0)))
        if clock() > visits.settled:
            sampled.append(visits.walking)
    await _all(tasks)
    return summary(rate, sum(sampled) / max(len(sampled), 1), visits.seen, playing)


async def _all(tasks: Sequence[asyncio.Task[Visited]]) -> None:
    """Wait until all have closed, or have had the time for it. Raises what is a defect of the load's own."""
    if not tasks:
        return
    done, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()


class Visits:
    """Visits of one load; what comes after `settled` and before `end`, by the loop's clock, is measured.

    walking  sessions that there are now
    seen     what all saw that have come, those too that did not close in time
    """

    def __init__(self, plan: Plan, settled: float, end: float) -> None:
        self.plan, self.settled, self.end, self.walking = plan, settled, end, 0
        self.seen: list[Visited] = []
        self._clock = asyncio.get_running_loop().time

    async def visit(self, client: WalkClient, who: Visit, at: float) -> Visited:
        """One session, from its time on until it has played enough, or all is over."""
        await self._until(at)
        seen = Visited(counted=at >= self.settled, late=self._clock() - at)
        self.seen.append(seen)
        viewer: Viewer | None = None
        self.walking += 1
        try:
            async with asyncio.timeout_at(self.end):
                async with client.open(seed=who.seed, tour=TOUR if who.kind == TOURS else "") as walk:
                    if who.kind == TOURS:
                        await self._shown(walk, seen, at)
                    viewer = Viewer(playing_seconds(walk.opened), self.plan.lead, self._clock())
                    await self._watch(walk, who, viewer, seen, at)
        except TimeoutError:
            if viewer is not None and viewer.played >= self.plan.warm:
                seen.unanswered = viewer.overdue(self.end)
            if seen.first is None:
                seen.first = self.end - at
        except WorldKVError as error:
            if viewer is None:
                seen.refused = type(error).__name__
            else:
                seen.failed = type(error).__name__
        finally:
            self.walking -= 1
        return seen

    async def _watch(self, walk: Walk, who: Visit, viewer: Viewer, seen: Visited, at: float) -> None:
        """Move when moves are due, and see what comes of it."""
        actions = who.actions()

        async def moved(due: float) -> tuple[Drawn, float]:
            move = [*islice(actions, walk.frames)]
            await self._until(due)
            return await walk.move(move), self._clock()

        under_way = deque(asyncio.create_task(moved(viewer.begun)) for _ in range(viewer.lead))
        try:
            while viewer.played * viewer.playing < who.seconds:
                drawn, now = await under_way.popleft()
                played = viewer.came(now)
                if seen.first is None:
                    seen.first = now - at
                seen.saw(played, drawn, played.chunk >= self.plan.warm and now >= self.settled)
                under_way.append(asyncio.create_task(moved(viewer.next_due)))
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _shown(self, walk: Walk, seen: Visited, at: float) -> None:
        """Watch a tour to its end: nobody moves before."""
        left = -(-len(parse_path(TOUR)) // walk.frames)
        async for event in walk.events():
            if isinstance(event, Drawn):
                if seen.first is None:
                    seen.first = self._clock() - at
                left -= 1
            if not left:
                return

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(when - self._clock(), 0))


def playing_seconds(opened: Opened) -> float:
    """For which a chunk of such a world plays."""
    return opened.pictures / opened.pictures_per_second
