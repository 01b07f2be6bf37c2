"""The memory of one world: recall what saw the coming view, remember what was drawn, stay within a budget."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple, Protocol

from worldkv.chunk import ChunkKey, KVPart, Lineage, ModelSpec, Part
from worldkv.coding import KV, stored_tokens
from worldkv.errors import ChunkCorrupt, Conflict, DeadlineExceeded, OverBudget, Unavailable, WorldKVError
from worldkv.finder import Finder
from worldkv.format import decode_part as read_part
from worldkv.format import encode_kv as write_kv
from worldkv.index import Hit
from worldkv.memory.ahead import Ahead, nearest
from worldkv.memory.budget import Budget
from worldkv.memory.coder import Coder
from worldkv.memory.config import MemoryConfig
from worldkv.memory.device import CPU, Device
from worldkv.memory.fetching import Fetches
from worldkv.memory.gathering import Clock, Gathered, RecallReport, gather
from worldkv.memory.hot import HotSet
from worldkv.memory.keeping import Backoff, Keeper, Ours, alone
from worldkv.memory.queue import KVQueue, Waiting
from worldkv.memory.source import get, source
from worldkv.memory.stats import Kept, MemoryStats
from worldkv.motion import Held
from worldkv.pose import Matrix
from worldkv.prefetch import PrefetchConfig, Prefetcher
from worldkv.select import Query
from worldkv.store import Level, Miss, PartKey, Store
from worldkv.tasks import tell_defect
from worldkv.window import Entry, WindowConfig

SPARES = 2
"""Chunks the index names beyond the slots, for those that prove to be gone."""


class Recalled(NamedTuple):
    """A chunk put back into the window: why, and its keys and values."""

    hit: Hit
    entry: Entry


class Reencode(Protocol):
    """Makes a chunk's KV again: one clean pass over its latents, behind the sink and the chunk before it."""

    def __call__(self, part: Part, before: Sequence[Entry]) -> KV | Awaitable[KV]: ...


