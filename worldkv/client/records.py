"""World records over several shards: the `Catalog` of a client.

Where there is Redis every shard reads and swaps the same records there. Without it records are copied to two shards.
Of what the shards say of a record the highest version is true, and the first in rank of those that have it decides
its next swap: when a shard comes the others keep their order, so all clients go to the same one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableSequence, Sequence
from contextlib import suppress
from typing import TypeVar

from worldkv import wire
from worldkv.catalog import Stored, World, check_name
from worldkv.client.membership import Membership
from worldkv.client.policy import Deadline, together
from worldkv.client.ring import Ring
from worldkv.client.shard import Shard
from worldkv.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OverBudget,
    Unavailable,
    WorldKVError,
)
from worldkv.store import Level
from worldkv.v1 import kvstore_pb2 as pb

T = TypeVar("T")
_PAGE = 1000
"""Records of a page of a list."""
MAX_BEHIND = 1000
"""Versions that a shard which missed some is brought up by, at most."""


class Worlds:
    """A `Catalog` over all shards."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    async def read(self, name: str) -> Stored:
        held, _ = await self._held(name, self._ring.deadline(), self._ring.membership)
        if not held:
            raise NotFound(f"no world {name!r}")
        return _highest(held)

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        """As `Catalog.swap`. Raises Unavailable if it is not known whether the record was written: read it again."""
        if check_name(name) != record.name:
            raise InvalidInput(f"a record of world {record.name!r} cannot be swapped into {name!r}")
        deadline = self._ring.deadline()
        return await self._ring.routed(lambda now: self._swap(name, expected, record, deadline, now), deadline)

    async def _swap(self, name: str, expected: int, record: World, deadline: Deadline, now: Membership) -> Stored:
        everyone = self._ring.everyone(now)
        if len(everyone) == 1:
            return await self._write(everyone[0], expected, record, deadline, now)
        # A new world may have another first shard for whoever knows another membership: of two who make it at once the
        # newer one wins, since from now on no shard takes what the older one writes.
        held, _ = await self._held(name, deadline, now, fence=not expected)
        found = _highest(held).world.version if held else 0
        if found != expected:
            raise Conflict(f"world {name!r} has version {found}, expected {expected}")
        # Those that have the newest record first, in rank; then the others, in rank too.
        newest = [shard for shard in held if held[shard].world.version == found]
        order = sorted(self._ring.ranked(name.encode(), True, now), key=lambda shard: shard not in newest)
        stored = await self._write(order[0], expected, record, deadline, now)
        return await self._copied(stored, order[1:], held, deadline, now)

    async def adopt(self, record: World) -> Stored:
        """Make two shards, or Redis, know a record that was kept elsewhere, in the version it has; nothing if theirs is
        newer."""
        deadline = self._ring.deadline()
        return await self._ring.routed(lambda now: self._adopt(record, deadline, now), deadline)

    async def _adopt(self, record: World, deadline: Deadline, now: Membership) -> Stored:
        held: dict[Shard, Stored] = {}
        with suppress(Unavailable):  # who does not answer may know a newer one, which is true when it is back
            held, _ = await self._held(record.name, deadline, now)
        order = self._ring.ranked(record.name.encode(), True, now)
        if held and _highest(held).world.version >= record.version:
            stored = _highest(held)
            behind = [shard for shard in order if shard not in held or held[shard].world != stored.world]
            return await self._copied(stored, behind, held, deadline, now)
        failed: WorldKVError | None = None
        for n, shard in enumerate(order):
            try:
                stored = await self._raise(shard, held, record, record.version, deadline, now)
            except Unavailable as error:
                failed = failed or error
            else:
                return await self._copied(stored, order[n + 1 :], held, deadline, now)
        raise failed or Unavailable(f"world {record.name!r}: no shard keeps its record")

    async def _copied(
        self,
        stored: Stored,
        shards: Sequence[Shard],
        held: Mapping[Shard, Stored],
        deadline: Deadline,
        now: Membership,
    ) -> Stored:
        """A record that one shard has, written to another one too unless Redis has it."""
        for shard in shards if stored.level == Level.ONE else ():
            try:
                await self._raise(shard, held, stored.world, stored.world.version, deadline, now)
            except (Unavailable, DeadlineExceeded, OverBudget, Conflict):
                continue
            return stored._replace(level=Level.TWO)
        return stored

    async def _raise(
        self,
        shard: Shard,
        held: Mapping[Shard, Stored],
        record: World,
        version: int,
        deadline: Deadline,
        now: Membership,
    ) -> Stored:
        """Swap a record into a shard until it has this version: shards count swaps themselves."""
        before = held[shard].world.version if shard in held else 0
        if not 0 < version - before <= MAX_BEHIND:
            raise Conflict(f"shard {shard.member.name} has version {before} of world {record.name!r}, not {version}")
        for expected in range(before, version - 1):
            await self._write(shard, expected, record, deadline, now)
        return await self._write(shard, version - 1, record, deadline, now)

    async def _write(self, shard: Shard, expected: int, record: World, deadline: Deadline, now: Membership) -> Stored:
        request = pb.SwapWorldRequest(world=wire.world_message(record), expected=expected, membership=now.number)
        async with shard.line.calling("swap", deadline) as watch:
            told = await shard.line.stub.SwapWorld(request, **watch.limits)
        return Stored(wire.world_of(told.world), wire.level_of(told.level) or Level.ONE)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        """As `Catalog.list`. Raises Unavailable if a shard does not answer."""
        deadline = self._ring.deadline()
        newest: dict[str, World] = {}

        async def ask(shard: Shard) -> None:
            token = ""
            while True:
                request = pb.ListWorldsRequest(prefix=prefix, page_size=_PAGE, page_token=token)
                async with shard.line.calling("list", deadline) as watch:
                    page = await shard.line.stub.ListWorlds(request, **watch.limits)
                for world in map(wire.world_of, page.worlds):
                    if world.name not in newest or newest[world.name].version < world.version:
                        newest[world.name] = world
                if not (token := page.next_page_token):
                    return

        await together(map(ask, self._ring.ranked(b"")))
        for name in sorted(newest):
            if name > after:
                yield newest[name]

    async def remove(self, name: str, expected: int = 0) -> None:
        """As `Catalog.remove`. Raises Unavailable if a shard may still have the record: remove it again."""
        deadline = self._ring.deadline()
        removed: list[int] = []  # the version that is gone from the first shard
        await self._ring.routed(lambda now: self._remove(name, expected, removed, deadline, now), deadline)

    async def _remove(
        self, name: str, expected: int, removed: MutableSequence[int], deadline: Deadline, now: Membership
    ) -> None:
        held, silent = await self._held(name, deadline, now)
        if not held and not removed:
            raise NotFound(f"no world {name!r}")
        found = max((stored.world.version for stored in held.values()), default=0)
        if (removed and found > removed[0]) or (not removed and expected and found != expected):
            raise Conflict(f"world {name!r} has version {found}, expected {expected or removed[0]}")

        async def ask(shard: Shard, version: int = 0) -> None:
            request = pb.RemoveWorldRequest(name=name, expected=version, membership=now.number)
            async with shard.line.calling("remove", deadline) as watch:
                await shard.line.stub.RemoveWorld(request, **watch.limits)

        left = [*held]
        if not removed:
            first = next(shard for shard in held if held[shard].world.version == found)
            await ask(first, expected)
            removed.append(found)
            left.remove(first)
            if _highest(held).level == Level.REDIS:  # of which nobody has a copy of his own
                silent = {}
        silent |= (await each_of(ask, left))[1]
        if silent:
            raise Unavailable(f"world {name!r} may still be there, remove it again: {reasons(silent)}")

    async def _held(
        self, name: str, deadline: Deadline, now: Membership, fence: bool = False
    ) -> tuple[dict[Shard, Stored], dict[Shard, WorldKVError]]:
        """The record as each shard knows it, first in rank first; and why others do not answer.

        fence  whether a shard is told, before it reads, to take nothing of older memberships

        Raises Unavailable if nobody who answers has it and somebody does not answer.
        """
        request = pb.ReadWorldRequest(name=check_name(name))

        async def ask(shard: Shard) -> Stored:
            if fence:
                await shard.delete((), now.number, deadline)
            async with shard.line.calling("read", deadline) as watch:
                told = await shard.line.stub.ReadWorld(request, **watch.limits)
            return Stored(wire.world_of(told.world), wire.level_of(told.level) or Level.ONE)

        order = self._ring.ranked(name.encode(), membership=now)
        held, silent = await each_of(ask, order[:1])
        if not any(stored.level == Level.REDIS for stored in held.values()):  # there all have the same
            others, quiet = await each_of(ask, order[1:])
            held, silent = held | others, silent | quiet
        if silent and not held:
            raise Unavailable(f"nobody knows whether there is a world {name!r}: {reasons(silent)}")
        return held, silent


async def each_of(
    ask: Callable[[Shard], Awaitable[T]], shards: Sequence[Shard]
) -> tuple[dict[Shard, T], dict[Shard, WorldKVError]]:
    """What each shard answers, in this order, without those that raise NotFound; and why others do not answer."""
    found: dict[Shard, T] = {}
    silent: dict[Shard, WorldKVError] = {}

    async def one(shard: Shard) -> None:
        try:
            found[shard] = await ask(shard)
        except NotFound:
            pass
        except (Unavailable, DeadlineExceeded) as error:
            silent[shard] = error

    await together(map(one, shards))
    return {shard: found[shard] for shard in shards if shard in found}, silent


def reasons(silent: Mapping[Shard, WorldKVError]) -> str:
    """Why shards do not answer, for people."""
    return "; ".join(str(silent[shard]) for shard in sorted(silent, key=lambda shard: shard.member.name))


def _highest(held: Mapping[Shard, Stored]) -> Stored:
    """The record of the highest version; two shards that have it are level TWO."""
    version = max(stored.world.version for stored in held.values())
    newest = [stored for stored in held.values() if stored.world.version == version]
    level = max(stored.level for stored in newest)
    return newest[0]._replace(level=max(level, Level.TWO) if len(newest) > 1 else level)
