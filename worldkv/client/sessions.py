"""Session states over several shards: the `Snapshots` of a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from grpc import aio

from worldkv import wire
from worldkv.catalog import Snapshot, check_name
from worldkv.client.connection import SERVICE
from worldkv.client.landing import Arrival
from worldkv.client.membership import Membership
from worldkv.client.policy import Deadline
from worldkv.client.records import each_of, reasons
from worldkv.client.ring import Ring
from worldkv.client.shard import Shard
from worldkv.errors import (
    ChecksumMismatch,
    ChunkCorrupt,
    DeadlineExceeded,
    NotFound,
    OverBudget,
    Oversized,
    Unavailable,
    WorldKVError,
)
from worldkv.format import MAX_KV_BYTES, Frame
from worldkv.shared import checksum
from worldkv.store import Level
from worldkv.v1 import kvstore_pb2 as pb


class _Found(NamedTuple):
    """A snapshot, and who has it as which of its two."""

    head: pb.SnapshotHead
    shard: Shard
    previous: bool

    @property
    def mark(self) -> tuple[int, int]:
        """What tells it from other states of its session: how many chunks it is after, and its checksum."""
        return self.head.chunks, self.head.checksum


class Sessions:
    """`Snapshots` over all shards: the first in rank by the session's name has them, and another one a copy."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    async def save(self, session: str, snapshot: Snapshot) -> Level:
        """As `Snapshots.save`; TWO if two shards have it."""
        deadline, head = self._ring.deadline(), _head(session, snapshot)
        kept: dict[Shard, Level] = {}  # saved twice, a state would be its own previous one

        async def save(now: Membership) -> Level:
            failed: WorldKVError | None = None
            for shard in self._ring.ranked(session.encode(), True, now):
                if len(kept) == 2 or Level.REDIS in kept.values():
                    break
                if shard in kept:
                    continue
                try:
                    kept[shard] = await self._save(shard, head, snapshot, deadline, now)
                except (Unavailable, OverBudget, DeadlineExceeded) as error:
                    failed = failed or error
            if not kept:
                raise failed or Unavailable(f"session {session!r}: no shard keeps its state")
            return max(*kept.values(), Level.TWO if len(kept) == 2 else Level.ONE)

        return await self._ring.routed(save, deadline)

    async def adopt(self, session: str, states: Sequence[Snapshot]) -> Level:
        """Make two shards, or Redis, know states kept elsewhere, the newest first; nothing if theirs are newer.

        Theirs are newer if ours is their previous one; where the two have nothing in common, unless ours drew more.
        Answers how safe the newest is. Raises what `save` does.
        """
        deadline = self._ring.deadline()
        return await self._ring.routed(lambda now: self._adopt(session, states, deadline, now), deadline)

    async def _adopt(self, session: str, states: Sequence[Snapshot], deadline: Deadline, now: Membership) -> Level:
        heads = [_head(session, state) for state in states]
        ours = [(head.chunks, head.checksum) for head in heads]
        found, _ = await self._look(session, deadline)
        known = {shard: [each.mark for each in held] for shard, held in found.items()}
        theirs = [*dict.fromkeys(mark for marks in known.values() for mark in marks)]
        newer = ours[0] in theirs[1:] or (theirs and theirs[0] not in ours and theirs[0][0] >= ours[0][0])
        newest = theirs[0] if newer else ours[0]
        levels = [Level.ONE for marks in known.values() if marks[:1] == [newest]]
        failed: WorldKVError | None = None
        for shard in [] if newer else self._ring.ranked(session.encode(), True, now):
            marks = known.get(shard, [])[:1]
            if len(levels) >= 2 or Level.REDIS in levels or marks == [newest]:
                continue
            try:
                for state, head, mark in reversed([*zip(states, heads, ours, strict=True)]):
                    if mark not in marks:
                        level = await self._save(shard, head, state, deadline, now)
                levels.append(level)
            except (Unavailable, OverBudget, DeadlineExceeded) as error:
                failed = failed or error
        if not levels:
            raise failed or Unavailable(f"session {session!r}: no shard keeps its state")
        return max(*levels, Level.TWO if len(levels) > 1 else Level.ONE)

    async def load(self, session: str, previous: bool = False) -> Snapshot:
        """As `Snapshots.load`: of what all shards have, the newest or the one before it.

        Raises ChecksumMismatch if it is damaged wherever it is, Unavailable if nobody has it who answers.
        """
        deadline = self._ring.deadline()
        found, silent = await self._look(session, deadline)
        states: dict[tuple[int, int], list[_Found]] = {}  # newest first: as the first in rank says, then the others
        for each in (each for held in found.values() for each in held):
            states.setdefault(each.mark, []).append(each)
        if len(states) <= previous:
            if silent:
                raise Unavailable(f"nobody knows the state of session {session!r}: {reasons(silent)}")
            raise NotFound(f"no {'earlier ' if previous else ''}snapshot of session {session!r}")
        holders = [*states.values()][previous]
        failed: WorldKVError = NotFound(f"session {session!r} was saved or forgotten meanwhile")
        for each in holders:
            try:
                head, state = await self._load(each.shard, session, each.previous, deadline, whole=True)
            except (ChunkCorrupt, NotFound, Unavailable) as error:
                failed = error
                continue
            return Snapshot(head.chunks, state)
        raise failed

    async def delete(self, session: str) -> int:
        """As `Snapshots.delete`. Raises Unavailable if a shard may still have some: delete again."""
        deadline, name = self._ring.deadline(), check_name(session, "session")
        dropped = [0]

        async def delete(now: Membership) -> int:
            request = pb.DeleteSnapshotsRequest(session=name, membership=now.number)

            async def ask(shard: Shard) -> None:
                async with shard.line.calling("delete", deadline) as watch:
                    told = await shard.line.stub.DeleteSnapshots(request, **watch.limits)
                dropped.append(told.dropped)

            _, silent = await each_of(ask, self._ring.ranked(name.encode(), membership=now))
            if silent:
                raise Unavailable(f"session {session!r} may still have states, delete again: {reasons(silent)}")
            return max(dropped)

        return await self._ring.routed(delete, deadline)

    async def _look(
        self, session: str, deadline: Deadline
    ) -> tuple[dict[Shard, list[_Found]], dict[Shard, WorldKVError]]:
        """What each shard has of a session, first in rank first, its newest first; and why others do not answer."""
        shards = self._ring.ranked(check_name(session, "session").encode())
        found: dict[Shard, list[_Found]] = {shard: [] for shard in shards}

        async def look(shard: Shard) -> None:
            for older in (False, True):  # NotFound ends it
                head, _ = await self._load(shard, session, older, deadline, whole=False)
                found[shard].append(_Found(head, shard, older))

        return found, (await each_of(look, shards))[1]

    async def _save(
        self, shard: Shard, head: pb.SnapshotHead, snapshot: Snapshot, deadline: Deadline, now: Membership
    ) -> Level:
        """Have one shard keep a state; answers how safe it is there."""
        first = pb.SaveSnapshotRequest(head=head, membership=now.number).SerializeToString()

        async def stream() -> AsyncIterator[bytes]:
            yield first
            for piece in wire.pieces(0, snapshot.state.buffers, self._ring.config.piece_bytes):
                yield piece

        call: aio.StreamUnaryMultiCallable[bytes, pb.SaveSnapshotResponse]
        call = shard.line.channel.stream_unary(f"{SERVICE}/SaveSnapshot", None, pb.SaveSnapshotResponse.FromString)
        async with shard.line.calling("save", deadline) as watch:
            told = await call(stream(), **watch.limits)
        return wire.level_of(told.level) or Level.ONE

    async def _load(
        self, shard: Shard, session: str, previous: bool, deadline: Deadline, whole: bool
    ) -> tuple[pb.SnapshotHead, Frame]:
        """A snapshot's head, and its state unless only the head is wanted."""
        request = pb.LoadSnapshotRequest(session=session, previous=previous)
        method: aio.UnaryStreamMultiCallable[pb.LoadSnapshotRequest, bytes]
        method = shard.line.channel.unary_stream(f"{SERVICE}/LoadSnapshot", pb.LoadSnapshotRequest.SerializeToString)
        head: pb.SnapshotHead | None = None
        arrival = Arrival(memoryview(bytearray()), checksum(()))
        async with shard.line.calling("load", deadline) as watch:
            call = method(request, **watch.limits)
            try:
                async for raw in call:
                    watch.alive()
                    answer = wire.load_response(raw)
                    if isinstance(answer, pb.SnapshotHead):
                        head = answer
                        if not whole:
                            return head, Frame(())
                        if head.size > MAX_KV_BYTES:
                            raise Oversized(f"{head.size} bytes of session {session!r}; at most {MAX_KV_BYTES} can be")
                        arrival = Arrival(memoryview(bytearray(head.size)), head.checksum)
                    else:
                        arrival.add(answer.offset, answer.data)
            finally:
                call.cancel()
        if head is None or not arrival.correct:
            raise ChecksumMismatch(f"the snapshot of session {session!r} on {shard.member.name} is not what was saved")
        return head, Frame.of(arrival.view)


def _head(session: str, snapshot: Snapshot) -> pb.SnapshotHead:
    state = snapshot.state
    return pb.SnapshotHead(
        session=check_name(session, "session"),
        chunks=snapshot.chunks,
        size=state.nbytes,
        checksum=checksum(state.buffers),
    )
