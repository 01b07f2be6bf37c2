"""The seams to what is small and must be right: records of worlds, and snapshots of sessions.

A catalog, like a store, is one tenant's: whoever serves several has one of each for every tenant. Whatever a record
or a snapshot says, it is never larger than the limits named here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import msgpack

from worldkv.chunk import MAX_INDEX, Lineage, check_digest
from worldkv.errors import ChunkCorrupt, Conflict, InvalidInput, NotFound, OverBudget
from worldkv.format import Frame
from worldkv.store import Level

MAX_WORLD_NAME = 128
"""Characters of a world's or a session's name, at most; it is printable and neither begins nor ends with a space."""
MAX_LINEAGE = 1 << 12
"""Parts of a stored lineage: how often a world was forked, from its root to its head."""
KEPT = 2
"""Snapshots of a session that are kept."""


def check_name(name: str, what: str = "world") -> str:
    """The name itself, or InvalidInput if no world or session can be called so."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_WORLD_NAME:
        raise InvalidInput(f"the name of a {what} has 1 to {MAX_WORLD_NAME} characters, got {str(name)[:160]!r}")
    if not name.isprintable() or name != name.strip():
        raise InvalidInput(f"the name of a {what} is printable, without spaces around it, got {name!r}")
    return name


@dataclass(frozen=True)
class World:
    """A name that points to the head of a lineage: a record of a few hundred bytes, however long the world is.

    name     unique per tenant
    lineage  which branches its chunks are read from
    version  counts the swaps of this record, from 1; 0: not stored yet
    spec     digest of the model spec whose keys and values it holds; empty: none written yet
    chunks   known to be kept when the record was swapped; there may be more by now

    Raises InvalidInput naming the value that is wrong.
    """

    name: str
    lineage: Lineage
    version: int = 0
    spec: str = ""
    chunks: int = 0

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.lineage.parts) > MAX_LINEAGE:
            raise InvalidInput(f"{len(self.lineage.parts)} parts of a lineage are over the limit of {MAX_LINEAGE}")
        for field in ("version", "chunks"):
            if not 0 <= getattr(self, field) <= MAX_INDEX:
                raise InvalidInput(f"a world's {field} lies between 0 and {MAX_INDEX}, got {getattr(self, field)}")
        if self.lineage.start > MAX_INDEX:
            raise InvalidInput(f"a chunk's number is at most {MAX_INDEX}, got {self.lineage.start}")
        if self.spec:
            check_digest(self.spec)


class Stored(NamedTuple):
    """A record, and how safe it is."""

    world: World
    level: Level


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of a session at a time.

    chunks  the session had drawn when it was taken
    state   opaque bytes; may be empty
    """

    chunks: int
    state: Frame

    def __post_init__(self) -> None:
        if not 0 <= self.chunks <= MAX_INDEX:
            raise InvalidInput(f"a snapshot is taken after a number of chunks from 0, got {self.chunks}")


class Catalog(Protocol):
    """A tenant's world records. Any method may raise Unavailable, and InvalidInput for an odd name."""

    async def read(self, name: str) -> Stored:
        """The record of a world; raises NotFound."""

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        """Write a world's record if it still has version `expected` (0: if there is none); answers it as it is now.

        The record's own version is ignored: it becomes `expected` + 1. Raises Conflict if somebody else was faster,
        with nothing changed, and InvalidInput if the record is another world's.
        """

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        """Worlds whose names begin so and come after that one, by name; may or may not see changes meanwhile."""

    async def remove(self, name: str, expected: int = 0) -> None:
        """Forget a record; its chunks stay. Raises NotFound, and Conflict if its version is not `expected` (0: any)."""


class Snapshots(Protocol):
    """A tenant's session states. Any method may raise Unavailable, and InvalidInput for an odd session name."""

    async def save(self, session: str, snapshot: Snapshot) -> Level:
        """Keep a session's newest state, whole or not at all; the last two are kept. Raises OverBudget."""

    async def load(self, session: str, previous: bool = False) -> Snapshot:
        """A session's newest state, or the one before it; raises NotFound."""

    async def delete(self, session: str) -> int:
        """Forget a session's states; answers how many there were."""


