"""Immutable parts on their way to safety: put again and again until they are kept, and copied up later if need be."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from worldkv.chunk import ChunkKey, Part
from worldkv.errors import Conflict, DeadlineExceeded, OverBudget, Unavailable, WorldKVError
from worldkv.finder import Finder
from worldkv.format import encode_part as write_part
from worldkv.memory.stats import Kept
from worldkv.store import Level, Miss, PartKey, Store
from worldkv.tasks import tell_defect

PASSING = (Unavailable, DeadlineExceeded, OverBudget)
"""Why a store does not take something now, and may later."""
DOUBLINGS = 5
"""How often the wait between two attempts doubles."""

UNASKED = 32
"""Parts that may wait to be called kept, while nobody can say whose the world is, before that holds up a walk."""

Ours = Callable[[], Awaitable[None]]
"""Makes sure that a world is still that of whoever puts its parts. Raises Conflict if somebody has taken it over, and
Unavailable if that cannot be known now."""


async def alone() -> None:
    """Nobody takes the world over."""


class Backoff:
    """Waits that grow, cut short when a store answers again: those of many are woken at once.

    first_seconds  of the first wait
    """

    def __init__(self, first_seconds: float) -> None:
        self.first_seconds = first_seconds
        self._answers = asyncio.Event()

    def answered(self) -> None:
        """The store has taken something: whoever waits may try again."""
        self._answers.set()
        self._answers = asyncio.Event()

    async def wait(self, attempt: int) -> None:
        """Wait after so many attempts, from 0, that failed."""
        seconds = self.first_seconds * 2 ** min(attempt, DOUBLINGS) * random.uniform(0.5, 1)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._answers.wait()


class Keeper:
    """Keeps the immutable parts of a world's chunks, and tells how safe it is.

    ours     is asked after parts were put, before they count as kept: who takes the world over may not have seen them
    refused  why a part will never be kept, for example because its world is gone: the last one; None so far
    """

    def __init__(
        self,
        store: Store,
        finder: Finder,
        kept: Kept,
        most: int,
        backoff: Backoff,
        changed: Callable[[], None],
        ours: Ours,
    ) -> None:
        self.store, self.finder, self.most, self.backoff, self.changed = store, finder, most, backoff, changed
        self.ours = ours
        self.refused: WorldKVError | None = None
        self._before, self._end, self._beyond = [kept.level] if kept.end else [], kept.end, set[int]()
        self._waiting: dict[ChunkKey, tuple[Part, asyncio.Task[None]]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._landed: dict[ChunkKey, Level] = {}  # put, and not known to be ours yet
        self._asking: asyncio.Task[None] | None = None
        self._levels: Counter[Level] = Counter()
        self._low: dict[ChunkKey, Level] = {}
        self._best, self._better = Level.ONE, Backoff(backoff.first_seconds)
        self._raising: asyncio.Task[None] | None = None
        self._fewer = asyncio.Event()

    @property
    def kept(self) -> Kept:
        """How far the world is safe."""
        own = [level for level, n in self._levels.items() if n]
        return Kept(self._end, min([*own, *self._before], default=Level.ONE))

    @property
    def unkept(self) -> int:
        """Parts that wait, and those beyond `UNASKED` that were put and do not count as kept yet."""
        return len(self._waiting) + max(len(self._landed) - UNASKED, 0)

    def part(self, key: ChunkKey) -> Part | None:
        """A part that waits."""
        waiting = self._waiting.get(key)
        return waiting and waiting[0]

    async def put(self, part: Part) -> None:
        """Keep a part now, and leave the index to the caller. Raises what the store raises."""
        level = await self._put(part)
        await self.ours()
        self._note(part.meta.key, level)

    def begin(self, part: Part) -> asyncio.Task[None]:
        """Keep a part, however long it takes, and let the index know of it then. The task ends when that is done.

        What can never be kept ends it too: then `refused` says why.
        """
        if part.meta.key not in self._waiting:
            task = asyncio.create_task(self._keep(part), name=f"keep {part.meta.key}")
            task.add_done_callback(tell_defect)
            self._waiting[part.meta.key] = part, task
        return self._waiting[part.meta.key][1]

    async def fewer(self) -> None:
        """Wait until fewer than `most` parts wait; see `unkept`."""
        while self.unkept >= self.most:
            self._fewer.clear()
            await self._fewer.wait()

    async def settle(self) -> None:
        """Wait until none waits, and the index was told or does not answer."""
        while tasks := self._underway():
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Give up."""
        tasks = self._underway() + ([self._raising] if self._raising else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _underway(self) -> list[asyncio.Task[None]]:
        asking = [] if self._asking is None or self._asking.done() else [self._asking]
        return [*(task for _, task in self._waiting.values()), *self._telling, *asking]

    async def _put(self, part: Part) -> Level:
        key = PartKey(part.meta.key, "part")
        level = (await self.store.put({key: write_part(part)}))[key]
        self.backoff.answered()
        return level

    async def _keep(self, part: Part) -> None:
        try:
            for attempt in itertools.count():
                try:
                    self._landed[part.meta.key] = await self._put(part)
                    break
                except PASSING:
                    await self.backoff.wait(attempt)
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(), name="ask whether the world is still ours")
                self._asking.add_done_callback(tell_defect)
            telling = asyncio.create_task(self._tell(part), name=f"index {part.meta.key}")
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
            telling.add_done_callback(tell_defect)
        except WorldKVError as error:
            self.refused = error
        finally:
            del self._waiting[part.meta.key]
            self._fewer.set()
            self.changed()

    async def _ask(self) -> None:
        """Call kept what was put, once the world is known to be ours after that: one question for all there is."""
        attempt = 0
        while landed := {**self._landed}:
            try:
                await self.ours()
            except PASSING:
                await self.backoff.wait(attempt)
                attempt += 1
                continue
            except WorldKVError as error:
                self.refused = error
                self._landed.clear()
            else:
                for key, level in landed.items():
                    del self._landed[key]
                    self._note(key, level)
            self._fewer.set()
            self.changed()

    async def _tell(self, part: Part) -> None:
        """Let the index know, which may not answer: nobody waits for that."""
        try:
            await self.finder.add(part.meta)
        except WorldKVError as error:
            self.refused = error
            self.changed()

    def _note(self, key: ChunkKey, level: Level) -> None:
        """A part is kept at a level."""
        if key.index < self._end or key.index in self._beyond:  # it was put before
            return
        self._levels[level] += 1
        self._beyond.add(key.index)
        while self._end in self._beyond:
            self._beyond.remove(self._end)
            self._end += 1
        if level < Level.REDIS:
            self._low[key] = level
        self._best = max(self._best, level)
        if level == self._best:
            self._better.answered()
        if self._behind() and (self._raising is None or self._raising.done()):
            self._raising = asyncio.create_task(self._raise(), name="copy parts up")
            self._raising.add_done_callback(tell_defect)

    def _behind(self) -> list[ChunkKey]:
        """Parts that are kept at a lower level than others."""
        if not any(n and level < self._best for level, n in self._levels.items()):
            return []
        return [key for key, level in self._low.items() if level < self._best]

    async def _raise(self) -> None:
        """Put parts again that are kept at a lower level than others, until there are none."""
        for attempt in itertools.count():
            await self._better.wait(attempt)
            for key in self._behind():
                before, now = self._low[key], await self._again(key)
                if isinstance(now, Miss):  # wherever it is; the others can be had
                    continue
                if now == before:  # nothing better yet
                    break
                self._low.pop(key)
                self._levels[before] -= 1
                if now is not None:
                    self._levels[now] += 1
                if now is not None and now < Level.REDIS:
                    self._low[key] = now
            self.changed()
            if not self._behind():
                return

    async def _again(self, chunk: ChunkKey) -> Level | Miss | None:
        """Put a part again that a store has; answers its level, None if it is gone, and why nobody who answers can give
        it, which may pass with who does not answer."""
        key = PartKey(chunk, "part")
        try:
            frame = (await self.store.get([key]))[key]
            if frame in (Miss.DELETED, Miss.NEVER_STORED):
                return None
            if isinstance(frame, Miss):
                return self._low[chunk] if frame in (Miss.LATE, Miss.TIER_DOWN) else frame
            return (await self.store.put({key: frame}))[key]
        except PASSING:
            return self._low[chunk]
        except Conflict:
            return None
