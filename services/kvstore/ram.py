"""Parts of chunks in host memory: what is held, for whom, and what makes room.

Room is made by dropping KV parts that are safe elsewhere, then the asking tenant's own KV parts, each least recently
used first. Nobody loses a last copy to another tenant, and an immutable part never makes room for KV.
Synchronous, without I/O, for one thread; only the bytes of a reservation may be written by others meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from services.kvstore.arena import Arena
from worldkv.chunk import Branch
from worldkv.format import Kind
from worldkv.shared import Extent
from worldkv.store import Miss, PartKey

__all__ = ["Extent", "Held", "RamConfig", "RamStats", "RamTier", "Reservation"]


@dataclass(frozen=True)
class RamConfig:
    """How much host memory a shard takes.

    budget_bytes  of memory for parts, reserved at start
    tenant_bytes  that the parts of one tenant may have; 0: no limit of its own
    huge_pages    ask for huge pages
    prefix        begin of the segment's name under /dev/shm
    max_evicted   evicted keys that are remembered as such; older ones are misses like any other

    Raises InvalidInput naming the value that is out of range.
    """

    budget_bytes: int = 1 << 30
    tenant_bytes: int = 0
    huge_pages: bool = True
    prefix: str = "worldkv-arena"
    max_evicted: int = 100_000


class Held:
    """A part that is held.

    size, checksum  bytes, and xxh3-64 of all of them
    extents         where they lie in the arena
    views           the same, read-only, for this process
    """

    size: int
    checksum: int
    extents: tuple[Extent, ...]
    views: tuple[memoryview, ...]

    def pin(self) -> AbstractContextManager[None]:
        """Within it the bytes stay as they are, also if the part is dropped meanwhile.

        A part that is pinned is not chosen to make room; if it is deleted its room comes back with the last pin.
        """
        raise NotImplementedError


class Reservation:
    """Room for a part that nobody sees yet: fill `views`, then `commit` or `abort`, once.

    size   bytes asked for
    views  writable, in order, together `size` bytes. Nobody may write there after commit or abort
    """

    size: int
    views: tuple[memoryview, ...]

    def commit(self, checksum: int) -> Held:
        """The part is held from now on; if somebody else was faster, what they put is.

        Raises Conflict, and gives the room back, if the chunk was deleted meanwhile.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Give the room back. Harmless after either."""
        raise NotImplementedError


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
    evicted: int
    refused: int
    tenants: Mapping[str, TenantStats] = field(default_factory=dict)


class RamTier:
    """The parts that one shard holds in memory, within budgets of bytes.

    arena  where they lie; `arena.info` is what readers on this host need

    Raises Unavailable if the host has not so much shared memory.
    """

    arena: Arena

    def __init__(self, config: RamConfig) -> None:
        raise NotImplementedError

    def reserve(self, tenant: str, key: PartKey, size: int) -> Reservation | Held:
        """Room for a part of `size` bytes, or the part if it is held. Room is made at once.

        Raises OverBudget if there is none and nothing may make room, Conflict if the chunk was deleted, InvalidInput
        for a negative size; nothing is changed then.
        """
        return self.reserve_all(tenant, {key: size})[key]

    def reserve_all(self, tenant: str, sizes: Mapping[PartKey, int]) -> dict[PartKey, Reservation | Held]:
        """`reserve` of several parts, all or none; none of them makes room for another."""
        raise NotImplementedError

    def find(self, tenant: str, key: PartKey) -> Held | Miss:
        """The part, or why it is not here. Counts as a use."""
        raise NotImplementedError

    def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop these parts as `Store.delete` does; answers how many were held. A part that is pinned goes too."""
        raise NotImplementedError

    def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> list[PartKey]:
        """Keys held of a branch, chunk numbers `begin` up to `end`, in order, the immutable part first."""
        raise NotImplementedError

    def mark_safe(self, tenant: str, key: PartKey, safe: bool = True) -> None:
        """A copy of the part exists elsewhere, or no longer does; nothing if it is not held."""
        raise NotImplementedError

    def mark_corrupt(self, tenant: str, key: PartKey) -> None:
        """Drop a part whose bytes are not what was written: from now on CORRUPT, until it is put again."""
        raise NotImplementedError

    def last_copies(self) -> list[tuple[str, PartKey]]:
        """Parts not marked safe, with their tenants; immutable parts first, then KV, most recently used first."""
        raise NotImplementedError

    def stats(self) -> RamStats:
        """What is held now."""
        raise NotImplementedError

    def check_integrity(self) -> None:
        """Assert that what is held, counted, guarded and remembered fits together. Slow: looks at everything."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the arena back; nothing works afterwards. Harmless a second time."""
        raise NotImplementedError
