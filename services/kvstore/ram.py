"""Parts of chunks in host memory: what is held, for whom, and what makes room.

Room is made by dropping KV parts that are safe elsewhere, then the asking tenant's own KV parts, each least recently
used first. Nobody loses a last copy to another tenant, and an immutable part never makes room for KV.
Synchronous, without I/O, for one thread; only the bytes of a reservation may be written by others meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain

from services.kvstore.arena import Arena
from services.kvstore.held import Held, Reservation
from services.kvstore.ledger import KINDS, Ledger, Short
from services.kvstore.tombstones import Tombstones
from worldkv.chunk import Branch, ChunkKey
from worldkv.errors import Conflict, InvalidConfig, InvalidInput, OverBudget
from worldkv.format import Kind
from worldkv.shared import Extent, cut
from worldkv.store import Miss, PartKey

__all__ = ["Extent", "Held", "RamConfig", "RamStats", "RamTier", "Reservation", "TenantStats"]


@dataclass(frozen=True)
class RamConfig:
    """How much host memory a shard takes.

    budget_bytes  of memory for parts, reserved at start
    tenant_bytes  that the parts of one tenant may have; 0: no limit of its own
    huge_pages    ask for huge pages
    prefix        begin of the segment's name under /dev/shm
    max_evicted   evicted keys that are remembered as such; older ones are misses like any other
    max_deleted   runs of deleted chunks of a branch that are remembered; older branches are as if they never were

    Raises InvalidConfig naming the value that is out of range.
    """

    budget_bytes: int = 1 << 30
    tenant_bytes: int = 0
    huge_pages: bool = True
    prefix: str = "worldkv-arena"
    max_evicted: int = 100_000
    max_deleted: int = 100_000

    def __post_init__(self) -> None:
        if self.budget_bytes < 1:
            raise InvalidConfig(f"budget_bytes must be at least 1, got {self.budget_bytes}")
        for name in ("tenant_bytes", "max_evicted", "max_deleted"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class TenantStats:
    """What one tenant holds: bytes and number of its parts, and of these bytes the KV's."""

    used_bytes: int = 0
    kv_bytes: int = 0
    parts: int = 0


@dataclass(frozen=True)
class RamStats:
    """What is held, in bytes where the name says so; `evicted` and `refused` only ever grow.

    used_bytes      of parts that are held
    budget_bytes    that may be
    reserved_bytes  of reservations that are open
    pinned_bytes    of parts dropped while they were pinned
    free_bytes      of the arena that nothing has
    parts           that are held
    slots_used      entries of the table of generations in use
    tombstones      evicted keys that are remembered
    deleted_runs    of deleted chunks that are remembered
    evicted         parts dropped to make room
    refused         reservations refused for want of room
    tenants         the same by tenant
    """

    used_bytes: int
    budget_bytes: int
    reserved_bytes: int
    pinned_bytes: int
    free_bytes: int
    parts: int
    slots_used: int
    tombstones: int
    deleted_runs: int
    evicted: int
    refused: int
    tenants: Mapping[str, TenantStats] = field(default_factory=dict)


