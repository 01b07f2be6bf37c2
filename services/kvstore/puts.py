"""Answers to `Put`: items are taken in as they come, and answered when they are kept or refused, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import xxhash

from services.kvstore.config import ServingConfig
from services.kvstore.held import Held, Reservation
from services.kvstore.membership import Membership
from services.kvstore.metrics import Metrics
from services.kvstore.segments import Segments
from services.kvstore.tiered import Tiered
from worldkv import rpc, wire
from worldkv.errors import ChecksumMismatch, Conflict, InvalidInput, Outdated, OverBudget, Unavailable
from worldkv.format import MAX_KV_BYTES, MAX_PART_BYTES, Kind
from worldkv.shared import Extent, StagingReader, copy_checked
from worldkv.store import Level, PartKey
from worldkv.v1 import kvstore_pb2 as pb

MAX_BYTES: dict[Kind, int] = {"part": MAX_PART_BYTES, "kv": MAX_KV_BYTES}
"""Bytes of a part, at most."""


class Puts:
    """Writes to the tiers for callers elsewhere."""

    def __init__(
        self, tiers: Tiered, metrics: Metrics, config: ServingConfig, membership: Membership, segments: Segments
    ) -> None:
        self.tiers, self.metrics, self.config = tiers, metrics, config
        self.membership, self.segments = membership, segments

    async def serve(
        self, tenant: str, requests: AsyncIterator[bytes], remaining: Callable[[], float]
    ) -> AsyncGenerator[pb.PutResponse, None]:
        """The fate of each item, also if Redis is slow: it has half of the seconds that remain when an item has come,
        so that the caller can still ask another shard.

        Raises InvalidInput for what is no item, or pieces that are not an item's.

        Items that came whole before are kept and answered all the same; the one that came in part leaves nothing.
        """
        call = _Call(self, tenant, remaining)
        reading = asyncio.create_task(call.read(requests))
        reading.add_done_callback(lambda _: call.answers.put_nowait(None))
        try:
            while (answer := await call.answers.get()) is not None:
                yield answer
            await reading
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, InvalidInput):
                await reading


class _Incoming:
    """An item whose pieces are coming.

    room      where they go; None if the item was answered already, and they go nowhere
    checksum  that they should have; None: not told yet
    """

    def __init__(self, number: int, key: PartKey, item: pb.PutItem, room: Reservation | None) -> None:
        self.number, self.key, self.size = number, key, item.size
        self.checksum = None if item.inline.checksum_follows else item.checksum
        self.level = wire.level_of(item.level) or Level.ONE
        self.room, self._piece_bytes, self.at = room, item.inline.piece_bytes, 0
        self._digest = xxhash.xxh3_64()
        self._views = list(room.views) if room else []
        self._view = 0  # which of them is written to next
        self._done = 0  # bytes of it that are written

    @property
    def whole(self) -> bool:
        """Whether all has come, its checksum too."""
        return self.at == self.size and self.checksum is not None

    @property
    def correct(self) -> bool:
        return self._digest.intdigest() == self.checksum

    def add(self, piece: wire.Piece) -> None:
        """Take a piece; InvalidInput if it is not the next one."""
        expected = min(self._piece_bytes, self.size - self.at)
        if not expected or (piece.item, piece.offset, piece.data.nbytes) != (self.number, self.at, expected):
            raise InvalidInput(
                f"after {self.at} of {self.size} bytes of item {self.number} a piece of {expected} was to come, "
                f"got {piece.data.nbytes} bytes at {piece.offset} of item {piece.item}"
            )
        if self.room:
            self._write(piece.data)
            self._digest.update(piece.data)
        self.at += expected

    def sum_up(self, checksum: int) -> None:
        """Take the checksum that follows the pieces; InvalidInput if it comes too soon or was told before."""
        if self.checksum is not None or self.at < self.size:
            raise InvalidInput(
                f"after {self.at} of {self.size} bytes of item {self.number} a checksum came "
                f"{'too soon' if self.checksum is None else 'again'}"
            )
        self.checksum = checksum

    def drop(self) -> None:
        """Give the room back, if it is still ours."""
        self._views.clear()
        if self.room:
            self.room.abort()

    def _write(self, data: memoryview) -> None:
        at = 0
        while at < data.nbytes:
            view = self._views[self._view]
            n = min(view.nbytes - self._done, data.nbytes - at)
            view[self._done : self._done + n] = data[at : at + n]
            at, self._done = at + n, self._done + n
            if self._done == view.nbytes:
                self._view, self._done = self._view + 1, 0


class _Call:
    """One call of `Put`."""

    def __init__(self, puts: Puts, tenant: str, remaining: Callable[[], float]) -> None:
        self.answers: asyncio.Queue[pb.PutResponse | None] = asyncio.Queue()
        self._puts, self._tiers, self._tenant, self._remaining = puts, puts.tiers, tenant, remaining
        self._items = 0
        self._incoming: _Incoming | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(puts.config.items_at_once)

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Take in all items; ends when all are answered."""
        try:
            async for frame in requests:
                content = wire.put_request(frame)
                if isinstance(content, pb.PutItem):
                    await self._begin(content)
                elif self._incoming is None:
                    what = f"piece of {content.data.nbytes} bytes" if isinstance(content, wire.Piece) else "checksum"
                    raise InvalidInput(f"a {what} came where an item was to begin")
                elif isinstance(content, int):
                    self._incoming.sum_up(content)
                else:
                    self._incoming.add(content)
                    self._puts.metrics.received("inline", content.data.nbytes)
                if self._incoming and self._incoming.whole:
                    incoming, self._incoming = self._incoming, None
                    await self._end(incoming)
            if self._incoming:
                each = self._incoming
                without = ", without its checksum" if each.checksum is None else ""
                raise InvalidInput(f"item {each.number} ended after {each.at} of {each.size} bytes{without}")
        except InvalidInput:
            await self._settled()
            await rpc.listen_on(requests)
            raise
        finally:
            if self._incoming:
                self._incoming.drop()
        await self._settled()

    async def _settled(self) -> None:
        if self._jobs:
            await asyncio.wait(self._jobs)

    async def _begin(self, item: pb.PutItem) -> None:
        """Look at an item, and make room for it."""
        number, self._items = self._items, self._items + 1
        if self._incoming:
            each = self._incoming
            raise InvalidInput(f"item {number} began after {each.at} of {each.size} bytes of item {each.number}")
        key, least = _checked(number, item)
        try:
            self._puts.membership.check(item.membership)
        except Outdated:
            return self._refuse(number, key, item, pb.REFUSAL_REASON_MEMBERSHIP)
        if item.HasField("staged"):
            extents = wire.extents_of(item.staged.extents)
            if sum(each.length for each in extents) != item.size:
                raise InvalidInput(f"the extents of item {number} are not the {item.size} bytes of its size: {extents}")
            try:
                segment = await self._puts.segments.open(item.staged.name, item.staged.nonce)
            except Unavailable:
                return self._refuse(number, key, item, pb.REFUSAL_REASON_NOT_SHARED)
            staged = segment.views(extents)
        try:
            room = self._tiers.ram.reserve(self._tenant, key, item.size)
        except (Conflict, OverBudget) as error:
            return self._refuse(number, key, item, _reason(error))
        if isinstance(room, Held):
            await self._start(number, key, self._tiers.confirm(room, least, self._patience()))
            if item.HasField("inline"):
                self._incoming = _Incoming(number, key, item, None)
        elif item.HasField("inline"):
            self._incoming = _Incoming(number, key, item, room)
        else:
            self._puts.metrics.received("staged", item.size)
            copied = self._copied(segment, extents, staged, room)
            await self._start(number, key, self._take(key, room, copied, item.checksum, least))

    async def _end(self, incoming: _Incoming) -> None:
        """All bytes of an item have come."""
        room = incoming.room
        if room is None:
            return
        checksum = incoming.checksum
        if checksum is None or not incoming.correct:
            incoming.drop()
            self._answer_refusal(incoming.number, incoming.key, pb.REFUSAL_REASON_CORRUPT)
            return
        keeping = self._tiers.keep(self._tenant, incoming.key, room, checksum, incoming.level, self._patience())
        await self._start(incoming.number, incoming.key, keeping)

    async def _copied(
        self, segment: StagingReader, extents: Sequence[Extent], staged: Sequence[memoryview], room: Reservation
    ) -> int:
        """Copy an item out of a staging segment; answers the sum of what is there now."""
        found = await asyncio.to_thread(copy_checked, staged, room.views, steady=True)
        if not segment.steady(extents):  # what was summed may not be what was copied
            found = await asyncio.to_thread(copy_checked, staged, room.views)
        return found

    async def _take(
        self, key: PartKey, room: Reservation, copied: Awaitable[int], checksum: int, least: Level
    ) -> Level:
        """Keep an item that is being copied."""
        sound = False
        try:
            found = await copied
            sound = found == checksum
        finally:
            if not sound:
                room.abort()
        if not sound:
            raise ChecksumMismatch(f"{key} has checksum {found:016x}, said to be {checksum:016x}")
        return await self._tiers.keep(self._tenant, key, room, checksum, least, self._patience())

    def _patience(self) -> float:
        """Seconds that Redis has for an item."""
        return max(self._remaining() / 2, 0)

    async def _start(self, number: int, key: PartKey, keeping: Awaitable[Level]) -> None:
        """Have an item kept, and answered then; goes on if the caller is gone meanwhile."""

        async def job() -> None:
            refused, level = pb.REFUSAL_REASON_UNSPECIFIED, None  # what is said should this fail as it must not
            try:
                level = await keeping
            except (Conflict, OverBudget, ChecksumMismatch, Unavailable) as error:
                refused = _reason(error)
            finally:
                if level is None:
                    self._answer_refusal(number, key, refused)
                else:
                    self._puts.metrics.kept(key, level)
                    self.answers.put_nowait(pb.PutResponse(item=number, kept=wire.level_message(level)))
                self._free.release()

        task = self._tiers.retain(job())
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        await self._free.acquire()

    def _refuse(self, number: int, key: PartKey, item: pb.PutItem, reason: pb.RefusalReason.ValueType) -> None:
        """Answer an item before its bytes; those that come go nowhere."""
        self._answer_refusal(number, key, reason)
        if item.HasField("inline"):
            self._incoming = _Incoming(number, key, item, None)

    def _answer_refusal(self, number: int, key: PartKey, reason: pb.RefusalReason.ValueType) -> None:
        name = pb.RefusalReason.Name(reason).removeprefix("REFUSAL_REASON_").lower()
        self._puts.metrics.refused(key, name)
        self.answers.put_nowait(pb.PutResponse(item=number, refused=reason))


