"""World records and session states of one tenant: in Redis alone, where there is one; else in RAM.

While Redis does not answer world records are read as they were seen last, and nothing is written. What several shards
wrote in RAM meanwhile would have no order: the older might come last to Redis, and take the place of the newer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

from worldkv.catalog import Catalog, RamCatalog, RamSnapshots, Snapshot, Snapshots, Stored, World, check_name
from worldkv.errors import Conflict, InvalidInput, NotFound, Unavailable, WorldKVError
from worldkv.store import Level

_log = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Records of a tenant that are remembered for when Redis does not answer; the oldest are forgotten first."""


class TieredCatalog:
    """A `Catalog` over the one in Redis, which remembers what it has seen: Redis may not answer, or have lost it.

    A record that was never seen here raises Unavailable then: nobody can know whether Redis has one of that name.
    """

    def __init__(self, lower: Catalog) -> None:
        self._lower = lower
        self._seen: dict[str, World] = {}  # newest last
        self._lost: dict[str, World] = {}  # by Redis
        self._lock = asyncio.Lock()
        self._refused: set[str] = set()  # told of

    @property
    def waiting(self) -> list[World]:
        """Records that Redis has lost, and has not got again."""
        return [self._lost[name] for name in sorted(self._lost)]

    async def read(self, name: str) -> Stored:
        await self.catch_up(check_name(name))
        if name in self._lost:
            return Stored(self._lost[name], Level.ONE)
        try:
            stored = await self._lower.read(name)
        except NotFound:
            self._seen.pop(name, None)
            raise
        except Unavailable as error:
            if name not in self._seen:
                raise Unavailable(f"world {name!r} was never seen here: {error}") from error
            return Stored(self._seen[name], Level.ONE)
        self._remember(stored.world)
        return stored

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        if check_name(name) != record.name:
            raise InvalidInput(f"a record of world {record.name!r} cannot be swapped into {name!r}")
        await self._require(name)
        stored = await self._lower.swap(name, expected, record)
        self._remember(stored.world)
        return stored

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        for name in [*self._lost]:
            await self._require(name)
        async for world in self._lower.list(prefix, after):
            yield world

    async def remove(self, name: str, expected: int = 0) -> None:
        await self._require(check_name(name))
        async with self._lock:  # what is being written again must not come after it
            await self._lower.remove(name, expected)
        self._seen.pop(name, None)
        self._lost.pop(name, None)  # it may have been lost meanwhile, and was to go

    def lost(self) -> None:
        """Redis has lost what it had: what is remembered here is to be written again."""
        self._lost |= self._seen

    async def settle(self) -> None:
        """Write to Redis what it has lost; Unavailable if it does not answer, or does not take all of it."""
        for name in [*self._lost]:
            if not await self.catch_up(name):
                break
        if self._lost:
            raise Unavailable(f"Redis does not take {len(self._lost)} world records")

    async def catch_up(self, name: str) -> bool:
        """Write a record to Redis again that it has lost, if it takes it now; answers whether Redis answered. The
        highest version wins."""
        if name not in self._lost:
            return True
        async with self._lock:
            if (ours := self._lost.get(name)) is None:
                return True
            try:
                await self._write(ours)
            except WorldKVError as error:
                _waits(f"world {name!r}", error, self._refused)
                return not isinstance(error, Unavailable)
            self._refused.discard(f"world {name!r}")
            self._lost.pop(name, None)
            return True

    async def _require(self, name: str) -> None:
        """Raises Unavailable unless Redis has got a record again, if it lost it."""
        await self.catch_up(name)
        if name in self._lost:
            raise Unavailable(f"world {name!r} waits to be written to Redis, which has lost it and does not take it")

    async def _write(self, ours: World) -> None:
        version = 0
        with suppress(NotFound):
            there = (await self._lower.read(ours.name)).world
            version = there.version
            if there.lineage != ours.lineage and ours.lineage.head in (branch for branch, _ in there.lineage.parts):
                return  # somebody else wrote it again, and it went on from there
        while version < ours.version:  # step by step: versions are counted there, and ours is known to others
            version = (await self._lower.swap(ours.name, version, ours)).world.version

    def _remember(self, world: World) -> None:
        self._seen.pop(world.name, None)
        self._seen[world.name] = world
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]


class Records(NamedTuple):
    """What is small and must be right, of one tenant."""

    worlds: Catalog
    snapshots: Snapshots


class Alone(NamedTuple):
    """World records and session states, the newest first, with their tenants."""

    worlds: list[tuple[str, World]]
    states: list[tuple[str, str, list[Snapshot]]]


def _waits(what: str, error: WorldKVError, refused: set[str]) -> None:
    """Tell why something is not in Redis yet; if that may not pass by itself, loudly, but only once."""
    passing = isinstance(error, Unavailable | Conflict) or what in refused
    _log.log(logging.DEBUG if passing else logging.WARNING, "%s is not in Redis yet: %s", what, error)
    if not passing:
        refused.add(what)


async def kept(snapshots: Snapshots, session: str) -> list[Snapshot]:
    """The states of a session that are kept, the newest first."""
    found = []
    for previous in (False, True):
        with suppress(NotFound):
            found.append(await snapshots.load(session, previous))
    return found


class Tenants:
    """Records of every tenant, made when they are first asked for.

    ram_bytes  of session states in RAM, a tenant
    lower      gives a tenant's records in Redis; None where there is no Redis
    """

    def __init__(self, ram_bytes: int, lower: Callable[[str], Records] | None) -> None:
        self._ram_bytes, self._lower = ram_bytes, lower
        self._records: dict[str, Records] = {}

    def __call__(self, tenant: str) -> Records:
        if tenant not in self._records:
            self._records[tenant] = self._open(tenant)
        return self._records[tenant]

    def lost(self) -> None:
        """Redis has lost what it had."""
        for worlds, _ in self._records.values():
            if isinstance(worlds, TieredCatalog):
                worlds.lost()

    async def settle(self) -> None:
        """Write to Redis what it has lost; Unavailable if it does not answer, or does not take all of it."""
        waiting: list[Unavailable] = []
        for worlds, _ in [*self._records.values()]:
            if isinstance(worlds, TieredCatalog):
                try:
                    await worlds.settle()
                except Unavailable as error:  # what others have may go through all the same
                    waiting.append(error)
        if waiting:
            raise waiting[0]

    async def alone(self) -> Alone:
        """What is nowhere but here."""
        worlds: list[tuple[str, World]] = []
        states: list[tuple[str, str, list[Snapshot]]] = []
        for tenant, (catalog, snapshots) in [*self._records.items()]:
            here = catalog.waiting if isinstance(catalog, TieredCatalog) else [each async for each in catalog.list()]
            worlds += [(tenant, each) for each in here]
            if isinstance(snapshots, RamSnapshots):
                states += [(tenant, session, await kept(snapshots, session)) for session in snapshots.sessions()]
        return Alone(worlds, states)

    def _open(self, tenant: str) -> Records:
        if self._lower is None:
            return Records(RamCatalog(), RamSnapshots(self._ram_bytes))
        lower = self._lower(tenant)
        return Records(TieredCatalog(lower.worlds), lower.snapshots)