class RamTier:
    """The parts that one shard holds in memory, within budgets of bytes.

    arena  where they lie; `arena.info` is what readers on this host need

    Raises Unavailable if the host has not so much shared memory.
    """

    def __init__(self, config: RamConfig) -> None:
        self.config = config
        self.arena = Arena(config.budget_bytes, config.prefix, config.huge_pages)
        self._ledger = Ledger()
        self._tombstones = Tombstones(config.max_evicted, config.max_deleted)
        self._reserved: set[Held] = set()  # being written
        self._pinned: set[Held] = set()  # dropped, but still read
        self._evictions = self._refusals = 0

    def reserve(self, tenant: str, key: PartKey, size: int, spare: bool = False) -> Reservation | Held:
        """Room for a part of `size` bytes, or the part if it is held. Room is made at once.

        spare  for a copy of what is safe elsewhere: no last copy makes room for it

        Raises OverBudget if there is none and nothing may make room, Conflict if the chunk was deleted, InvalidInput
        for a negative size; nothing is changed then.
        """
        return self.reserve_all(tenant, {key: size}, spare)[key]

    def reserve_all(
        self, tenant: str, sizes: Mapping[PartKey, int], spare: bool = False
    ) -> dict[PartKey, Reservation | Held]:
        """`reserve` of several parts, all or none; none of them makes room for another."""
        gone = [str(key) for key in sizes if self._tombstones.deleted(tenant, key.chunk)]
        if gone:
            raise Conflict(f"what was deleted stays deleted: {', '.join(gone)}")
        for key, size in sizes.items():
            if size < 0:
                raise InvalidInput(f"{key} cannot have {size} bytes")
        new = {key: size for key, size in sizes.items() if (tenant, key) not in self._ledger.held}
        for victim in self._victims(tenant, new, sizes.keys(), spare):
            self._drop(victim)
            self._tombstones.bury(victim.tenant, victim.key, Miss.EVICTED)
            self._evictions += 1
        return {key: self._reserve(tenant, key, sizes[key]) if key in new else self._use(tenant, key) for key in sizes}

    def find(self, tenant: str, key: PartKey) -> Held | Miss:
        """The part, or why it is not here. Counts as a use."""
        held = (tenant, key) in self._ledger.held
        return self._use(tenant, key) if held else self._tombstones.why(tenant, key)

    def look(self, tenant: str, key: PartKey) -> Held | Miss:
        """The part, or why it is not here. Does not count as a use."""
        return self._ledger.held.get((tenant, key)) or self._tombstones.why(tenant, key)

    def first_bytes(self, tenant: str, key: PartKey, count: int) -> bytes:
        """The first bytes of a part, `count` at most; none if it is not held. Does not count as a use."""
        part = self._ledger.held.get((tenant, key))
        if part is None:
            return b""
        return b"".join(self.arena.views(cut(part.extents, 0, min(count, part.size))))

    def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop these parts as `Store.delete` does; answers how many were held. A part that is pinned goes too."""
        chunks = {key.chunk for key in keys if key.kind == "part"}
        doomed = {*keys, *(PartKey(chunk, "kv") for chunk in chunks)}
        held = [part for key in doomed if (part := self._ledger.held.get((tenant, key)))]
        for part in held:
            self._drop(part)
            if part.key.chunk not in chunks:
                self._tombstones.bury(tenant, part.key, Miss.EVICTED)
        for chunk in chunks:
            self._tombstones.delete(tenant, chunk)
        return len(held)

    def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> list[PartKey]:
        """Keys held of a branch, chunk numbers `begin` up to `end`, in order, the immutable part first."""
        held = self._ledger.branch(tenant, branch)
        if end is not None and end - begin < len(held):  # few of many: whoever forks asks for one chunk
            kinds = KINDS if kind is None else (kind,)
            named = (PartKey(ChunkKey(branch, number), each) for number in range(begin, end) for each in kinds)
            return [key for key in named if key in held]
        found = (
            key
            for key in held
            if begin <= key.chunk.index and (end is None or key.chunk.index < end) and kind in (None, key.kind)
        )
        return sorted(found, key=lambda key: key.place)

    def mark_safe(self, tenant: str, key: PartKey, safe: bool = True, below: bool = True) -> None:
        """A copy of the part exists elsewhere, or no longer does; nothing if it is not held. Counts as a use.

        below  that is in the tier below this one, not just with another shard
        """
        part = self._ledger.held.get((tenant, key))
        if part:
            self._ledger.mark_safe(part, safe)
            part.below = safe and (below or part.below)

    def mark_none_safe(self) -> None:
        """Nothing has a copy elsewhere any more: the place where they were has lost them."""
        self._ledger.mark_none_safe()

    def mark_corrupt(self, tenant: str, key: PartKey) -> None:
        """Drop a part whose bytes are not what was written: from now on CORRUPT, until it is put again."""
        part = self._ledger.held.get((tenant, key))
        if part:
            self._drop(part)
            self._tombstones.bury(tenant, key, Miss.CORRUPT)

    def last_copies(self) -> list[tuple[str, PartKey]]:
        """Parts not marked safe, with their tenants; immutable parts first, then KV, most recently used first."""
        parts = [part for part in self._ledger.held.values() if not part.safe]
        parts.sort(key=lambda part: (part.key.kind != "part", -part.used))
        return [(part.tenant, part.key) for part in parts]

    def all_deleted(self) -> list[tuple[str, ChunkKey]]:
        """Chunks that are remembered as deleted, with their tenants."""
        return [*self._tombstones.all_deleted()]

    def stats(self) -> RamStats:
        """What is held now."""
        return RamStats(
            used_bytes=self._ledger.used_bytes,
            budget_bytes=self.config.budget_bytes,
            reserved_bytes=sum(part.size for part in self._reserved),
            pinned_bytes=sum(part.size for part in self._pinned),
            free_bytes=self.arena.free_bytes,
            parts=len(self._ledger.held),
            slots_used=self.arena.slots - self.arena.free_slots,
            tombstones=len(self._tombstones),
            deleted_runs=self._tombstones.deleted_runs,
            evicted=self._evictions,
            refused=self._refusals,
            tenants={
                name: TenantStats(
                    tenant.used,
                    sum(group.nbytes for (kind, _), group in tenant.groups.items() if kind == "kv"),
                    sum(map(len, tenant.groups.values())),
                )
                for name, tenant in self._ledger.tenants.items()
            },
        )

    def check_integrity(self) -> None:
        """Assert that what is held, counted, guarded and remembered fits together. Slow: looks at everything."""
        self._ledger.check_integrity()
        everything = [*self._ledger.held.values(), *self._reserved, *self._pinned]
        assert sum(part.size for part in everything) <= self.config.budget_bytes
        self.arena.check_integrity(part.extents for part in everything)
        assert not any(part.dropped for part in self._ledger.held.values())
        assert all(part.dropped and part.pins for part in self._pinned)
        for name, tenant in self._ledger.tenants.items():
            assert tenant.reserved == sum(part.size for part in self._reserved if part.tenant == name)
            assert not self.config.tenant_bytes or tenant.used + tenant.reserved <= self.config.tenant_bytes
        self._tombstones.check_integrity(set(self._ledger.held))

    def close(self) -> None:
        """Give the arena back; nothing works afterwards. Harmless a second time."""
        self.arena.close()

    def _victims(self, tenant: str, new: Mapping[PartKey, int], asked: Collection[PartKey], spare: bool) -> list[Held]:
        """Parts to drop so that `new` fits, none of them in `asked`; OverBudget if nothing can make enough room."""
        if not new:
            return []
        need, limit, mine = sum(new.values()), self.config.tenant_bytes, self._ledger.tenant(tenant)
        taken = self._ledger.used_bytes + sum(part.size for part in chain(self._reserved, self._pinned))
        short = Short(
            mine.used + mine.reserved + need - limit if limit else 0,
            taken + need - self.config.budget_bytes,
            sum(map(self.arena.rounded, new.values())) - self.arena.free_bytes,
            sum(size > 0 for size in new.values()) - self.arena.free_slots,
        )
        kv = any(key.kind == "kv" for key in new)
        victims = self._ledger.victims(tenant, short, asked, kv, spare, self.arena.rounded)
        if short.own > 0 or short.shared:
            self._refusals += not spare
            whose = f"tenant {tenant!r} may have {limit}" if short.own > 0 else f"shard has {self.config.budget_bytes}"
            raise OverBudget(f"no room for {need} bytes: the {whose}, and nothing else may make room")
        return victims

    def _use(self, tenant: str, key: PartKey) -> Held:
        part = self._ledger.held[tenant, key]
        self._ledger.touch(part)
        return part

    def _reserve(self, tenant: str, key: PartKey, size: int) -> Reservation:
        extents = self.arena.allocate(size)
        assert extents is not None, "room was made, and is not there"
        part = Held(self.arena, tenant, key, extents, self._let_go)
        self._reserved.add(part)
        self._ledger.reserve(tenant, size)
        return Reservation(self.arena, part, self._commit, self._abort)

    def _commit(self, part: Held) -> Held:
        deleted = self._tombstones.deleted(part.tenant, part.key.chunk)
        if deleted or (part.tenant, part.key) in self._ledger.held:
            self._abort(part)
            if deleted:
                raise Conflict(f"what was deleted stays deleted: {part.key}")
            return self._use(part.tenant, part.key)
        self._ledger.add(part)
        self._unreserve(part)
        self._tombstones.forget(part.tenant, part.key)
        return part

    def _abort(self, part: Held) -> None:
        self._unreserve(part)
        self.arena.free(part.extents)

    def _unreserve(self, part: Held) -> None:
        self._reserved.remove(part)
        self._ledger.reserve(part.tenant, -part.size)

    def _drop(self, part: Held) -> None:
        self._ledger.remove(part)
        part.dropped = True
        if part.pins:
            self._pinned.add(part)
        else:
            self.arena.free(part.extents)

    def _let_go(self, part: Held) -> None:
        self._pinned.remove(part)
        self.arena.free(part.extents)
