"""The seam to whatever keeps chunks: keys and bytes only, and the store in this process' memory.

A store does not look inside a frame. Behaviour is added by wrapping a store in a store, not by flags.

What a key may go through; the immutable part of a chunk and its KV part differ:

    part  never stored ─ put ─► held ─ delete ─► deleted, for good, and the chunk's KV with it
    kv    never stored ─ put ─► held ─ evicted, or deleted alone ─► evicted ─ put ─► held ...
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from worldkv.chunk import Branch, ChunkKey
from worldkv.errors import Conflict, InvalidInput, OverBudget
from worldkv.format import Frame, Kind


class PartKey(NamedTuple):
    """Name of what a store keeps: one of the two parts of a chunk."""

    chunk: ChunkKey
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} of {self.chunk}"

    @property
    def place(self) -> tuple[int, bool]:
        """Sorts the keys of a branch as `scan` gives them: by chunk number, the immutable part first."""
        return self.chunk.index, self.kind != "part"


class Miss(Enum):
    """Why a key has no bytes: a value, not an error."""

    NEVER_STORED = "never stored"
    DELETED = "deleted"
    EVICTED = "evicted"
    CORRUPT = "corrupt"
    LATE = "late"
    TIER_DOWN = "tier down"


class Level(IntEnum):
    """Where a put is safe: in one process' memory, in two, or in Redis. A higher level survives more."""

    ONE = 1
    TWO = 2
    REDIS = 3


class Store(Protocol):
    """Frames by key. These four methods are all of it; all take and answer batches, and any may raise Unavailable.

    In one process `get` answers with the frame object that was put, not with a copy of its bytes.
    """

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        """The frame of every key asked for, or the reason why there is none."""

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        """Keep these frames, all of them or, if it raises, none; answers how safe each is.

        A key that is held stays as it is. Raises Conflict if a key's chunk was deleted, OverBudget without room.
        """

    async def delete(self, keys: Collection[PartKey]) -> int:
        """Drop these keys; answers how many frames went.

        Deleting an immutable part deletes its chunk: the KV part goes too, and neither can be put again, also if
        it was not here yet. Deleting a KV part alone makes room like an eviction: it may be put again.
        """

    def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        """Keys held of a branch, by chunk number, the immutable part first; may or may not see changes meanwhile.

        begin, end  chunk numbers wanted, `end` exclusive; None: to the last
        kind        which parts; None: both
        """


class RamStore:
    """Frames in this process' memory, within a budget of bytes.

    Room is made by dropping KV parts, least recently used first. Immutable parts are dropped by nobody but
    `delete`. Needs no lock: no method gives up control between looking and changing.

    budget_bytes  bytes of frames that may be held at a time; InvalidInput if negative
    used_bytes    bytes of frames that are held
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise InvalidInput(f"a store's budget in bytes must not be negative, got {budget_bytes}")
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._parts: dict[PartKey, Frame] = {}
        self._kv: OrderedDict[PartKey, Frame] = OrderedDict()  # least recently used first
        self._branches: dict[Branch, set[PartKey]] = {}  # every key held
        self._deleted: set[ChunkKey] = set()
        self._evicted: set[PartKey] = set()

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        return {key: self._find(key) for key in keys}

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        gone = [str(key) for key in items if key.chunk in self._deleted]
        if gone:
            raise Conflict(f"what was deleted stays deleted: {', '.join(gone)}")
        self._make_room(items)
        for key, frame in items.items():
            if not self._held(key):
                self._add(key, frame)
            elif key.kind == "kv":
                self._kv.move_to_end(key)
        return dict.fromkeys(items, Level.ONE)

    async def delete(self, keys: Collection[PartKey]) -> int:
        chunks = {key.chunk for key in keys if key.kind == "part"}
        self._deleted |= chunks
        doomed = {*keys, *(PartKey(chunk, "kv") for chunk in chunks)}
        held = [key for key in doomed if self._held(key)]
        for key in held:
            self._drop(key)
            if key.chunk not in self._deleted:
                self._evicted.add(key)
        self._evicted -= {key for key in doomed if key.chunk in self._deleted}
        return len(held)

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        held = self._branches.get(branch, ())
        wanted = [key for key in held if begin <= key.chunk.index and (end is None or key.chunk.index < end)]
        for key in sorted(wanted, key=lambda key: key.place):
            if kind is None or key.kind == kind:
                yield key

    def check_integrity(self) -> None:
        """Assert that what is held, counted and remembered as gone fits together."""
        held = {**self._parts, **self._kv}
        assert self.used_bytes == sum(frame.nbytes for frame in held.values()) <= self.budget_bytes
        assert held.keys() == {key for keys in self._branches.values() for key in keys}
        assert all(self._branches.values()), "a branch is listed that holds nothing"
        assert all(key.kind == "part" for key in self._parts)
        assert all(key.kind == "kv" for key in (*self._kv, *self._evicted))
        assert not self._deleted & {key.chunk for key in (*held, *self._evicted)}
        assert not self._evicted & held.keys()

    def _held(self, key: PartKey) -> bool:
        return key in (self._parts if key.kind == "part" else self._kv)

    def _find(self, key: PartKey) -> Frame | Miss:
        if key.chunk in self._deleted:
            return Miss.DELETED
        if key in self._kv:
            self._kv.move_to_end(key)
            return self._kv[key]
        return self._parts.get(key, Miss.EVICTED if key in self._evicted else Miss.NEVER_STORED)

    def _make_room(self, items: Mapping[PartKey, Frame]) -> None:
        """Evict KV parts, none of them of `items`, until what is new in `items` fits; OverBudget if it never can."""
        need = sum(frame.nbytes for key, frame in items.items() if not self._held(key))
        short = self.used_bytes + need - self.budget_bytes
        doomed: list[PartKey] = []
        for key, frame in self._kv.items():
            if short <= 0:
                break
            if key not in items:
                doomed.append(key)
                short -= frame.nbytes
        if short > 0:
            raise OverBudget(f"{need} bytes to put are {short} more than a budget of {self.budget_bytes} can give")
        for key in doomed:
            self._drop(key)
            self._evicted.add(key)

    def _add(self, key: PartKey, frame: Frame) -> None:
        if key.kind == "part":
            self._parts[key] = frame
        else:
            self._kv[key] = frame
        self._evicted.discard(key)
        self._branches.setdefault(key.chunk.branch, set()).add(key)
        self.used_bytes += frame.nbytes

    def _drop(self, key: PartKey) -> None:
        frame = self._parts.pop(key) if key.kind == "part" else self._kv.pop(key)
        keys = self._branches[key.chunk.branch]
        keys.remove(key)
        if not keys:
            del self._branches[key.chunk.branch]
        self.used_bytes -= frame.nbytes