class RamCatalog:
    """World records in this process' memory. Needs no lock: no method gives up control between looking and changing."""

    def __init__(self) -> None:
        self._worlds: dict[str, World] = {}

    async def read(self, name: str) -> Stored:
        return Stored(self._find(name), Level.ONE)

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        if check_name(name) != record.name:
            raise InvalidInput(f"a record of world {record.name!r} cannot be swapped into {name!r}")
        held = self._worlds.get(name)
        found = held.version if held else 0
        if found != expected:
            raise Conflict(f"world {name!r} has version {found}, expected {expected}")
        self._worlds[name] = replace(record, version=expected + 1)
        return Stored(self._worlds[name], Level.ONE)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        for name in sorted(name for name in self._worlds if name.startswith(prefix) and name > after):
            if name in self._worlds:
                yield self._worlds[name]

    async def remove(self, name: str, expected: int = 0) -> None:
        found = self._find(name).version
        if expected and found != expected:
            raise Conflict(f"world {name!r} has version {found}, expected {expected}")
        del self._worlds[name]

    def _find(self, name: str) -> World:
        if check_name(name) not in self._worlds:
            raise NotFound(f"no world {name!r}")
        return self._worlds[name]


class RamSnapshots:
    """Session states in this process' memory, within a budget of bytes; nobody's is dropped to make room.

    used_bytes  bytes of states that are held
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise InvalidInput(f"a budget in bytes must not be negative, got {budget_bytes}")
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._held: dict[str, list[Snapshot]] = {}  # newest first

    async def save(self, session: str, snapshot: Snapshot) -> Level:
        held = self._held.get(check_name(session, "session"), [])
        kept = [snapshot, *held[: KEPT - 1]]
        used = self.used_bytes + _nbytes(kept) - _nbytes(held)
        if used > self.budget_bytes:
            raise OverBudget(
                f"{snapshot.state.nbytes} bytes of session {session!r} make {used}, "
                f"over the budget for snapshots of {self.budget_bytes}"
            )
        self._held[session], self.used_bytes = kept, used
        return Level.ONE

    async def load(self, session: str, previous: bool = False) -> Snapshot:
        held = self._held.get(check_name(session, "session"), [])
        if len(held) <= previous:
            raise NotFound(f"no {'earlier ' if previous else ''}snapshot of session {session!r}")
        return held[previous]

    def sessions(self) -> list[str]:
        """Those that have states."""
        return [*self._held]

    async def delete(self, session: str) -> int:
        held = self._held.pop(check_name(session, "session"), [])
        self.used_bytes -= _nbytes(held)
        return len(held)


def pack(world: World) -> bytes:
    """A record as bytes, the same for equal records: for a catalog that keeps bytes, and for files."""
    parts = [[branch, end] for branch, end in world.lineage.parts]
    packed: bytes = msgpack.packb([world.name, world.version, world.spec, world.chunks, parts])
    return packed


def unpack(data: bytes | memoryview) -> World:
    """The record that `pack` wrote; raises ChunkCorrupt for anything else."""
    try:
        name, version, spec, chunks, parts = _typed(msgpack.unpackb(data), "a record", _RECORD)
        lineage = [_typed(part, "a part", _CLOSED if part is not parts[-1] else _OPEN) for part in parts]
        world = World(name, Lineage(tuple((branch, end) for branch, end in lineage)), version, spec, chunks)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ChunkCorrupt(f"not the record of a world: {str(error)[:200]}") from error
    return world


_RECORD = (str, int, str, int, list)
_CLOSED, _OPEN = (bytes, int), (bytes, type(None))


def _typed(values: Any, what: str, types: tuple[type, ...]) -> list[Any]:
    if type(values) is not list or tuple(map(type, values)) != types:
        raise ValueError(f"{what} holds {', '.join(t.__name__ for t in types)}, got {str(values)[:80]}")
    return values


def _nbytes(snapshots: list[Snapshot]) -> int:
    return sum(each.state.nbytes for each in snapshots)