def _checked(number: int, item: pb.PutItem) -> tuple[PartKey, Level]:
    """Key and least level of an item; InvalidInput naming what is wrong with it."""
    key = wire.key_of(item.key)
    least = wire.level_of(item.level) or Level.ONE
    if not 0 < item.size <= MAX_BYTES[key.kind]:
        raise InvalidInput(f"item {number}, {key}, has 1 to {MAX_BYTES[key.kind]} bytes, got {item.size}")
    if item.WhichOneof("transport") is None:
        raise InvalidInput(f"item {number}, {key}, does not say how its bytes travel")
    if item.HasField("inline") and not 0 < item.inline.piece_bytes <= wire.MAX_PIECE_BYTES:
        raise InvalidInput(
            f"a piece has 1 to {wire.MAX_PIECE_BYTES} bytes, item {number} has {item.inline.piece_bytes}"
        )
    return key, least


def _reason(error: Exception) -> pb.RefusalReason.ValueType:
    return next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))


_REASONS: dict[type[Exception], pb.RefusalReason.ValueType] = {
    Conflict: pb.REFUSAL_REASON_DELETED,
    OverBudget: pb.REFUSAL_REASON_NO_ROOM,
    ChecksumMismatch: pb.REFUSAL_REASON_CORRUPT,
    Unavailable: pb.REFUSAL_REASON_LEVEL_DOWN,
}
