"""What one shard is asked: nouns in, nouns out, every call under a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import xxhash
from grpc import aio

from worldkv import wire
from worldkv.client.connection import SERVICE, Connection
from worldkv.client.landing import Arrival, Landing
from worldkv.client.membership import Member
from worldkv.client.policy import Deadline, together
from worldkv.client.scanning import Listed, Scanned, scan
from worldkv.client.staging import Filled, Stages
from worldkv.errors import (
    ChecksumMismatch,
    ChunkCorrupt,
    Conflict,
    Outdated,
    OverBudget,
    Unavailable,
    WorldKVError,
)
from worldkv.format import MAX_KV_BYTES, Frame
from worldkv.shared import ArenaReader, checksum
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import kvstore_pb2 as pb

MAX_KEYS = 1024
"""Keys of one request."""
STAGED_BYTES = 1 << 15
"""Bytes from which a frame is put through shared memory; a smaller one is sent as quickly."""
THREAD_BYTES = 1 << 20
"""Bytes from which copying is left to a thread, so that the event loop goes on."""
SUMMED_BYTES = 1 << 18
"""Bytes from which a frame's checksum follows it: to send one more message costs less than to read all bytes first."""

Answered = Callable[[PartKey, Frame | Miss], None]
"""Told of every key as its answer comes."""


class Run(NamedTuple):
    """A run of a part's bytes.

    offset, length  where it begins in the part, and how many bytes it has at most; length 0: all of the part
    checksum        xxh3-64 of these bytes, None: not known. That of all of a part need not be known
    """

    key: PartKey
    offset: int = 0
    length: int = 0
    checksum: int | None = None


Told = Callable[[Run, memoryview | Miss | None], Awaitable[None]]
"""Told what has become of a run: its bytes, read-only, or why there are none; None where other bytes came."""


class NotShared(WorldKVError):
    """The shard does not see this process' shared memory."""


@dataclass(frozen=True)
class ShardStats:
    """What a shard says of itself.

    membership    highest number it has seen; 0: none
    level         highest it reaches now
    used_bytes    of parts held in RAM
    budget_bytes  of parts it may hold there
    parts         held in RAM
    waiting       parts kept at a lower level that wait to be copied up
    shared        whether this client reads its memory directly
    """

    shard: str
    membership: int
    level: Level
    used_bytes: int
    budget_bytes: int
    parts: int
    waiting: int
    shared: bool


