"""Keys and values that are coded and put behind the caller's back, within a bound of bytes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from worldkv.chunk import ChunkKey, KVPart
from worldkv.coding import KV
from worldkv.errors import DeadlineExceeded, Unavailable, WorldKVError
from worldkv.memory.coder import Coder
from worldkv.memory.keeping import Backoff
from worldkv.memory.source import Fetched, Source
from worldkv.store import Miss
from worldkv.tasks import tell_defect

Code = Callable[[ChunkKey, KV], Awaitable[KVPart]]
Put = Callable[[ChunkKey, KVPart], Awaitable[None]]


@dataclass(eq=False)
class _Held:
    nbytes: int
    coded: asyncio.Task[KVPart]
    kept: asyncio.Task[None] | None = None


class Waiting:
    """Chunks that wait to be kept, as the store will give them; all others from another source."""

    def __init__(self, queue: KVQueue, coder: Coder, others: Source) -> None:
        self.queue, self.coder, self.others = queue, coder, others

    async def fetch(self, key: ChunkKey) -> Fetched | Miss:
        kv = await self.queue.part(key)
        if kv is None:
            return await self.others.fetch(key)
        came = perf_counter()
        return Fetched(await self.coder.entry(key, kv), 0, came)


class KVQueue:
    """Chunks whose keys and values wait to be kept, oldest first.

    room_bytes  that may wait: uncoded ones count as they are
    code, put   how they are coded, and kept
    dropped     is told whose keys and values are dropped after all, and why: no room, no such chunk any more, or
                numbers that cannot be coded
    """

    def __init__(
        self,
        room_bytes: int,
        code: Code,
        put: Put,
        backoff: Backoff,
        dropped: Callable[[ChunkKey, WorldKVError], None],
    ) -> None:
        self.room_bytes, self.used_bytes = room_bytes, 0
        self.code, self.put, self.backoff, self.dropped = code, put, backoff, dropped
        self._waiting: dict[ChunkKey, _Held] = {}
        self._coding, self._putting = asyncio.Lock(), asyncio.Lock()

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._waiting

    def __iter__(self) -> Iterator[ChunkKey]:
        return iter(self._waiting)

    def add(self, key: ChunkKey, kv: KV | KVPart) -> bool:
        """Take in a chunk's keys and values, which must not change any more; False if there is no room for them."""
        if key in self._waiting:
            return True
        if self.used_bytes + kv.nbytes > self.room_bytes:
            return False
        self.used_bytes += kv.nbytes
        waiting = _Held(kv.nbytes, asyncio.create_task(self._code(key, kv), name=f"code {key}"))
        self._waiting[key] = waiting
        waiting.kept = asyncio.create_task(self._keep(key, waiting), name=f"keep KV of {key}")
        waiting.kept.add_done_callback(tell_defect)  # of coding too, which it waits for
        return True

    async def part(self, key: ChunkKey) -> KVPart | None:
        """The KV part of a chunk that waits, as the store will have it; None if it does not, or cannot be coded."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return None
        try:
            return await asyncio.shield(waiting.coded)
        except WorldKVError:
            return None

    async def settle(self) -> None:
        """Wait until none waits."""
        while self._waiting:
            await asyncio.wait([waiting.kept for waiting in self._waiting.values() if waiting.kept])

    async def close(self) -> None:
        """Give up what waits."""
        tasks = [task for each in self._waiting.values() for task in (each.coded, each.kept) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()  # of tasks that never ran, too
        self.used_bytes = 0

    async def _code(self, key: ChunkKey, kv: KV | KVPart) -> KVPart:
        if isinstance(kv, KVPart):
            return kv
        async with self._coding:
            return await self.code(key, kv)

    async def _keep(self, key: ChunkKey, waiting: _Held) -> None:
        try:
            kv = await waiting.coded
            self.used_bytes += kv.nbytes - waiting.nbytes
            waiting.nbytes = kv.nbytes
            async with self._putting:
                await self._put(key, kv)
        except WorldKVError as error:
            self.dropped(key, error)
        finally:
            self.used_bytes -= waiting.nbytes
            del self._waiting[key]

    async def _put(self, key: ChunkKey, kv: KVPart) -> None:
        for attempt in itertools.count():
            try:
                await self.put(key, kv)
                return
            except (Unavailable, DeadlineExceeded):
                await self.backoff.wait(attempt)
