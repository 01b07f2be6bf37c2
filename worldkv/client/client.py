"""The store as its users see it: every shard behind one `Store`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import TypeVar

from worldkv.chunk import Branch, ChunkKey, Segment, check_key
from worldkv.client.config import ClientConfig
from worldkv.client.layers import Opened, in_layers, open_parts
from worldkv.client.membership import Members, Membership, name_of
from worldkv.client.metas import HEAD_BYTES, batches
from worldkv.client.policy import Deadline, together, walk
from worldkv.client.records import Worlds, reasons
from worldkv.client.ring import Ring
from worldkv.client.scanning import Scanned, merged
from worldkv.client.sessions import Sessions
from worldkv.client.shard import Shard, ShardStats
from worldkv.errors import (
    ChunkCorrupt,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    Outdated,
    OverBudget,
    Unavailable,
    WorldKVError,
)
from worldkv.format import Frame, Header, Kind, Row
from worldkv.index import Batch
from worldkv.store import Level, Miss, PartKey

_TELLING = (Miss.NEVER_STORED, Miss.EVICTED, Miss.LATE, Miss.TIER_DOWN, Miss.CORRUPT, Miss.DELETED)
"""Reasons of a miss; of what several shards say, the last of these is told."""

T = TypeVar("T")
_Read = Callable[[Shard, list[PartKey], Callable[[PartKey, T | Miss], None]], Awaitable[None]]
"""Asks one shard for some keys, and tells each answer as it comes."""


@dataclass
class _Putting:
    """How far an item has come: where it is kept, and what was said against it."""

    copies: int
    levels: list[Level] = field(default_factory=list)
    error: WorldKVError | None = None

    @property
    def done(self) -> bool:
        final = isinstance(self.error, Conflict)
        return final or Level.REDIS in self.levels or len(self.levels) >= self.copies

    @property
    def level(self) -> Level:
        return max(max(self.levels), Level.TWO if len(self.levels) > 1 else Level.ONE)


class KVClient:
    """A `Store` over all shards, and the worlds and snapshots they keep.

        async with KVClient(fixed("127.0.0.1:7070")) as client: ...

    A chunk's shards are ranked by rendezvous hashing. Put goes to the first of them that answers, an immutable part
    to two where there is no Redis. Get walks the ranking until somebody has the key or knows that it was deleted;
    delete and scan ask everyone. All shards of a wave are asked at once, under one deadline.

    Frames from other hosts, and copies out of shared memory, land in reused memory: a frame keeps its memory as long
    as anything refers to it. Every frame's checksum was verified.

    worlds    a `Catalog` over the same shards
    sessions  `Snapshots` over them
    counters  what happened since it was made: frames and bytes by way and direction, calls that a shard did not
              answer, checksums that were wrong

    A put of several chunks that raises may have kept some of them, each as a whole: putting again is safe. Without
    Redis no other thing is possible over several processes. Deleted chunks are found before anything is kept.
    """

    def __init__(self, members: Members, config: ClientConfig | None = None) -> None:
        self.ring = Ring(members, config or ClientConfig())
        self.config, self.counters = self.ring.config, self.ring.counters
        self.worlds, self.sessions = Worlds(self.ring), Sessions(self.ring)

    async def __aenter__(self) -> KVClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def rest(self) -> None:
        """Give back the memory that is kept warm for frames to land in: nothing is asked for in the near future."""
        self.ring.landing.rest()

    async def close(self) -> None:
        """End all connections and give shared memory back; frames stay readable."""
        await self.ring.close()

    async def get(
        self, keys: Collection[PartKey], *, deadline_seconds: float | None = None
    ) -> dict[PartKey, Frame | Miss]:
        """The frame of every key asked for, or why there is none; LATE for what did not come in time."""
        deadline = self.ring.deadline(deadline_seconds)

        async def read(shard: Shard, some: list[PartKey], answered: Callable[[PartKey, Frame | Miss], None]) -> None:
            await shard.get(some, deadline, answered)

        return await self._found(keys, deadline, read)

    async def segments(
        self,
        keys: Collection[PartKey],
        *,
        layers: Collection[int] | None = None,
        kinds: Collection[str] = ("k", "v"),
        deadline_seconds: float | None = None,
        opened: Callable[[PartKey, Header], None] | None = None,
    ) -> AsyncGenerator[tuple[PartKey, Segment | Miss], None]:
        """Segments of KV parts as they come: layer after layer, in each the parts as they stand in `keys`, of each its
        keys before its values. Every segment's checksum was verified. Whoever takes his time holds up no shard.

        layers  that are wanted, None: all; those that a part has not are left out
        kinds   of segments: k, v or both
        opened  is told what each part says of itself, before its first segment

        A part that cannot be had is told once, by the reason, before all segments or where it stopped coming; after
        that there is nothing more of it. LATE for what did not come in time. Raises InvalidInput for other keys than
        those of KV parts.
        """
        odd = [str(key) for key in keys if key.kind != "kv"]
        if odd or not {"k", "v"}.issuperset(kinds):
            raise InvalidInput(f"KV parts have segments of kinds k and v, asked for {kinds} of {', '.join(odd[:3])}")
        deadline = self.ring.deadline(deadline_seconds)

        async def read(shard: Shard, some: list[PartKey], answered: Callable[[PartKey, Opened | Miss], None]) -> None:
            await open_parts(shard, some, deadline, answered)

        async def whole(key: PartKey) -> Frame | Miss:
            return (await self.get([key], deadline_seconds=deadline.remaining))[key]

        def wanted(row: Row) -> bool:
            return row.kind in kinds and (layers is None or row.layer in layers)

        found = await self._found(keys, deadline, read)
        for key, each in found.items():
            if isinstance(each, Miss):
                yield key, each
        here = {key: each for key, each in found.items() if not isinstance(each, Miss)}
        async with aclosing(in_layers(here, wanted, deadline, whole, opened)) as segments:
            async for key, segment in segments:
                yield key, segment

    async def _found(self, keys: Collection[PartKey], deadline: Deadline, read: _Read[T]) -> dict[PartKey, T | Miss]:
        """What `read` finds of every key, asking shard after shard; a reason where nobody has it."""
        wanted = dict.fromkeys(keys)
        routes = self._routes(wanted, self.ring.membership, writing=False)
        found: dict[PartKey, T | Miss] = {}

        def answered(key: PartKey, answer: T | Miss) -> None:
            held = found.get(key)
            known = isinstance(held, Miss) and isinstance(answer, Miss)
            if not known or _TELLING.index(answer) > _TELLING.index(held):
                found[key] = answer

        async def ask(shard: Shard, some: list[PartKey]) -> None:
            try:
                await read(shard, some, answered)
            except DeadlineExceeded:  # told by what is missing
                pass
            except Unavailable:
                for key in some:
                    if not done(key):
                        answered(key, Miss.TIER_DOWN)
                raise

        def done(key: PartKey) -> bool:
            held = found.get(key)
            return held is Miss.DELETED or not (held is None or isinstance(held, Miss))

        await walk(routes, ask, done, self.config.retry, deadline)
        if deadline.passed:
            found = {key: held for key, held in found.items() if done(key)}
        return {key: found.get(key, Miss.LATE) for key in wanted}

    async def put(
        self,
        items: Mapping[PartKey, Frame],
        *,
        least: Level = Level.ONE,
        deadline_seconds: float | None = None,
    ) -> dict[PartKey, Level]:
        """Keep these frames; answers how safe each is.

        least  that will do: TWO is two shards, or Redis; REDIS is refused by shards whose Redis does not answer

        Raises InvalidInput for an empty frame, Conflict if a chunk was deleted, OverBudget if no shard has room,
        Unavailable if none answers or `least` cannot be had, DeadlineExceeded; what was kept until then stays.
        """
        for key, frame in items.items():
            if not frame.nbytes:
                raise InvalidInput(f"{key} has no bytes: no part of a chunk is empty")
        deadline = self.ring.deadline(deadline_seconds)
        return await self.ring.routed(lambda now: self._put(items, least, deadline, now), deadline)

    async def _put(
        self, items: Mapping[PartKey, Frame], least: Level, deadline: Deadline, membership: Membership
    ) -> dict[PartKey, Level]:
        routes = self._routes(items, membership, writing=True)
        if len({key.chunk for key in items}) > 1:
            await self._refuse_deleted(routes, deadline)
        two = len(membership.shards) > 1
        state = {key: _Putting(2 if two and (key.kind == "part" or least == Level.TWO) else 1) for key in items}
        asked = Level.REDIS if least == Level.REDIS else None

        async def ask(shard: Shard, some: list[PartKey]) -> None:
            try:
                kept = await shard.put({key: items[key] for key in some}, asked, membership.number, deadline)
            except DeadlineExceeded as error:  # what another shard has is kept all the same
                kept = dict.fromkeys(some, error)
            for key, outcome in kept.items():
                if isinstance(outcome, WorldKVError):
                    state[key].error = outcome
                else:
                    state[key].levels.append(outcome)

        await walk(routes, ask, lambda key: state[key].done, self.config.retry, deadline)
        self.ring.landing.expect(max((frame.nbytes for frame in items.values()), default=0))  # who puts will read
        failed = {key: each for key, each in state.items() if not each.levels or each.level < least}
        if failed:
            raise _worst(failed, least, deadline)
        return {key: each.level for key, each in state.items()}

    async def delete(self, keys: Collection[PartKey], *, deadline_seconds: float | None = None) -> int:
        """Drop these keys everywhere; answers how many frames went, copies of one counted once.

        Raises Unavailable if a shard does not answer, or cannot promise that what it deleted stays so: delete again.
        """
        deadline, doomed = self.ring.deadline(deadline_seconds), set(keys)
        if not doomed:
            return 0
        return await self.ring.routed(lambda now: self._delete(doomed, deadline, now), deadline)

    async def _delete(self, doomed: set[PartKey], deadline: Deadline, membership: Membership) -> int:
        everyone, number = self.ring.everyone(membership), membership.number
        held = None
        if len(everyone) > 1:
            with suppress(Unavailable):  # deleting will tell
                held = await self._held(doomed)
        dropped: dict[Shard, int] = {}
        failed: dict[Shard, WorldKVError] = {}

        async def ask(shard: Shard, _: list[Shard]) -> None:
            try:
                dropped[shard] = await shard.delete(doomed, number, deadline)
            except Unavailable as error:
                failed[shard] = error
                raise

        await walk({shard: [shard] for shard in everyone}, ask, dropped.__contains__, self.config.retry, deadline)
        if len(dropped) < len(everyone):
            deadline.require("delete")
            left = {shard: error for shard, error in failed.items() if shard not in dropped}
            raise Unavailable(f"not deleted everywhere, delete again: {reasons(left)}")
        return sum(dropped.values()) if held is None else held

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        """Keys that anybody holds of a branch, chunks `begin` to `end` (exclusive), in order, each once.

        Raises Unavailable if a shard does not answer: a list with holes would be taken for the whole.
        """
        async with aclosing(self._listed(Scanned(branch, begin, end, kind))) as listed:
            async for key, _ in listed:
                yield key

    async def batches(self, branch: Branch, begin: int = 0, end: int | None = None) -> AsyncIterator[Batch]:
        """What chunks `begin` to `end` (exclusive) of a branch say of themselves, in order, each once, some hundred at
        a time: checked together, ten thousand take half a second.

        Read from the first bytes of their immutable parts, and verified; where these do not hold all of it, for
        example depth, or are damaged, from the whole part. A chunk that is gone meanwhile is left out, as is one whose
        part is damaged wherever it is: `counters["metas.damaged"]` counts these.

        Raises Unavailable if a shard does not answer: a list with holes would be taken for the whole.
        """
        async with aclosing(self._listed(Scanned(branch, begin, end, "part", HEAD_BYTES))) as listed:
            async for batch in batches(listed, self.get, self.counters):
                yield batch

    async def _listed(self, wanted: Scanned) -> AsyncGenerator[tuple[PartKey, list[bytes]], None]:
        check_key(ChunkKey(wanted.branch, 0))
        streams = [shard.scan(wanted, self.ring.deadline) for shard in self.ring.everyone()]
        try:
            async for each in merged(streams):
                yield each
        finally:
            for stream in streams:
                await stream.aclose()

    async def stats(self, *, deadline_seconds: float | None = None) -> dict[str, ShardStats | None]:
        """What each shard says of itself, by name; None for one that does not answer."""
        deadline = self.ring.deadline(deadline_seconds)

        async def ask(shard: Shard) -> ShardStats | None:
            try:
                return await shard.stats(deadline)
            except (Unavailable, DeadlineExceeded):
                return None

        shards = self.ring.everyone()
        told = await together(map(ask, shards))
        return {shard.member.name: each for shard, each in zip(shards, told, strict=True)}

    def _routes(
        self, keys: Collection[PartKey], membership: Membership, writing: bool
    ) -> dict[PartKey, Sequence[Shard]]:
        """The shards of each key, first who should have it: the same for both parts of a chunk."""
        ranked = {
            chunk: self.ring.ranked(name_of(check_key(chunk)), writing, membership)
            for chunk in dict.fromkeys(key.chunk for key in keys)
        }
        return {key: ranked[key.chunk] for key in keys}

    async def _refuse_deleted(self, routes: Mapping[PartKey, Sequence[Shard]], deadline: Deadline) -> None:
        """Raise Conflict if the first in rank of a key knows that its chunk was deleted."""
        deleted: list[PartKey] = []
        groups: dict[Shard, list[PartKey]] = {}
        for key, route in routes.items():
            groups.setdefault(route[0], []).append(key)

        async def ask(shard: Shard, keys: list[PartKey]) -> None:
            with suppress(Unavailable):  # putting will tell
                deleted.extend(await shard.deleted(keys, deadline))

        await together(ask(shard, keys) for shard, keys in groups.items())
        if deleted:
            raise Conflict(f"what was deleted stays deleted: {', '.join(map(str, deleted))}")

    async def _held(self, doomed: set[PartKey]) -> int:
        """How many frames are there that deleting these keys drops, copies of one counted once."""
        chunks = {key.chunk for key in doomed if key.kind == "part"}
        count = 0
        for branch, group in groupby(sorted(doomed), key=lambda key: key.chunk.branch):
            numbers = [key.chunk.index for key in group]
            async for key in self.scan(branch, min(numbers), max(numbers) + 1):
                count += key in doomed or key.chunk in chunks
        return count


def _worst(failed: Mapping[PartKey, _Putting], least: Level, deadline: Deadline) -> WorldKVError:
    """The error to raise for items that are not kept well enough: the one that asks most of the caller."""
    for kind in (Outdated, Conflict, OverBudget, ChunkCorrupt):
        for each in failed.values():
            if isinstance(each.error, kind):
                return each.error
    names = ", ".join(map(str, failed))
    if deadline.passed or any(isinstance(each.error, DeadlineExceeded) for each in failed.values()):
        return DeadlineExceeded(f"{names}: not kept within {deadline.seconds:g} s")
    return Unavailable(f"{names}: no shard that answers keeps it at level {least.name}")
