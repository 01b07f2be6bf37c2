"""Session states over several shards: the `Snapshots` of a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from grpc import aio

from worldkv import wire
from worldkv.catalog import Snapshot, check_name
from worldkv.client.connection import SERVICE
from worldkv.client.landing import Arrival
from worldkv.client.policy import Deadline
from worldkv.client.records import each_of, reasons
from worldkv.client.ring import Ring
from worldkv.client.shard import Shard
from worldkv.errors import ChecksumMismatch, ChunkCorrupt, NotFound, OverBudget, Oversized, Unavailable, WorldKVError
from worldkv.format import MAX_KV_BYTES, Frame
from worldkv.shared import checksum
from worldkv.store import Level
from worldkv.v1 import kvstore_pb2 as pb


class _Found(NamedTuple):
    """A snapshot, and who has it as which of its two."""

    head: pb.SnapshotHead
    shard: Shard
    previous: bool


class Sessions:
    """`Snapshots` over all shards: the first in rank by the session's name has them, and another one a copy."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    async def save(self, session: str, snapshot: Snapshot) -> Level:
        """As `Snapshots.save`; TWO if two shards have it."""
        deadline = self._ring.deadline()
        state = snapshot.state
        head = pb.SnapshotHead(
            session=check_name(session, "session"),
            chunks=snapshot.chunks,
            size=state.nbytes,
            checksum=checksum(state.buffers),
        )
        first = pb.SaveSnapshotRequest(head=head, membership=self._ring.membership.number).SerializeToString()

        async def stream() -> AsyncIterator[bytes]:
            yield first
            for piece in wire.pieces(0, state.buffers, self._ring.config.piece_bytes):
                yield piece

        levels: list[Level] = []

        async def ask(shard: Shard) -> None:
            call: aio.StreamUnaryMultiCallable[bytes, pb.SaveSnapshotResponse]
            call = shard.line.channel.stream_unary(f"{SERVICE}/SaveSnapshot", None, pb.SaveSnapshotResponse.FromString)
            async with shard.line.calling("save", deadline) as watch:
                told = await call(stream(), **watch.limits)
            levels.append(wire.level_of(told.level) or Level.ONE)

        failed: WorldKVError | None = None
        for shard in self._ring.ranked(session.encode(), writing=True):
            try:
                await ask(shard)
            except (Unavailable, OverBudget) as error:
                failed = failed or error
            if len(levels) == 2 or Level.REDIS in levels:
                break
        if not levels:
            raise failed or Unavailable(f"session {session!r}: no shard keeps its state")
        return Level.TWO if len(levels) == 2 else levels[0]

    async def load(self, session: str, previous: bool = False) -> Snapshot:
        """As `Snapshots.load`: of what all shards have, the newest or the one before it.

        Raises ChecksumMismatch if it is damaged wherever it is, Unavailable if nobody has it who answers.
        """
        deadline = self._ring.deadline()
        shards = self._ring.ranked(check_name(session, "session").encode())
        found: dict[Shard, list[_Found]] = {shard: [] for shard in shards}

        async def look(shard: Shard) -> None:
            for older in (False, True):  # NotFound ends it
                head, _ = await self._load(shard, session, older, deadline, whole=False)
                found[shard].append(_Found(head, shard, older))

        _, silent = await each_of(look, shards)
        states: dict[tuple[int, int], list[_Found]] = {}  # newest first: as the first in rank says, then the others
        for each in (each for held in found.values() for each in held):
            states.setdefault((each.head.chunks, each.head.checksum), []).append(each)
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
        deadline = self._ring.deadline()
        request = pb.DeleteSnapshotsRequest(
            session=check_name(session, "session"), membership=self._ring.membership.number
        )

        async def ask(shard: Shard) -> int:
            async with shard.line.calling("delete", deadline) as watch:
                return int((await shard.line.stub.DeleteSnapshots(request, **watch.limits)).dropped)

        dropped, silent = await each_of(ask, self._ring.ranked(session.encode()))
        if silent:
            raise Unavailable(f"session {session!r} may still have states, delete again: {reasons(silent)}")
        return max(dropped.values())

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
