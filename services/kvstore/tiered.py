"""Parts in RAM over parts in Redis: where a part is read from, how safe it is, and what is still to be copied.

    put     immutable part   RAM and Redis; RAM alone if Redis does not answer in time, and copied up when it does
            KV part          RAM, then Redis behind the caller's back, through a queue bounded by bytes
    get     RAM, else Redis, from where the part is promoted into RAM if nothing that has no second copy is in the way;
            TIER_DOWN, to be asked again, if there is no room even to pass it on: it is not gone
    delete  RAM and Redis; until Redis answers nobody is told that a chunk is gone for good

A part is kept, or not, whatever becomes of the caller: what is under way here is never cancelled with a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar
from weakref import finalize

from services.kvstore.behind import WriteBehind
from services.kvstore.held import Held, Reservation
from services.kvstore.lower import Lower, TierConfig
from services.kvstore.ram import RamTier
from worldkv.chunk import Branch
from worldkv.errors import Conflict, NotFound, OverBudget, Unavailable, WorldKVError
from worldkv.format import Kind
from worldkv.shared import Extent
from worldkv.store import Level, Miss, PartKey

T = TypeVar("T")
_log = logging.getLogger(__name__)

PROMOTING_SHARE = 4
"""What is on its way from Redis at a time has at most this part of RAM, if it is several parts."""


class Passing:
    """A part read from Redis that RAM had no room for: like `Held`, but known to its readers only."""

    extents: tuple[Extent, ...] = ()

    def __init__(self, size: int, checksum: int) -> None:
        self.size, self.checksum = size, checksum
        self.room = memoryview(bytearray(size))

    @property
    def views(self) -> tuple[memoryview, ...]:
        return (self.room.toreadonly(),)

    def pin(self) -> AbstractContextManager[None]:
        return nullcontext()


class Found(NamedTuple):
    """A part, and where it was found. Pin it before the next `await`."""

    part: Held | Passing
    level: Level


class Tiered:
    """What one shard keeps, in RAM and, where there is one, in Redis.

    counts  what happened since it was made: `promoted`, `behind` (KV parts written behind), `dropped` (KV parts
            that were not, because the queue was full or Redis had no room), `vanished` (parts that made room before
            they were written), `copied_up`, `lower_failed`
    """

    def __init__(self, ram: RamTier, lower: Lower | None, config: TierConfig) -> None:
        self.ram, self.lower, self.config = ram, lower, config
        self.counts: Counter[str] = Counter()
        self.behind = WriteBehind(ram, lower, config, self.counts) if lower is not None else None
        self._promotions: dict[tuple[str, PartKey], asyncio.Task[Found | Miss]] = {}
        self._ups: dict[tuple[str, PartKey], asyncio.Task[None]] = {}
        self._passing_bytes = self._promoting_bytes = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def level(self) -> Level:
        """The highest level it reaches now."""
        return Level.REDIS if self.lower is not None and self.lower.available else Level.ONE

    @property
    def waiting(self) -> int:
        """Immutable parts kept in RAM alone although there should be a copy in Redis."""
        return self.behind.waiting if self.behind else 0

    async def close(self) -> None:
        """End what is under way, and write what waits as far as `flush_seconds` go. Leaves the tiers open."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.config.flush_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.behind:
            await self.behind.close(self.config.flush_seconds)

    async def keep(
        self,
        tenant: str,
        key: PartKey,
        room: Reservation,
        checksum: int,
        least: Level = Level.ONE,
        seconds: float | None = None,
    ) -> Level:
        """Keep what was written to `room`; answers how safe it is. The room is given back if this raises.

        seconds  after which an immutable part that is still on its way to Redis is answered as what it is until then,
                 kept here; None: wait for Redis. Does not bound what `least` asks for

        Raises Conflict if the chunk was deleted, Unavailable if `least` cannot be had.
        """
        return await self._alone(self._keep(tenant, key, room, checksum, least, seconds))

    async def confirm(self, held: Held, least: Level = Level.ONE, seconds: float | None = None) -> Level:
        """How safe a part is that is held already, after doing for it what `keep` would have done.

        Raises Conflict if the chunk was deleted, Unavailable if `least` cannot be had.
        """
        return await self._alone(self._confirm(held, least, seconds))

    async def find(self, tenant: str, key: PartKey) -> Found | Miss:
        """The part from RAM or Redis, or why it is in neither."""
        here = self.here(tenant, key)
        if isinstance(here, Found) or here is Miss.DELETED or self.lower is None:
            return here
        if self.behind and self.behind.doomed(tenant, key):
            return Miss.EVICTED
        task = self._promotions.get((tenant, key))
        if task is None:
            task = self._spawn(self._promote(self.lower, tenant, key, here))
            self._promotions[tenant, key] = task
            task.add_done_callback(lambda _: self._promotions.pop((tenant, key), None))
        return await asyncio.shield(task)

    def here(self, tenant: str, key: PartKey) -> Found | Miss:
        """The part from RAM, or why it is not there. Counts as a use."""
        held = self.ram.find(tenant, key)
        return held if isinstance(held, Miss) else Found(held, Level.ONE)

    async def first_bytes(self, tenant: str, keys: Sequence[PartKey], count: int) -> list[bytes]:
        """The first bytes of each of these parts, `count` at most, unchecked; none where no tier that answers has it.

        Is no use of a part, and promotes none.
        """
        found = {key: self.ram.first_bytes(tenant, key, count) for key in keys}
        elsewhere = [key for key, head in found.items() if not head]
        if elsewhere and self.lower is not None and self.behind is not None:
            below = [key for key in elsewhere if not self.behind.doomed(tenant, key)]
            try:
                found |= await self.lower.first_bytes(tenant, below, count)
            except Unavailable:
                self.counts["lower_failed"] += 1
        return [found[key] for key in keys]

    async def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop parts as `Store.delete` does; answers how many were held.

        If Redis does not answer, it is told when it does again, and until then its copies are hidden by this shard;
        but should this shard die before, they are back. So deleting a chunk raises Unavailable then.
        """
        doomed = {*keys, *(PartKey(key.chunk, "kv") for key in keys if key.kind == "part")}
        found = [self.ram.look(tenant, key) for key in doomed]
        alone = sum(isinstance(held, Held) and not held.below for held in found)
        count = self.ram.delete(tenant, keys)
        if self.behind is None or not keys:
            return count
        for key in doomed:
            self.behind.discard(tenant, key)
        self.behind.doom(tenant, keys)
        try:
            return alone + await self._alone(self.behind.drop(tenant, keys))
        except Unavailable as error:
            self.counts["lower_failed"] += 1
            chunks = sum(key.kind == "part" for key in keys)
            if chunks:
                raise Unavailable(f"{chunks} chunks are deleted here, but not for good: {error}") from error
            return count

    async def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        """Keys held of a branch in either tier, in order. Raises Unavailable if Redis does not answer."""
        found = {*self.ram.scan(tenant, branch, begin, end, kind)}
        if self.lower is not None and self.behind is not None:
            async for key in self.lower.scan(tenant, branch, begin, end, kind):
                if not self.behind.doomed(tenant, key):
                    found.add(key)
        for key in sorted(found, key=lambda key: key.place):
            yield key

    def lost(self) -> None:
        """Redis has lost what it had: everything here is to be copied up again, as far as the queue goes."""
        self.ram.mark_none_safe()
        if self.behind:
            found = [self.ram.look(*name) for name in self.ram.last_copies()]
            self.behind.add_all([each for each in found if isinstance(each, Held)])

    def retain(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends by itself, whatever becomes of who waits for it."""
        return self._spawn(job)

    async def _alone(self, job: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._spawn(job))

    def _spawn(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, WorldKVError):  # others have been told whoever waited
            _log.error("a job of the tiers failed", exc_info=error)

    async def _keep(
        self, tenant: str, key: PartKey, room: Reservation, checksum: int, least: Level, seconds: float | None
    ) -> Level:
        try:
            if least > Level.ONE:  # refused, or kept there: not kept here first
                await self._write(tenant, key, [view.toreadonly() for view in room.views], checksum)
            held = room.commit(checksum)
        finally:
            room.abort()
        if least > Level.ONE:
            self.ram.mark_safe(tenant, key)
            return Level.REDIS
        return await self._raised(held, seconds)

    async def _confirm(self, held: Held, least: Level, seconds: float | None) -> Level:
        if held.below:
            return Level.REDIS
        if least is Level.ONE:
            return await self._raised(held, seconds)
        try:
            with held.pin():
                await self._write(held.tenant, held.key, held.views, held.checksum)
        except NotFound as error:
            if self.ram.find(held.tenant, held.key) is Miss.DELETED:
                raise Conflict(f"what was deleted stays deleted: {held.key}") from error
            raise OverBudget(f"{held.key} was held, and made room meanwhile") from error
        self.ram.mark_safe(held.tenant, held.key)
        return Level.REDIS

    async def _raised(self, held: Held, seconds: float | None) -> Level:
        """The level of a part that is held, after Redis had so long to take an immutable one; KV follows behind."""
        if self.behind and held.key.kind == "part" and not held.below:
            await self._up(self.behind, held, seconds)
        elif self.behind and not held.below:
            self.behind.add(held)
        if held.dropped and self.ram.find(held.tenant, held.key) is Miss.DELETED:
            raise Conflict(f"what was deleted stays deleted: {held.key}")
        return Level.REDIS if held.below else Level.ONE

    async def _up(self, behind: WriteBehind, held: Held, seconds: float | None) -> None:
        """Have an immutable part copied to Redis before others, and wait for it so long; it goes on by itself."""
        name = held.tenant, held.key
        task = self._ups.get(name)
        if task is None:
            task = self._ups[name] = self._spawn(behind.first(held))
            task.add_done_callback(lambda _: self._ups.pop(name, None))
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            task.result()

    async def _write(self, tenant: str, key: PartKey, views: Sequence[memoryview], checksum: int) -> None:
        """Have a part in Redis. Raises Unavailable if that cannot be, Conflict if the chunk was deleted."""
        if self.lower is None:
            raise Unavailable(f"{key} is to be kept in Redis, and there is none")
        if self.behind and self.behind.doomed(tenant, key):
            raise Unavailable(f"{key} is to be kept in Redis, where the one before it has to go first")
        try:
            await self.lower.put(tenant, key, views, checksum)
        except (Unavailable, OverBudget) as error:
            self.counts["lower_failed"] += 1
            raise Unavailable(f"{key} is to be kept in Redis: {error}") from error
        except Conflict:  # by another shard
            self.ram.delete(tenant, [PartKey(key.chunk, "part")])
            raise

    async def _promote(self, lower: Lower, tenant: str, key: PartKey, why: Miss) -> Found | Miss:
        """The part from Redis, put into RAM on the way. `why` is what RAM says."""
        room: list[Reservation | Passing] = []

        def into(size: int, checksum: int) -> Sequence[memoryview] | None:
            try:
                reserved = self._reserve(tenant, key, size)
            except OverBudget:
                if self._passing_bytes + size > self.config.passing_bytes:
                    return None
                passing = Passing(size, checksum)
                self._passing_bytes += size
                finalize(passing, self._passed, size).atexit = False
                room.append(passing)
                return (passing.room,)
            if isinstance(reserved, Held):
                return None  # somebody put it meanwhile
            self._promoting_bytes += size
            room.append(reserved)
            return reserved.views

        try:
            told = await lower.get(tenant, key, into)
            if isinstance(told, Miss):
                return told if told is not Miss.NEVER_STORED else why
            if not room:  # somebody put it meanwhile, or it is in Redis and has no way through just now
                here = self.here(tenant, key)
                return here if isinstance(here, Found) or here is Miss.DELETED else Miss.TIER_DOWN
            self.counts["promoted"] += 1
            if isinstance(room[0], Passing):
                return Found(room[0], Level.REDIS)
            held = room[0].commit(told.checksum)
            self.ram.mark_safe(tenant, key)
            return Found(held, Level.REDIS)
        except Conflict:
            return Miss.DELETED
        except Unavailable as error:
            self.counts["lower_failed"] += 1
            _log.debug("%s was not read from Redis: %s", key, error)
            return Miss.TIER_DOWN
        finally:
            for each in room:
                if isinstance(each, Reservation):
                    each.abort()
                    self._promoting_bytes -= each.size

    def _reserve(self, tenant: str, key: PartKey, size: int) -> Reservation | Held:
        """Room for a part that comes from Redis. Raises OverBudget if only last copies could make it, or if so much is
        on its way from there that a slow Redis would leave too little for those who put."""
        if self._promoting_bytes and self._promoting_bytes + size > self.ram.config.budget_bytes // PROMOTING_SHARE:
            raise OverBudget(f"{self._promoting_bytes} bytes are on their way from Redis already")
        return self.ram.reserve(tenant, key, size, spare=True)

    def _passed(self, size: int) -> None:
        self._passing_bytes -= size