class Shard:
    """A shard, for what has to do with parts; `line` is for all else.

    All methods raise Unavailable if it does not answer, DeadlineExceeded if the deadline came first, and what it
    raised.
    """

    def __init__(self, member: Member, line: Connection, landing: Landing, stages: Stages) -> None:
        self.member, self.line, self._landing, self._stages = member, line, landing, stages
        # Pieces cross as raw bytes: the protobuf runtime would copy them twice more.
        self._get: aio.UnaryStreamMultiCallable[pb.GetRequest, bytes]
        self._get = line.channel.unary_stream(f"{SERVICE}/Get", pb.GetRequest.SerializeToString)
        self._put: aio.StreamStreamMultiCallable[bytes, pb.PutResponse]
        self._put = line.channel.stream_stream(f"{SERVICE}/Put", None, pb.PutResponse.FromString)
        self._staging = True

    @property
    def resting(self) -> bool:
        return self.line.resting

    async def get(self, keys: Collection[PartKey], deadline: Deadline, answered: Answered) -> None:
        """Ask for keys, and tell each answer as it comes; what was told before an error stays true."""
        unsure: list[Run] = []

        async def told(run: Run, data: memoryview | Miss | None) -> None:
            if data is None:
                unsure.append(run)
            else:
                answered(run.key, data if isinstance(data, Miss) else Frame((data,)))

        await self.read([*map(Run, keys)], deadline, told)
        if unsure:  # their memory was used again meanwhile, or is damaged: the shard may have them elsewhere
            again, unsure = unsure, []
            await self.read(again, deadline, told, verify=True)
            for run in unsure:
                answered(run.key, Miss.CORRUPT)

    async def read(self, runs: Sequence[Run], deadline: Deadline, told: Told, verify: bool = False) -> None:
        """Read runs of parts' bytes, and tell of each what has become of it, in their order.

        verify  have the shard look at all bytes of their parts, and drop what is damaged, before it sends them
        """
        arena = None if verify else await self.line.arena(deadline)
        for some in _batches(runs):
            await self._read(some, arena, deadline, told, verify)

    async def put(
        self, items: Mapping[PartKey, Frame], level: Level | None, membership: int, deadline: Deadline
    ) -> dict[PartKey, Level | WorldKVError]:
        """Send frames; answers where each is kept, or why it is not.

        level  below which the shard refuses them; None: whatever it has
        """
        shared = await self.line.arena(deadline) is not None and self._staging
        outcomes = await self._send(items, shared, level, membership, deadline)
        unshared = {key: items[key] for key, outcome in outcomes.items() if isinstance(outcome, NotShared)}
        if unshared:
            self._staging = False
            outcomes |= await self._send(unshared, False, level, membership, deadline)
        return outcomes

    async def delete(self, keys: Collection[PartKey], membership: int, deadline: Deadline) -> int:
        """Drop keys; answers how many frames went. Without keys: let the shard know of a membership."""
        dropped = 0
        for some in _batches(keys) if keys else ((),):
            request = pb.DeleteRequest(keys=map(wire.key_message, some), membership=membership)
            async with self.line.calling("delete", deadline) as watch:
                answer = await self.line.stub.Delete(request, **watch.limits)
            dropped += answer.dropped
        return dropped

    def scan(self, wanted: Scanned, patience: Callable[[], Deadline]) -> AsyncGenerator[Listed, None]:
        """What is held of a branch, in order; `patience` gives the deadline of each call that this takes."""
        return scan(self.line, wanted, patience)

    async def stats(self, deadline: Deadline) -> ShardStats:
        """What the shard says of itself."""
        arena, told = await self.line.arena(deadline), await self.line.told(deadline)
        return ShardStats(
            told.shard or self.member.name,
            told.membership,
            wire.level_of(told.level) or Level.ONE,
            told.used_bytes,
            told.budget_bytes,
            told.parts,
            told.waiting,
            arena is not None,
        )

    async def deleted(self, keys: Collection[PartKey], deadline: Deadline) -> list[PartKey]:
        """Those of these keys whose chunks were deleted. Bytes of what is held are not waited for."""
        gone: list[PartKey] = []
        left = list(keys)
        while left:
            asked, known = left[:MAX_KEYS], set[int]()
            request = self._request([*map(Run, asked)], self.line.known_arena)
            async with self.line.calling("get", deadline) as watch:
                call = self._get(request, **watch.limits)
                try:
                    async for raw in call:
                        answer = wire.get_response(raw)
                        known.add(answer.item)
                        if isinstance(answer, pb.Miss) and wire.miss_of(answer.reason) is Miss.DELETED:
                            gone.append(asked[answer.item])
                        if isinstance(answer, pb.Plan) and answer.HasField("inline"):
                            break  # held, and its bytes would follow
                finally:
                    call.cancel()
            if not known:
                raise Unavailable(f"shard {self.member.name} gave no answer about {asked[0]}")
            left = [key for n, key in enumerate(left) if n not in known]
        return gone

    def _request(self, runs: Sequence[Run], arena: ArenaReader | None, verify: bool = False) -> pb.GetRequest:
        proofs = [pb.ArenaProof(arena=arena.id, nonce=arena.nonce)] if arena else []
        whole = not any(run.length for run in runs)
        return pb.GetRequest(
            keys=(wire.key_message(run.key) for run in runs),
            slices=() if whole else (pb.Slice(offset=run.offset, length=run.length) for run in runs),
            arenas=proofs,
            piece_bytes=self.line.config.piece_bytes,
            verify=verify,
        )

    async def _read(
        self, runs: Sequence[Run], arena: ArenaReader | None, deadline: Deadline, told: Told, verify: bool
    ) -> None:
        """One call."""
        streamed: Arrival | None = None
        async with self.line.calling("get", deadline) as watch:
            call = self._get(self._request(runs, arena, verify), **watch.limits)
            try:
                async for raw in call:
                    watch.alive()
                    answer = wire.get_response(raw)
                    run = runs[answer.item]
                    data: memoryview | Miss | None = None
                    if isinstance(answer, wire.Piece):
                        if streamed is None:
                            raise ChunkCorrupt(f"shard {self.member.name} sent bytes that it had not announced")
                        streamed.add(answer.offset, answer.data)
                    elif isinstance(answer, pb.Miss):
                        data, streamed = wire.miss_of(answer.reason), None
                    elif arena is not None and answer.HasField("shared"):
                        with watch.busy():
                            data = await self._copied(run, answer, arena)
                    else:
                        streamed = self._arrival(run, answer)
                        if arena is not None:
                            self.line.look_again(arena)
                    if streamed is not None:
                        if not streamed.complete:
                            continue
                        data, streamed = self._landed(run, streamed), None
                    with watch.busy():
                        await told(run, data)
            finally:
                call.cancel()

    def _arrival(self, run: Run, plan: pb.Plan) -> Arrival:
        """Where the bytes of a plan land."""
        if not 0 < plan.size <= MAX_KV_BYTES:
            raise ChunkCorrupt(f"shard {self.member.name} announced {plan.size} bytes; at most {MAX_KV_BYTES} can be")
        if not run.length:
            return Arrival(self._landing.take(plan.size), plan.checksum)
        return Arrival(self._landing.take(max(min(run.length, plan.size - run.offset), 0)), run.checksum)

    async def _copied(self, run: Run, plan: pb.Plan, arena: ArenaReader) -> memoryview | None:
        """What a plan says, copied out of the shard's memory; None if other bytes are there by now."""
        arrival, extents = self._arrival(run, plan), wire.extents_of(plan.shared.extents)
        view, checksum = arrival.view, arrival.checksum
        if view.nbytes < THREAD_BYTES:
            miss = arena.copy(extents, [view], checksum)
        else:
            miss = await asyncio.to_thread(arena.copy, extents, [view], checksum)
        return self._counted(run, view, "shared", miss)

    def _landed(self, run: Run, arrival: Arrival) -> memoryview | None:
        """What has come in pieces; None if these are not the bytes that were put."""
        return self._counted(run, arrival.view, "streamed", None if arrival.correct else Miss.CORRUPT)

    def _counted(self, run: Run, view: memoryview, way: str, miss: Miss | None) -> memoryview | None:
        name, counters = f"{'slice' if run.length else 'get'}.{way}", self.line.counters
        if miss is not None:
            counters[f"{name}.{miss.value}"] += 1
            return None
        counters[name] += 1
        counters[f"{name}.bytes"] += view.nbytes
        return view.toreadonly()

    async def _send(
        self, items: Mapping[PartKey, Frame], shared: bool, level: Level | None, membership: int, deadline: Deadline
    ) -> dict[PartKey, Level | WorldKVError]:
        """One call. Each item is sent when it is in shared memory, whose room is given back when it is answered."""
        loop = asyncio.get_running_loop()
        answers: dict[PartKey, asyncio.Future[Level | WorldKVError]] = {key: loop.create_future() for key in items}
        order: list[PartKey] = []  # items are numbered as they are sent
        stream = asyncio.Lock()
        async with self.line.calling("put", deadline) as watch:
            call = self._put(**watch.limits)

            async def send(key: PartKey, frame: Frame) -> None:
                filled: Filled | None = None
                async with AsyncExitStack() as stack:
                    if shared and frame.nbytes >= STAGED_BYTES:
                        filled = await stack.enter_async_context(self._stages.filled(frame, watch.busy))
                    item = _announced(key, frame, filled, self.line.config.piece_bytes)
                    item.membership, item.level = membership, wire.level_message(level)
                    async with stream:
                        order.append(key)
                        await call.write(pb.PutRequest(item=item).SerializeToString())
                        if filled is None:
                            digest = xxhash.xxh3_64()  # of what is in the cache, as it is copied into its message
                            piece_bytes = self.line.config.piece_bytes
                            for piece in wire.pieces(len(order) - 1, frame.buffers, piece_bytes, digest.update):
                                await call.write(piece)
                                watch.alive()
                            if item.inline.checksum_follows:
                                await call.write(pb.PutRequest(checksum=digest.intdigest()).SerializeToString())
                    outcome = await answers[key]
                if isinstance(outcome, Level):
                    way = "streamed" if filled is None else "shared"
                    self.line.counters[f"put.{way}"] += 1
                    self.line.counters[f"put.{way}.bytes"] += frame.nbytes

            async def send_all() -> None:
                try:
                    await together(send(key, frame) for key, frame in items.items())
                    await call.done_writing()
                except asyncio.InvalidStateError:  # the call is over: `receive` knows why
                    pass

            async def receive() -> None:
                async for answer in call:
                    watch.alive()
                    key = order[answer.item]
                    answers[key].set_result(_outcome(key, answer))
                left = [str(key) for key, each in answers.items() if not each.done()]
                if left:
                    raise Unavailable(f"shard {self.member.name} did not say whether it keeps {', '.join(left)}")

            try:
                await together([send_all(), receive()])
            finally:
                call.cancel()
        return {key: answer.result() for key, answer in answers.items()}


