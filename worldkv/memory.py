"""The memory of one world: recall what saw the coming view, remember what was drawn, stay within a budget.

The index says which chunks, the store holds their bytes, and what was used lately stays decoded in a hot set
bounded in bytes. The index is a hint and the store is the truth: a chunk that is indexed and gone is a miss, a
value. A miss may be made good from the chunk's latents, once a step and marked. Either may be another process: while
the index does not answer nothing is recalled, and keys and values that the store cannot take are dropped and counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from worldkv.chunk import ChunkKey, KVPart, Lineage, ModelSpec, Part
from worldkv.coding import KV, Coding, decode_kv, encode_kv, stored_tokens
from worldkv.errors import ChunkCorrupt, DeadlineExceeded, InvalidConfig, OverBudget, Unavailable
from worldkv.finder import Finder
from worldkv.format import Frame
from worldkv.format import decode_kv as read_kv
from worldkv.format import decode_part as read_part
from worldkv.format import encode_kv as write_kv
from worldkv.format import encode_part as write_part
from worldkv.index import Hit
from worldkv.select import Query
from worldkv.store import Miss, PartKey, Store
from worldkv.window import Entry, WindowConfig

Order = Literal["time", "nearest"]
SPARES = 2
"""Chunks the index names beyond the slots, for those that prove to be gone."""


@dataclass(frozen=True)
class MemoryConfig:
    """How a world is remembered.

    coding        how keys and values are pruned and coded when a chunk is stored
    order         of recalled chunks in the window: by time, or best hit first (the paper's released code)
    budget_bytes  coded bytes of keys and values a world may keep, 0 for no limit; the least useful chunks beyond
                  it are demoted to their latents
    hot_bytes     decoded bytes kept at hand for the steps to come
    reencode      make a lost chunk's keys and values again from its latents, at most one a step
    """

    coding: Coding = field(default_factory=Coding)
    order: Order = "time"
    budget_bytes: int = 0
    hot_bytes: int = 64 << 20
    reencode: bool = True

    def __post_init__(self) -> None:
        for name in ("budget_bytes", "hot_bytes"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"memory.{name} must not be negative, got {getattr(self, name)}")
        if self.order not in ("time", "nearest"):
            raise InvalidConfig(f"memory.order is 'time' or 'nearest', got {self.order!r}")


@dataclass
class MemoryStats:
    """Counts since the memory was made.

    recalled       chunks put back into the window
    hot            of all fetched, those that were at hand
    decoded_bytes  coded bytes read from the store
    missed         chunks that the index named and the store had no keys and values of
    reencoded      of these, made again from their latents
    abstained      slots left empty by an index that answered
    unanswered     steps that recalled nothing because the index did not answer
    dropped        chunks whose keys and values the store did not take
    demoted        chunks reduced to their latents to keep a budget
    """

    recalled: int = 0
    hot: int = 0
    decoded_bytes: int = 0
    missed: int = 0
    reencoded: int = 0
    abstained: int = 0
    unanswered: int = 0
    dropped: int = 0
    demoted: int = 0


class Recalled(NamedTuple):
    """A chunk put back into the window: why, and its keys and values."""

    hit: Hit
    entry: Entry


class Reencode(Protocol):
    """Makes a chunk's KV again: one clean pass over its latents, behind the sink and the chunk before it."""

    def __call__(self, part: Part, before: Sequence[Entry]) -> KV: ...


class Memory:
    """The memory of the world of one session.

    A chunk is remembered by `remember` and a candidate from then on; `recall` never returns a chunk of another
    lineage, or one that is excluded because the window holds it anyway.
    """

    def __init__(
        self,
        spec: ModelSpec,
        window: WindowConfig,
        config: MemoryConfig,
        store: Store,
        finder: Finder,
        lineage: Lineage,
    ) -> None:
        self.spec, self.config, self.store, self.finder = spec, config, store, finder
        self.lineage, self.stats = lineage, MemoryStats()
        self.slot_tokens = stored_tokens(config.coding, spec)
        self.slots = window.recalled * spec.frame_tokens // self.slot_tokens
        self.kv_bytes = 0
        self._sizes: dict[ChunkKey, int] = {}
        self._hot: OrderedDict[ChunkKey, Entry] = OrderedDict()

    async def recall(self, query: Query, exclude: Collection[int], reencode: Reencode) -> list[Recalled]:
        """The chunks for the recalled slots, in window order, with keys and values at hand.

        exclude  chunk numbers that the window holds anyway, or that are not to be seen yet
        """
        if not self.slots:
            return []
        try:
            hits = await self.finder.nearest(query, self.slots, exclude, SPARES)
        except (Unavailable, DeadlineExceeded):
            self.stats.unanswered += 1
            return []
        wanted = [hit for hit in hits if not hit.spare]
        entries = await self._fetch([hit.key for hit in wanted])
        lost = [hit for hit in wanted if hit.key not in entries]
        self.stats.missed += len(lost)
        if lost and self.config.reencode:
            mended = await self._mend(lost[0].key, reencode)
            entries |= {lost[0].key: mended} if mended else {}
        if len(entries) < len(wanted):
            entries |= await self._fetch([hit.key for hit in hits if hit.spare])
        found = [Recalled(hit, entries[hit.key]) for hit in hits if hit.key in entries][: self.slots]
        self.stats.recalled += len(found)
        self.stats.abstained += self.slots - len(found)
        return sorted(found, key=lambda r: r.entry.begin) if self.config.order == "time" else found

    async def remember(self, part: Part, kv: KV) -> None:
        """Store a chunk, the immutable part first, and only then let the index know of it.

        Raises what the store raises for the immutable part. Keys and values that it does not take are dropped: they can
        be made again.
        """
        key = part.meta.key
        await self.store.put({PartKey(key, "part"): write_part(part)})
        await self._put_kv(key, encode_kv(kv, self.config.coding, self.spec, first=key.index == 0))
        await self.finder.add(part.meta)
        await self._keep_budget(key.index)

    async def _put_kv(self, key: ChunkKey, kv: KVPart) -> None:
        try:
            await self.store.put({PartKey(key, "kv"): write_kv(key, self.spec.digest, kv)})
        except (Unavailable, DeadlineExceeded, OverBudget):
            self.stats.dropped += 1
            return
        if key.branch == self.lineage.head:  # a world is charged for what it wrote itself
            self.kv_bytes += kv.nbytes - self._sizes.get(key, 0)
            self._sizes[key] = kv.nbytes

    async def _fetch(self, keys: Sequence[ChunkKey]) -> dict[ChunkKey, Entry]:
        """What is at hand or in the store of these chunks; the others are missing from the answer."""
        entries = {key: self._hot[key] for key in keys if key in self._hot}
        self.stats.hot += len(entries)
        cold = [PartKey(key, "kv") for key in keys if key not in entries]
        for part_key, frame in (await self._get(cold)).items():
            if isinstance(frame, Miss):
                continue
            key, spec, kv = read_kv(frame, verify=False)
            self.spec.require(spec)
            if key != part_key.chunk:
                raise ChunkCorrupt(f"asked for {part_key.chunk}, the store answered with {key}")
            entries[key] = self._entry(key, kv)
            self.stats.decoded_bytes += kv.nbytes
        for key, entry in entries.items():
            self._keep_hot(key, entry)
        return entries

    async def _get(self, keys: Sequence[PartKey]) -> dict[PartKey, Frame | Miss]:
        """What the store says of these keys, one and all that its tier is down if it does not answer."""
        try:
            return await self.store.get(keys) if keys else {}
        except (Unavailable, DeadlineExceeded):
            return dict.fromkeys(keys, Miss.TIER_DOWN)

    def _entry(self, key: ChunkKey, kv: KVPart) -> Entry:
        return Entry(
            (key, kv.reencoded),
            key.index * self.spec.frames,
            self.spec.frames,
            decode_kv(kv, self.spec, self.config.coding.fitted),
        )

    def _keep_hot(self, key: ChunkKey, entry: Entry) -> None:
        self._hot[key] = entry
        self._hot.move_to_end(key)
        while self._hot and sum(e.kv.nbytes for e in self._hot.values()) > self.config.hot_bytes:
            self._hot.popitem(last=False)

    async def _mend(self, key: ChunkKey, reencode: Reencode) -> Entry | None:
        """A lost chunk's KV, made again from its latents and stored as such; None if those are gone too."""
        (frame,) = (await self._get([PartKey(key, "part")])).values()
        if frame in (Miss.DELETED, Miss.NEVER_STORED):
            with suppress(Unavailable, DeadlineExceeded):  # it will be named again
                await self.finder.remove([key])
        if isinstance(frame, Miss):
            return None
        before = await self._fetch([self.lineage.key(i) for i in sorted({0, key.index - 1}) if 0 <= i < key.index])
        kv = reencode(read_part(frame), sorted(before.values(), key=lambda e: e.begin))
        coded = encode_kv(kv, self.config.coding, self.spec, first=key.index == 0).as_reencoded()
        await self._put_kv(key, coded)
        entry = self._entry(key, coded)
        self._keep_hot(key, entry)
        self.stats.reencoded += 1
        return entry

    async def _keep_budget(self, newest: int) -> None:
        """Demote to latents what other chunks cover best, until the world fits its budget."""
        over = self.kv_bytes - self.config.budget_bytes
        if not self.config.budget_bytes or over <= 0:
            return
        own = {key.index for key in self._sizes}
        count = -(-over * len(own) // self.kv_bytes)
        others, start = range(self.lineage.start), self.lineage.start
        gone = set(range(start, newest + 1)) - own
        try:
            doomed = await self.finder.least_useful(count, self.spec.view_range, {0, newest, *others}, gone)
            await self.store.delete([PartKey(key, "kv") for key in doomed])
        except (Unavailable, DeadlineExceeded):  # over its budget until the next chunk
            return
        for key in doomed:
            self._hot.pop(key, None)
            self.kv_bytes -= self._sizes.pop(key)
        self.stats.demoted += len(doomed)
