"""Stores around stores: one that counts and times, one that fails on purpose."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from worldkv.chunk import Branch
from worldkv.errors import InvalidInput, Unavailable, WorldKVError
from worldkv.format import Frame, Kind
from worldkv.store import Level, Miss, PartKey, Store


@dataclass
class StoreCounters:
    """What went through a store since it was made; only ever grows.

    calls, seconds   by method; the time of a scan includes that of whoever reads it
    errors           calls that raised, by (method, class of the error)
    hits, hit_bytes  keys found by `get`, and the bytes of their frames
    misses           keys not found, by reason
    puts, put_bytes  frames given to `put`, and their bytes, also those that were held already
    levels           acknowledged frames by level
    deleted          frames that `delete` dropped
    """

    calls: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    hits: int = 0
    hit_bytes: int = 0
    misses: Counter[Miss] = field(default_factory=Counter)
    puts: int = 0
    put_bytes: int = 0
    levels: Counter[Level] = field(default_factory=Counter)
    deleted: int = 0


class ObservedStore:
    """A store that counts and times another in `counters`, and changes nothing.

    clock  seconds, rising
    """

    def __init__(self, inner: Store, clock: Callable[[], float] = time.perf_counter) -> None:
        self.inner, self.counters, self._clock = inner, StoreCounters(), clock

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        with self._call("get"):
            found = await self.inner.get(keys)
        for frame in found.values():
            if isinstance(frame, Miss):
                self.counters.misses[frame] += 1
            else:
                self.counters.hits += 1
                self.counters.hit_bytes += frame.nbytes
        return found

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        with self._call("put"):
            levels = await self.inner.put(items)
        self.counters.puts += len(items)
        self.counters.put_bytes += sum(frame.nbytes for frame in items.values())
        self.counters.levels.update(levels.values())
        return levels

    async def delete(self, keys: Collection[PartKey]) -> int:
        with self._call("delete"):
            count = await self.inner.delete(keys)
        self.counters.deleted += count
        return count

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        with self._call("scan"):
            async for key in self.inner.scan(branch, begin, end, kind):
                yield key

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        begin = self._clock()
        try:
            yield
        except WorldKVError as error:
            self.counters.errors[method, type(error).__name__] += 1
            raise
        finally:
            self.counters.calls[method] += 1
            self.counters.seconds[method] = self.counters.seconds.get(method, 0.0) + self._clock() - begin


@dataclass(frozen=True)
class Faults:
    """How often a `FaultyStore` fails; shares of calls or keys, each between 0 and 1, InvalidInput if not.

    delay_seconds  longest wait before a call; its length is drawn evenly from 0 on
    refused        calls that raise Unavailable and do nothing
    unanswered     calls that raise Unavailable after they were done: their caller cannot know
    dropped        keys that `get` does not find although they are held
    reason         what it says of dropped keys
    """

    delay_seconds: float = 0.0
    refused: float = 0.0
    unanswered: float = 0.0
    dropped: float = 0.0
    reason: Miss = Miss.TIER_DOWN

    def __post_init__(self) -> None:
        if not 0 <= self.delay_seconds < float("inf"):
            raise InvalidInput(f"delay_seconds must be finite and not negative, got {self.delay_seconds}")
        for name in ("refused", "unanswered", "dropped"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is a share between 0 and 1, got {getattr(self, name)}")


class FaultyStore:
    """A store that fails on purpose: the same seed and calls, the same faults. `faults` may be changed at any time."""

    def __init__(self, inner: Store, faults: Faults, seed: int = 0) -> None:
        self.inner, self.faults, self._random = inner, faults, Random(seed)

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        await self._before("get")
        found = await self.inner.get(keys)
        self._after("get")
        return {key: self._hidden(frame) for key, frame in found.items()}

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        await self._before("put")
        levels = await self.inner.put(items)
        self._after("put")
        return levels

    async def delete(self, keys: Collection[PartKey]) -> int:
        await self._before("delete")
        count = await self.inner.delete(keys)
        self._after("delete")
        return count

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        await self._before("scan")
        async for key in self.inner.scan(branch, begin, end, kind):
            yield key
        self._after("scan")

    async def _before(self, method: str) -> None:
        if self.faults.delay_seconds:
            await asyncio.sleep(self._random.uniform(0, self.faults.delay_seconds))
        if self._falls(self.faults.refused):
            raise Unavailable(f"{method} was refused on purpose")

    def _after(self, method: str) -> None:
        if self._falls(self.faults.unanswered):
            raise Unavailable(f"the answer to {method} was lost on purpose")

    def _hidden(self, frame: Frame | Miss) -> Frame | Miss:
        return self.faults.reason if isinstance(frame, Frame) and self._falls(self.faults.dropped) else frame

    def _falls(self, share: float) -> bool:
        return self._random.random() < share
