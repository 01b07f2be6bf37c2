"""Answers to `Get`: what is found, in the order asked for, as plans of shared memory or as pieces."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from hmac import compare_digest
from typing import NamedTuple

from services.kvstore.config import ServingConfig
from services.kvstore.held import Held
from services.kvstore.metrics import Metrics
from services.kvstore.tiered import Found, Passing, Tiered
from worldkv import wire
from worldkv.errors import InvalidInput, NotFound
from worldkv.shared import checksum, cut
from worldkv.store import Miss, PartKey
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb

MAX_KEYS = 1024
"""Keys of one request."""
LEAST_PIECE_BYTES = 1 << 10
"""Bytes of a piece, at least, if a reader asks for small ones."""
_TRIES = 3
"""How often a part is looked for that makes room whenever it was found."""


class Wanted(NamedTuple):
    """What a request asks for.

    keys         in order; one may stand several times, with different slices
    slices       offset and length in bytes of what is wanted of each key; length 0: to the end
    piece_bytes  of inline pieces
    shared       whether the reader sees our arena
    verify       whether bytes are looked at before they are sent
    """

    keys: list[PartKey]
    slices: list[tuple[int, int]]
    piece_bytes: int
    shared: bool
    verify: bool


class Gets:
    """Reads from the tiers for callers elsewhere."""

    def __init__(self, tiers: Tiered, metrics: Metrics, config: ServingConfig) -> None:
        self._tiers, self._metrics, self._config = tiers, metrics, config

    def wanted(self, request: pb.GetRequest) -> Wanted:
        """A request, checked; InvalidInput naming the value that is wrong."""
        keys = checked_keys(request.keys, apart=not request.slices)
        slices = [(each.offset, each.length) for each in request.slices] or [(0, 0)] * len(keys)
        if len(slices) != len(keys):
            raise InvalidInput(f"a get has one slice for each of its {len(keys)} keys or none, got {len(slices)}")
        size = request.piece_bytes or wire.PIECE_BYTES
        if size < LEAST_PIECE_BYTES:
            raise InvalidInput(f"a piece has at least {LEAST_PIECE_BYTES} bytes, asked for {size}")
        arena = self._tiers.ram.arena
        shared = any(each.arena == arena.id and compare_digest(each.nonce, arena.nonce) for each in request.arenas)
        return Wanted(keys, slices, min(size, wire.MAX_PIECE_BYTES), shared, request.verify)

    async def serve(self, tenant: str, wanted: Wanted, seconds: float) -> AsyncGenerator[bytes, None]:
        """The messages of the answer, each key's within `seconds`, or a miss that says LATE."""
        loop = asyncio.get_running_loop()
        late = loop.time() + seconds - min(self._config.late_seconds, seconds / 4)
        ahead = _Ahead(self._tiers, tenant, wanted.keys, self._config.read_ahead)
        try:
            for item, key in enumerate(wanted.keys):
                for _ in range(_TRIES):
                    found = await self._find(ahead, key, wanted.verify, late)
                    if isinstance(found, Miss):
                        yield self._missed(item, key, found)
                        break
                    if wanted.shared and (plan := self._shared(item, found, wanted)):
                        self._metrics.hit(key, found.level)
                        yield plan
                        break
                    try:
                        with found.part.pin():
                            self._metrics.hit(key, found.level)
                            for frame in self._inline(item, found, wanted):
                                if loop.time() > late:
                                    break
                                yield frame
                            else:
                                break
                        yield self._missed(item, key, Miss.LATE)
                        break
                    except NotFound:  # it made room since it was found
                        continue
                else:
                    yield self._missed(item, key, Miss.TIER_DOWN if self._tiers.lower else Miss.EVICTED)
        finally:
            ahead.close()

    async def _find(self, ahead: _Ahead, key: PartKey, verify: bool, late: float) -> Found | Miss:
        if asyncio.get_running_loop().time() >= late:
            return Miss.LATE
        try:
            async with asyncio.timeout_at(late):
                found = await ahead.find(key)
                if verify and not isinstance(found, Miss) and not await self._sound(ahead.tenant, key, found):
                    found = await ahead.find(key)  # from Redis, if it has it
                return found
        except TimeoutError:
            return Miss.LATE

    async def _sound(self, tenant: str, key: PartKey, found: Found) -> bool:
        """Whether a part's bytes are what was written; it is dropped if not."""
        part = found.part
        if isinstance(part, Passing):
            return True
        try:
            with part.pin():
                sound = await asyncio.to_thread(checksum, part.views) == part.checksum
        except NotFound:
            return False
        here = self._tiers.ram.find(tenant, key)
        if not sound and isinstance(here, Held) and here is part:
            self._metrics.damaged()
            self._tiers.ram.mark_corrupt(tenant, key)
        return sound

    def _inline(self, item: int, found: Found, wanted: Wanted) -> Generator[bytes, None, None]:
        """A plan and its pieces."""
        begin, length = _run(found, wanted.slices[item])
        plan = _plan(item, found)
        plan.inline.piece_bytes = wanted.piece_bytes
        yield pb.GetResponse(plan=plan).SerializeToString()
        self._metrics.sent("inline", length)
        yield from wire.pieces(item, _cut_views(found.part.views, begin, length), wanted.piece_bytes)

    def _shared(self, item: int, found: Found, wanted: Wanted) -> bytes | None:
        """A plan of shared memory; None if the part is not in the arena, or nothing of it is wanted."""
        begin, length = _run(found, wanted.slices[item])
        if not length or not found.part.extents:
            return None
        plan = _plan(item, found)
        plan.shared.arena = self._tiers.ram.arena.id
        plan.shared.extents.extend(wire.extent_messages(cut(found.part.extents, begin, length)))
        self._metrics.sent("shared", length)
        return pb.GetResponse(plan=plan).SerializeToString()

    def _missed(self, item: int, key: PartKey, miss: Miss) -> bytes:
        self._metrics.miss(key, miss)
        return pb.GetResponse(miss=pb.Miss(item=item, reason=wire.miss_message(miss))).SerializeToString()