def _announced(key: PartKey, frame: Frame, filled: Filled | None, piece_bytes: int) -> pb.PutItem:
    """The message that announces a frame, in shared memory or as a stream of pieces."""
    item = pb.PutItem(key=wire.key_message(key), size=frame.nbytes)
    if filled is not None:
        item.checksum = filled.checksum
        extents = wire.extent_messages(filled.staged.extents)
        staged = pb.StagedExtents(name=filled.staging.name, nonce=filled.staging.nonce, extents=extents)
        item.staged.CopyFrom(staged)
        return item
    item.inline.piece_bytes = piece_bytes
    if frame.nbytes < SUMMED_BYTES:
        item.checksum = checksum(frame.buffers)
    else:
        item.inline.checksum_follows = True
    return item


def _outcome(key: PartKey, answer: pb.PutResponse) -> Level | WorldKVError:
    if answer.HasField("kept"):
        return wire.level_of(answer.kept) or Level.ONE
    kind, words = _REFUSALS.get(answer.refused, (Unavailable, "was refused without a reason"))
    return kind(f"{key} {words}")


_REFUSALS: dict[int, tuple[type[WorldKVError], str]] = {
    pb.REFUSAL_REASON_NO_ROOM: (OverBudget, "has no room"),
    pb.REFUSAL_REASON_DELETED: (Conflict, "was deleted, and what was deleted stays deleted"),
    pb.REFUSAL_REASON_CORRUPT: (ChecksumMismatch, "did not arrive as it was sent"),
    pb.REFUSAL_REASON_LEVEL_DOWN: (Unavailable, "cannot be kept at the level asked for"),
    pb.REFUSAL_REASON_NOT_SHARED: (NotShared, "is in memory that the shard does not see"),
    pb.REFUSAL_REASON_MEMBERSHIP: (Outdated, "was routed by an older membership"),
}


K = TypeVar("K", PartKey, Run)


def _batches(wanted: Iterable[K]) -> Iterator[list[K]]:
    rest = iter(wanted)
    while batch := list(islice(rest, MAX_KEYS)):
        yield batch
