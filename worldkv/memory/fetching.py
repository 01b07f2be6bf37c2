"""Fetches under way: each chunk at most once at a time, whoever asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from worldkv.chunk import ChunkKey
from worldkv.memory.hot import HotSet
from worldkv.memory.source import Fetched, Source
from worldkv.memory.stats import MemoryStats
from worldkv.store import Miss

AHEAD = 2
"""Fetches ahead at a time: few, so that the first ones come first. What a step wants is fetched at once."""

Outcome = Fetched | Miss
Told = Callable[[ChunkKey, Outcome | None], None]
"""Is told what a fetch has brought; None if it failed."""


@dataclass(eq=False)
class _Fetch:
    """A chunk that is asked for.

    wanted  whether a step waits for it, or has
    result  what came; asked for by many, cancelled by none of them
    task    None while it waits for its turn
    """

    key: ChunkKey
    wanted: bool
    result: asyncio.Future[Outcome]
    task: asyncio.Task[Fetched | Miss] | None = None


class Fetches:
    """Brings chunks from a source into a hot set.

    What a step wants is fetched at once, what is fetched ahead in turn. A fetch that a step has asked for is not given
    up, however late it comes: it is at hand for later steps then.
    """

    def __init__(self, source: Source, hot: HotSet, stats: MemoryStats) -> None:
        self.source, self.hot, self.stats = source, hot, stats
        self._under_way: dict[ChunkKey, _Fetch] = {}  # in the order in which they were asked for

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._under_way

    def want(self, key: ChunkKey) -> asyncio.Future[Outcome]:
        """What will come of a chunk, which is asked for unless it is already. Shield it when awaiting."""
        fetch = self._under_way.get(key) or self._add(key)
        fetch.wanted = True
        self._begin(fetch)
        return fetch.result

    def ahead(self, keys: Collection[ChunkKey], told: Told) -> None:
        """Fetch chunks for steps to come, the first ones first; each is told of when it ends, unless it is given up."""
        for key in keys:
            if (entry := self.hot.get(key)) is not None:  # a step has brought it meanwhile
                told(key, Fetched(entry, 0, perf_counter()))
                continue
            fetch = self._under_way.get(key) or self._add(key)
            fetch.result.add_done_callback(partial(_tell, told, key))
        self._go_on()

    def give_up(self, keys: Collection[ChunkKey]) -> None:
        """Fetch these no more, but for those that a step has asked for."""
        for key in keys:
            fetch = self._under_way.get(key)
            if fetch and not fetch.wanted:
                self._end(fetch)
        self._go_on()

    async def close(self) -> None:
        """Give up everything, and wait until it has ended."""
        fetches = [*self._under_way.values()]
        for fetch in fetches:
            self._end(fetch)
        await asyncio.gather(*(fetch.task for fetch in fetches if fetch.task), return_exceptions=True)

    def _add(self, key: ChunkKey) -> _Fetch:
        fetch = _Fetch(key, False, asyncio.get_running_loop().create_future())
        self._under_way[key] = fetch
        return fetch

    def _end(self, fetch: _Fetch) -> None:
        del self._under_way[fetch.key]
        fetch.result.cancel()
        if fetch.task:
            fetch.task.cancel()

    def _go_on(self) -> None:
        """Begin what may begin of what is fetched ahead."""
        ahead = [fetch for fetch in self._under_way.values() if not fetch.wanted]
        room = AHEAD - sum(fetch.task is not None for fetch in ahead)
        for fetch in [fetch for fetch in ahead if fetch.task is None][: max(room, 0)]:
            self._begin(fetch)

    def _begin(self, fetch: _Fetch) -> None:
        if fetch.task is None:
            fetch.task = asyncio.create_task(self.source.fetch(fetch.key), name=f"fetch {fetch.key}")
            fetch.task.add_done_callback(partial(self._ended, fetch))

    def _ended(self, fetch: _Fetch, task: asyncio.Task[Fetched | Miss]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._under_way.get(fetch.key) is not fetch:  # it was given up
            return
        del self._under_way[fetch.key]
        if task.cancelled():  # everything ends
            fetch.result.cancel()
            return
        if error is not None:
            fetch.result.set_exception(error)
            fetch.result.exception()  # is raised where it is waited for, if anywhere
        elif isinstance(fetched := task.result(), Miss):
            fetch.result.set_result(fetched)
        else:
            self.stats.fetched_bytes += fetched.nbytes
            self.hot.keep(fetch.key, fetched.entry)
            fetch.result.set_result(fetched)
        self._go_on()


def _tell(told: Told, key: ChunkKey, result: asyncio.Future[Outcome]) -> None:
    if not result.cancelled():
        told(key, None if result.exception() else result.result())