class Memory:
    """The memory of the world of one session.

    A chunk is remembered by `remember` and a candidate from then on; `recall` never returns a chunk of another
    lineage, or one that is excluded because the window holds it anyway.

    kept      what is kept already when it is made, and how well; None: the chunks of the branches before the last, as
              well as can be
    ours      makes sure, after a chunk was put and before it counts as kept, that nobody has taken the world over
    device    that the model runs on
    latest    how the last recall went
    listener  is called when `kept`, `unkept` or `stats` have changed behind the caller's back

    What goes on behind the caller's back ends by itself, or with `close`; `settle` waits until all is kept.
    """

    def __init__(
        self,
        spec: ModelSpec,
        window: WindowConfig,
        config: MemoryConfig,
        store: Store,
        finder: Finder,
        lineage: Lineage,
        kept: Kept | None = None,
        ours: Ours = alone,
        device: Device = CPU,
    ) -> None:
        self.spec, self.config, self.store, self.finder = spec, config, store, finder
        self.lineage, self.stats, self.latest = lineage, MemoryStats(), RecallReport()
        self.listener: Callable[[], None] = _nobody
        self.slot_tokens = config.slot_tokens or stored_tokens(config.coding, spec)
        self.slots = window.recalled * spec.frame_tokens // self.slot_tokens
        self._chunk_bytes = spec.raw_bytes * self.slot_tokens // (spec.frames * spec.frame_tokens)
        backoff = Backoff(config.retry_seconds)
        before = kept or Kept(lineage.start, Level.REDIS)
        self._hot = HotSet(config.hot_bytes)
        self._coder = Coder(spec, config.coding, device)
        self._keeper = Keeper(store, finder, before, config.most_unkept, backoff, self._changed, ours)
        self._queue = KVQueue(config.queue_bytes, self._code, self._put_behind, backoff, self._dropped)
        stored = source(store, self._coder, config.layered_bytes)
        self._fetches = Fetches(Waiting(self._queue, self._coder, stored), self._hot, self.stats)
        self._budget = Budget(lineage, spec.view_range, store, finder, self._demoted, self._changed)
        self._ahead: Ahead | None = None
        self._query: Query | None = None
        self._refused: WorldKVError | None = None
        self._let_go: list[ChunkKey] = []
        self._mending: tuple[ChunkKey, asyncio.Task[Entry | None]] | None = None
        self.configure(config)

    def configure(self, config: MemoryConfig) -> None:
        """Go on like this: coding, order, most recalled, budgets, deadlines. Sizes that were made stay: slots, rooms.

        Raises OverBudget for chunks that would not fit the slots.
        """
        if (tokens := stored_tokens(config.coding, self.spec)) > self.slot_tokens:
            raise OverBudget(f"chunks of {tokens} tokens do not fit slots of {self.slot_tokens}")
        self.config = config
        self._budget.most_bytes, self._budget.most_chunks = config.budget_bytes, config.budget_chunks
        if self._ahead is not None:
            self._ahead.forget()
            self._ahead.prefetcher.config = replace(self._ahead.prefetcher.config, slots=max(1, self.most_recalled))

    @property
    def most_recalled(self) -> int:
        """Chunks that are recalled at most."""
        return self.slots if self.config.recalled is None else min(self.slots, self.config.recalled)

    @property
    def kv_bytes(self) -> int:
        """Coded bytes that the world is charged for."""
        return self._budget.used_bytes

    @property
    def hot_bytes(self) -> int:
        """Decoded bytes of chunks at hand."""
        return self._hot.used_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes of keys and values that wait to be kept."""
        return self._queue.used_bytes

    @property
    def kept(self) -> Kept:
        """How far the world is safe."""
        return self._keeper.kept

    @property
    def unkept(self) -> int:
        """Immutable parts that wait to be kept."""
        return self._keeper.unkept

    @property
    def refused(self) -> WorldKVError | None:
        """Why something that waited will never be kept, for example as its world was removed; None: all is well."""
        return self._keeper.refused or self._refused

    def let_go(self) -> tuple[ChunkKey, ...]:
        """Chunks of which the latents alone are left, since this was asked last: their keys and values were demoted to
        keep the budget, or dropped."""
        keys, self._let_go = tuple(self._let_go), []
        return keys

    async def recall(self, query: Query, exclude: Collection[int], reencode: Reencode) -> list[Recalled]:
        """The chunks for the recalled slots, in window order, with keys and values at hand.

        exclude  chunk numbers that the window holds anyway, or that are not to be seen yet

        What does not come in time is left out, and at hand for later steps when it comes. A call that is cancelled
        leaves nothing half done.
        """
        self.latest = report = RecallReport()
        if not (most := self.most_recalled):
            return []
        self._query, clock = query, Clock(self.config.recall_seconds)
        try:
            async with asyncio.timeout_at(clock.end):
                hits = await nearest(self.finder, self._ahead, query, most, exclude, SPARES)
        except (Unavailable, DeadlineExceeded, TimeoutError):
            self.stats.unanswered += 1
            return []
        wanted = [hit for hit in hits if not hit.spare]
        here = {hit.key for hit in hits if self._holds(hit.key)}
        self._hot.need([hit.key for hit in wanted])
        gathered = await self._gather([hit.key for hit in wanted], clock)
        entries, lost = gathered.entries, gathered.lost
        report.note(gathered)
        if self.config.reencode:
            mending = perf_counter()
            entries |= await self._mend(lost, reencode, clock)
            report.decode_seconds += perf_counter() - mending
        self.stats.missed.update(lost.values())
        report.missed = {key: reason for key, reason in lost.items() if key not in entries}
        if len(entries) < len(wanted):
            spares = [hit.key for hit in hits if hit.spare and (not clock.over or hit.key in here)]
            stand_in = await self._gather(spares, clock)
            entries |= stand_in.entries
            report.note(stand_in)
        found = [Recalled(hit, entries[hit.key]) for hit in hits if hit.key in entries][:most]
        self.stats.recalled += len(found)
        self.stats.at_hand += sum(each.hit.key in here for each in found)
        self.stats.abstained += most - len(found)
        return sorted(found, key=lambda r: r.entry.begin) if self.config.order == "time" else found

    async def ahead(
        self,
        index: int,
        poses: Matrix,
        held: Held | None,
        recalled: Sequence[Recalled],
        visible: Matrix,
        exclude: Collection[int],
    ) -> None:
        """Fetch ahead of the camera, while the chunk is drawn whose recall this was; returns at once.

        index     number of the chunk that is drawn
        poses     [frames, 4, 4]: where it is drawn from
        held      the action of its last frame; None: not known
        recalled  what `recall` gave for it
        visible   [n, 4, 4]: frames that will stand in the next chunk's window anyway
        exclude   chunk numbers that the next chunk will not recall, because they do
        """
        if not self.config.prefetch or not self.most_recalled or self._query is None:
            return
        if self._ahead is None:
            prefetcher = self._prefetcher(self._query)
            self.stats.ahead = prefetcher.stats
            self._ahead = Ahead(
                prefetcher, self.finder, self._fetches, self._hot, self._chunk_bytes, self._queue, self._changed
            )
        self._ahead.step(index, poses, held, [each.hit.key for each in recalled], visible, exclude)

    async def remember(self, part: Part, kv: KV) -> None:
        """Store a chunk, the immutable part first, and let the index know of it after that.

        kv  must not change any more, and be there: what made it has ended, on a GPU too

        Without `keep_seconds` raises what the store raises for the immutable part. Keys and values that the store does
        not take are dropped: they can be made again.
        """
        key = part.meta.key
        if self.config.keep_seconds is None:
            await self._keeper.put(part)
            await self._keep(key, kv)
            await self.finder.add(part.meta)
            if not self.config.queue_bytes:
                await self._budget.keep(key.index)
            return
        await self.finder.add(part.meta, kept=False)
        keeping = self._keeper.begin(part)
        await self._keep(key, kv)
        if not self.config.queue_bytes:
            self._budget.begin(key.index)
        await asyncio.wait([keeping], timeout=self.config.keep_seconds)

    async def paused(self) -> None:
        """Wait until fewer than `most_unkept` immutable parts wait to be kept."""
        await self._keeper.fewer()

    async def settle(self) -> None:
        """Wait until everything that was remembered is kept, or dropped. While the store does not answer this waits."""
        await self._keeper.settle()
        await self._queue.settle()
        await self._budget.settle()

    async def close(self) -> None:
        """End everything that goes on, and hold nothing; what is not kept by then is lost: `settle` first."""
        if self._ahead:
            await self._ahead.close()
        if self._mending:
            self._mending[1].cancel()
            await asyncio.gather(self._mending[1], return_exceptions=True)
        await self._fetches.close()
        await self._queue.close()
        await self._keeper.close()
        await self._budget.close()
        self._hot.clear()  # now, not when garbage is collected: sessions close while others walk on

    def _prefetcher(self, lens: Query) -> Prefetcher:
        config = self.config
        return Prefetcher(
            PrefetchConfig(self.most_recalled, lens.fov, lens.aspect, lens.view_range, config.ahead, config.least)
        )

    def queued(self, key: ChunkKey) -> bool:
        """Whether a chunk's keys and values wait to be kept."""
        return key in self._queue

    def _holds(self, key: ChunkKey) -> bool:
        return key in self._hot or key in self._queue

    async def _gather(self, keys: Sequence[ChunkKey], clock: Clock) -> Gathered:
        return await gather(keys, self._hot, self._fetches, clock)

    async def _fetch(self, keys: Sequence[ChunkKey]) -> dict[ChunkKey, Entry]:
        """What is at hand or comes of these chunks, however long it takes."""
        return (await self._gather(keys, Clock(None))).entries

    async def _mend(self, lost: dict[ChunkKey, Miss], reencode: Reencode, clock: Clock) -> dict[ChunkKey, Entry]:
        """The first lost chunk's KV, made again; none if it cannot be. What is on its way is waited for instead.

        Where there is a deadline one chunk at a time is made again, and what is not ready by then is late.
        """
        gone = [key for key, reason in lost.items() if reason is not Miss.LATE or clock.end is None]
        if not gone:
            return {}
        if clock.end is None:
            entry = await self._again(gone[0], reencode)
            return {} if entry is None else {gone[0]: entry}
        if self._mending is None or self._mending[1].done():
            task = asyncio.create_task(self._again(gone[0], reencode), name=f"make {gone[0]} again")
            task.add_done_callback(tell_defect)
            self._mending = gone[0], task
        key, mending = self._mending
        if key not in gone:
            return {}
        await asyncio.wait([mending], timeout=clock.left)
        if not mending.done():
            lost[key] = Miss.LATE
            return {}
        entry = mending.result()
        return {} if entry is None else {key: entry}

    async def _again(self, key: ChunkKey, reencode: Reencode) -> Entry | None:
        """A chunk made again from its latents, stored as such and at hand from now on; None if those are gone too."""
        part = await self._latents(key)
        if part is None:
            return None
        near = [self.lineage.key(i) for i in sorted({0, key.index - 1}) if 0 <= i < key.index]
        made = reencode(part, sorted((await self._fetch(near)).values(), key=lambda e: e.begin))
        kv = await made if inspect.isawaitable(made) else made
        coded = (await self._coder.code(kv, self.config.coding, key.index == 0)).as_reencoded()
        await self._keep(key, coded)
        entry = await self._coder.entry(key, coded)
        self._hot.keep(key, entry)
        self.stats.reencoded += 1
        return entry

    async def _latents(self, key: ChunkKey) -> Part | None:
        """The immutable part of a chunk, None if it is gone; the index is told of that."""
        if (part := self._keeper.part(key)) is not None:
            return part
        frame = await get(self.store, PartKey(key, "part"))
        if frame in (Miss.DELETED, Miss.NEVER_STORED):
            with suppress(Unavailable, DeadlineExceeded):  # it will be named again
                await self.finder.remove([key])
        try:
            return None if isinstance(frame, Miss) else read_part(frame)
        except ChunkCorrupt:
            return None

    async def _keep(self, key: ChunkKey, kv: KV | KVPart) -> None:
        """Code a chunk's KV and put it, or have that done. What the store or the queue does not take is dropped."""
        if self.config.queue_bytes:
            if not self._queue.add(key, kv):
                self._drop(key)
            return
        coded = kv if isinstance(kv, KVPart) else await self._code(key, kv)
        try:
            await self._put(key, coded)
        except (Unavailable, DeadlineExceeded, OverBudget, Conflict):
            self._drop(key)

    async def _code(self, key: ChunkKey, kv: KV) -> KVPart:
        """A chunk that was drawn as it will be stored; it is at hand from then on as the store would give it."""
        coded = await self._coder.code(kv, self.config.coding, key.index == 0)
        if self._hot.room_bytes >= self._chunk_bytes:
            self._hot.keep(key, await self._coder.entry(key, coded))
        return coded

    async def _put(self, key: ChunkKey, kv: KVPart) -> None:
        frame = await asyncio.to_thread(write_kv, key, self.spec.digest, kv)  # which sums all bytes
        await self.store.put({PartKey(key, "kv"): frame})
        self._budget.charge(key, kv.nbytes)

    async def _put_behind(self, key: ChunkKey, kv: KVPart) -> None:
        await self._put(key, kv)
        self._budget.begin(key.index)
        self._changed()

    def _demoted(self, keys: Collection[ChunkKey]) -> None:
        for key in keys:
            self._hot.drop(key)
        self.stats.demoted += len(keys)
        self._let_go += keys

    def _drop(self, key: ChunkKey) -> None:
        self.stats.dropped += 1
        self._let_go.append(key)

    def _dropped(self, key: ChunkKey, error: WorldKVError) -> None:
        self._drop(key)
        if not isinstance(error, OverBudget):
            self._refused = error
        self._changed()

    def _changed(self) -> None:
        self.listener()


def _nobody() -> None:
    """Listens to nothing."""