class _Ahead:
    """Looks for keys in Redis while earlier ones are sent."""

    def __init__(self, tiers: Tiered, tenant: str, keys: list[PartKey], most: int) -> None:
        self.tenant, self._tiers, self._most = tenant, tiers, most
        self._left = Counter(keys)  # how often each is still asked for
        self._coming = iter(list(self._left))
        self._under_way: dict[PartKey, asyncio.Task[Found | Miss]] = {}
        self._passing: dict[PartKey, Found] = {}  # what RAM has no room for, as long as more of it is wanted

    async def find(self, key: PartKey) -> Found | Miss:
        self._left[key] -= 1
        while self._tiers.lower and len(self._under_way) < self._most and (after := next(self._coming, None)):
            if after != key and isinstance(self._tiers.here(self.tenant, after), Miss):
                self._under_way[after] = asyncio.create_task(self._tiers.find(self.tenant, after))
        found: Found | Miss
        if key in self._passing:
            found = self._passing.pop(key)
        elif task := self._under_way.pop(key, None):
            try:
                found = await task
            finally:
                task.cancel()
        else:
            found = await self._tiers.find(self.tenant, key)
        if isinstance(found, Found) and isinstance(found.part, Passing) and self._left[key] > 0:
            self._passing[key] = found
        return found

    def close(self) -> None:
        """Nobody waits any more; what is being read into RAM goes on."""
        for task in self._under_way.values():
            task.cancel()


def checked_keys(messages: Sequence[chunk_pb2.PartKey], apart: bool = True) -> list[PartKey]:
    """The keys of a request; InvalidInput for too many, an odd key, or, if they must be `apart`, a key twice."""
    if len(messages) > MAX_KEYS:
        raise InvalidInput(f"a request names at most {MAX_KEYS} keys, got {len(messages)}")
    keys = [wire.key_of(each) for each in messages]
    if apart and len(set(keys)) < len(keys):
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise InvalidInput(f"a request names no key twice, but {twice}")
    return keys


def _plan(item: int, found: Found) -> pb.Plan:
    part, level = found
    return pb.Plan(item=item, size=part.size, checksum=part.checksum, level=wire.level_message(level))


def _run(found: Found, wanted: tuple[int, int]) -> tuple[int, int]:
    """Begin and length of a slice within the part that was found."""
    begin = min(wanted[0], found.part.size)
    left = found.part.size - begin
    return begin, min(wanted[1] or left, left)


def _cut_views(views: Sequence[memoryview], begin: int, length: int) -> list[memoryview]:
    found, at, end = [], 0, begin + length
    for view in views:
        if at < end and begin < at + view.nbytes:
            found.append(view[max(begin - at, 0) : end - at])
        at += view.nbytes
    return found
