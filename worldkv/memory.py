"""The memory of one world: recall what saw the coming view, remember what was drawn, stay within a budget.

The index says which chunks, the store holds their bytes, and what was used lately stays decoded in a hot set
bounded in bytes. The index is a hint and the store is the truth: a chunk that is indexed and gone is a miss, a
value. A miss may be made good from the chunk's latents, once a step and marked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from worldkv.chunk import ChunkKey, KVPart, Lineage, ModelSpec, Part
from worldkv.coding import Coding, decode_kv, encode_kv, stored_tokens
from worldkv.errors import InvalidConfig
from worldkv.evict import least_useful
from worldkv.format import decode_kv as read_kv
from worldkv.format import decode_part as read_part
from worldkv.format import encode_kv as write_kv
from worldkv.format import encode_part as write_part
from worldkv.index import PoseIndex
from worldkv.select import Hit, Query, Selector
from worldkv.store import Miss, PartKey, Store
from worldkv.window import KV, Entry, WindowConfig

Order = Literal["time", "nearest"]


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
    """Counts since the memory was made."""

    recalled: int = 0
    hot: int = 0
    decoded_bytes: int = 0
    missed: int = 0
    reencoded: int = 0
    abstained: int = 0
    demoted: int = 0


class Recalled(NamedTuple):
    """A chunk put back into the window: why, and its keys and values."""

    hit: Hit
    entry: Entry


class Reencode(Protocol):
    """Makes a chunk's KV again: one clean pass over its latents, behind the sink and the chunk before it."""

    def __call__(self, part: Part, before: Sequence[Entry]) -> KV: ...


class Memory:
    """The memory of the world of one session, in process.

    A chunk is remembered by `remember` and a candidate from then on; `recall` never returns a chunk of another
    lineage, or one that is excluded because the window holds it anyway.
    """

    def __init__(
        self,
        spec: ModelSpec,
        window: WindowConfig,
        config: MemoryConfig,
        store: Store,
        index: PoseIndex,
        selector: Selector,
        lineage: Lineage,
    ) -> None:
        self.spec, self.config, self.store, self.index = spec, config, store, index
        self.selector, self.lineage, self.stats = selector, lineage, MemoryStats()
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
        hits = self.index.nearest(query, self.selector, self.slots, self.lineage, exclude, spares=2)
        entries = await self._fetch([hit.key for hit in hits])
        found: list[Recalled] = []
        mended = not self.config.reencode
        for hit in hits:
            if len(found) == self.slots:
                break
            entry = entries.get(hit.key)
            if entry is None:
                self.stats.missed += 1
                if not mended:
                    mended, entry = True, await self._mend(hit.key, reencode)
            if entry is not None:
                found.append(Recalled(hit, entry))
        self.stats.recalled += len(found)
        self.stats.abstained += self.slots - len(found)
        return sorted(found, key=lambda r: r.entry.begin) if self.config.order == "time" else found

    async def remember(self, part: Part, kv: KV) -> None:
        """Store a chunk, the immutable part first, and only then let the index know of it."""
        key = part.meta.key
        await self.store.put({PartKey(key, "part"): write_part(part)})
        await self._put_kv(key, encode_kv(kv, self.config.coding, self.spec, first=key.index == 0))
        self.index.add(part.meta)
        await self._keep_budget(key.index)

    async def _put_kv(self, key: ChunkKey, kv: KVPart) -> None:
        await self.store.put({PartKey(key, "kv"): write_kv(key, self.spec.digest, kv)})
        self._sizes[key] = kv.nbytes
        self.kv_bytes += kv.nbytes

    async def _fetch(self, keys: Sequence[ChunkKey]) -> dict[ChunkKey, Entry]:
        cold = [PartKey(key, "kv") for key in keys if key not in self._hot]
        self.stats.hot += len(keys) - len(cold)
        for part_key, frame in (await self.store.get(cold)).items() if cold else ():
            if isinstance(frame, Miss):
                continue
            key, spec, kv = read_kv(frame, verify=False)
            self.spec.require(spec)
            begin = self.index.meta(key).begin
            entry = Entry((key, kv.reencoded), begin, self.spec.frames, decode_kv(kv, self.spec))
            self.stats.decoded_bytes += kv.nbytes
            assert key == part_key.chunk
            self._keep_hot(key, entry)
        for key in keys:
            if key in self._hot:
                self._hot.move_to_end(key)
        return {key: self._hot[key] for key in keys if key in self._hot}

    def _keep_hot(self, key: ChunkKey, entry: Entry) -> None:
        self._hot[key] = entry
        while sum(e.kv.nbytes for e in self._hot.values()) > self.config.hot_bytes and len(self._hot) > self.slots + 2:
            self._hot.popitem(last=False)

    async def _mend(self, key: ChunkKey, reencode: Reencode) -> Entry | None:
        """A lost chunk's KV, made again from its latents and stored as such; None if those are gone too."""
        (frame,) = (await self.store.get([PartKey(key, "part")])).values()
        if isinstance(frame, Miss):
            return None
        before = await self._fetch([self.lineage.key(i) for i in sorted({0, key.index - 1}) if 0 <= i < key.index])
        kv = reencode(read_part(frame), sorted(before.values(), key=lambda e: e.begin))
        coded = encode_kv(kv, self.config.coding, self.spec, first=key.index == 0).as_reencoded()
        await self._put_kv(key, coded)
        entry = Entry((key, True), self.index.meta(key).begin, self.spec.frames, decode_kv(coded, self.spec))
        self._keep_hot(key, entry)
        self.stats.reencoded += 1
        return entry

    async def _keep_budget(self, newest: int) -> None:
        """Demote to latents what other chunks cover best, until the world fits its budget."""
        if not self.config.budget_bytes or self.kv_bytes <= self.config.budget_bytes:
            return
        own = [key for key in self._sizes if self.lineage.covers(key)]
        for key in least_useful(self.index, own, protect={0, newest}):
            if self.kv_bytes <= self.config.budget_bytes:
                break
            await self.store.delete([PartKey(key, "kv")])
            self._hot.pop(key, None)
            self.kv_bytes -= self._sizes.pop(key)
            self.stats.demoted += 1
