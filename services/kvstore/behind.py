"""What is still to be done in Redis, behind everybody's back: parts to copy there, and parts to drop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress

from services.kvstore.held import Held
from services.kvstore.lower import Lower, TierConfig
from services.kvstore.ram import RamTier
from worldkv.errors import Conflict, NotFound, OverBudget, Unavailable
from worldkv.store import Miss, PartKey

_log = logging.getLogger(__name__)


class WriteBehind:
    """Deletions first, then immutable parts, then KV parts, each oldest first. Only KV is bounded, and may be left out.

    queued_bytes  of KV parts that wait
    counts        shared with `Tiered`
    """

    def __init__(self, ram: RamTier, lower: Lower, config: TierConfig, counts: Counter[str]) -> None:
        self.queued_bytes = 0
        self._ram, self._lower, self._config, self._counts = ram, lower, config, counts
        self._waiting: dict[tuple[str, PartKey], None] = {}
        self._queue: dict[tuple[str, PartKey], int] = {}  # with their bytes
        self._doomed: dict[str, set[PartKey]] = {}
        self._busy: set[tuple[str, PartKey]] = set()  # being written now
        self._dropping: set[tuple[str, PartKey]] = set()  # being dropped now
        self._work, self._done = asyncio.Event(), asyncio.Event()
        self._writers = [asyncio.create_task(self._run()) for _ in range(config.writers)]

    @property
    def waiting(self) -> int:
        """Immutable parts that wait."""
        return len(self._waiting)

    @property
    def queued(self) -> int:
        """KV parts that wait."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether all is done."""
        return not (self._waiting or self._queue or self._doomed or self._busy)

    def add(self, held: Held) -> None:
        """Copy a part when it can be; a KV part only if the queue has room for it."""
        self._done.clear()
        name = held.tenant, held.key
        if held.key.kind == "part":
            self._waiting[name] = None
        elif name not in self._queue:
            if self.queued_bytes + held.size > self._config.queue_bytes:
                self._counts["dropped"] += 1
                return
            self._queue[name] = held.size
            self.queued_bytes += held.size
        self._work.set()

    def add_all(self, parts: Iterable[Held]) -> None:
        """Copy all of these when it can be; of KV the first, as far as the queue goes. These are copied last: being
        copied counts as a use, and what was used last stays so."""
        left, chosen = self._config.queue_bytes - self.queued_bytes, []
        for held in parts:
            if held.key.kind == "kv" and (held.tenant, held.key) not in self._queue:
                if held.size > left:
                    self._counts["dropped"] += 1
                    continue
                left -= held.size
            chosen.append(held)
        for held in reversed(chosen):
            self.add(held)

    async def first(self, held: Held) -> None:
        """Copy an immutable part before all that waits; `held.below` tells whether Redis has it. If not, it waits."""
        name = held.tenant, held.key
        self.add(held)
        if name in self._busy:
            return
        self._busy.add(name)
        try:
            await self._copy(*name)
        except (Unavailable, OverBudget) as error:
            self._counts["lower_failed"] += 1
            _log.debug("%s is not in Redis yet: %s", held.key, error)
        finally:
            self._busy.discard(name)
            self._work.set()

    def discard(self, tenant: str, key: PartKey) -> None:
        """A part need not be copied any more."""
        self._waiting.pop((tenant, key), None)
        self.queued_bytes -= self._queue.pop((tenant, key), 0)

    def doom(self, tenant: str, keys: Collection[PartKey]) -> None:
        """These are to be dropped; until that is done they are `doomed`."""
        self._done.clear()
        self._doomed.setdefault(tenant, set()).update(keys)

    def doomed(self, tenant: str, key: PartKey) -> bool:
        """Whether Redis may have a part that was deleted."""
        keys = self._doomed.get(tenant, ())
        return key in keys or PartKey(key.chunk, "part") in keys

    async def drop(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop doomed parts now; answers how many Redis had. Raises Unavailable; they stay doomed then."""
        names = {(tenant, key) for key in keys}
        self._dropping |= names
        try:
            count = await self._lower.delete(tenant, keys)
        finally:
            self._dropping -= names
            self._work.set()
        left = self._doomed.get(tenant, set())
        left.difference_update(keys)
        if not left:
            self._doomed.pop(tenant, None)
        return count

    async def close(self, flush_seconds: float) -> None:
        """Do what is to be done, as far as the seconds go, then end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(flush_seconds):
                self._work.set()  # so that a writer looks, and says if all is done
                await self._done.wait()
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        if not self.idle:
            _log.warning("%d immutable and %d KV parts have no copy in Redis", self.waiting, self.queued)

    async def _run(self) -> None:
        while True:
            try:
                if not await self._once():
                    if self.idle:
                        self._done.set()
                    self._work.clear()
                    await self._work.wait()
            except (Unavailable, OverBudget) as error:
                self._counts["lower_failed"] += 1
                _log.debug("nothing can be written to Redis: %s", error)
                await asyncio.sleep(self._config.retry_seconds)

    async def _once(self) -> bool:
        """Do the next thing; False if there is none. Raises Unavailable and OverBudget, and the thing stays to do."""
        for tenant, keys in self._doomed.items():
            if left := {key for key in keys if (tenant, key) not in self._dropping}:
                await self.drop(tenant, left)
                return True
        for names in (self._waiting, self._queue):
            for name in names:
                if name not in self._busy and not self.doomed(*name):
                    self._busy.add(name)
                    try:
                        copied = await self._copy(*name)
                        self._counts["copied_up" if name[1].kind == "part" else "behind"] += copied
                    finally:
                        self._busy.discard(name)
                    return True
        return False

    async def _copy(self, tenant: str, key: PartKey) -> bool:
        """Whether Redis has a part now that waited; if not, it need not have it. Raises Unavailable and OverBudget."""
        held = self._ram.look(tenant, key)
        if not isinstance(held, Held):
            self._counts["vanished"] += key.kind == "kv"
            self.discard(tenant, key)
            return False
        copied = False
        with suppress(Conflict, NotFound), held.pin():
            try:
                await self._lower.put(tenant, key, held.views, held.checksum)
            except OverBudget:
                if key.kind == "part":
                    raise
                self._counts["dropped"] += 1
                self.discard(tenant, key)
                return False
            except Conflict:  # deleted by another shard
                self._ram.delete(tenant, [PartKey(key.chunk, "part")])
                raise
            copied = True
            now = self._ram.look(tenant, key)
            if now is held:
                self._ram.mark_safe(tenant, key)
            elif now is Miss.DELETED or key.kind == "kv":  # dropped meanwhile, and its deletion may have come first
                self._ram.mark_safe(tenant, key, safe=False)  # if it was put again
                self.doom(tenant, [key])
            else:  # its bytes were damaged, those that went to Redis perhaps: what does not fit its checksum goes there
                await self._lower.get(tenant, key, lambda size, _: [memoryview(bytearray(size))])
            if now is not held and isinstance(now, Held):  # put again, and still to be copied
                return copied
        self.discard(tenant, key)
        return copied
