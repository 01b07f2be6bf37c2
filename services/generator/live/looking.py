"""Chunks of a world seen again: made from their latents, one after the other, and never in the way of who walks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter, thread_time

from torch import Tensor
from torch.nn.functional import interpolate

from services.generator.drawing import decode_again
from services.generator.live.making import Maker
from services.generator.live.pictures import encoded
from services.generator.live.resident import Resident
from services.generator.world_model import State, WorldModel
from worldkv import wire
from worldkv.chunk import ChunkKey, Lineage, Part
from worldkv.errors import ChunkCorrupt, Unavailable
from worldkv.format import Frame, decode_part
from worldkv.store import Miss, PartKey, Store
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import pose_messages
from worldkv.worlds import runs

FETCHED = 8
"""Chunks whose immutable parts are at hand at a time."""
SCANNED = 256
"""Chunks of which it is asked at once whether their keys and values are kept."""
LEAST_SECONDS = 0.002
"""That a chunk counts as taking: it has to be fetched and sent too."""
UNKNOWN = (Miss.LATE, Miss.TIER_DOWN)
"""Misses that say nothing of whether there is such a chunk."""


@dataclass(frozen=True)
class Look:
    """What is to be seen; see `LookRequest`.

    at, count  chunks of the world's lineage; a count of 0: all up to the last kept one
    height     to which pictures are scaled down, pixels; 0: as drawn
    pictures   of each chunk; 0: none
    """

    at: int
    count: int
    height: int
    pictures: int


class Looker:
    """Lets people see again what a generator's sessions have seen.

    share  of a generator's time that all looks together take at most while chunks are drawn
    busy   says whether chunks are drawn just now

    One chunk is made again at a time; then nobody makes any for as long as the share says.
    """

    def __init__(self, maker: Maker, share: float, busy: Callable[[], bool]) -> None:
        self.maker, self.share, self.busy = maker, share, busy
        self._turn = asyncio.Lock()

    async def look(self, resident: Resident, look: Look) -> AsyncGenerator[pb.LookResponse, None]:
        """The kept chunks of a session's world, in order. Raises Unavailable if its store does not answer at all."""
        lineage, store = resident.world.lineage, self.maker.tier(resident.tenant).store
        end = min(resident.kept.end, look.at + look.count) if look.count else resident.kept.end
        film, held = _Film(self.maker.model), None
        if look.pictures and look.at < end and look.at:  # what a chunk looks like may depend on the one before it
            for part in (await _parts(store, [lineage.key(look.at - 1)])).values():
                await self._pictures(film, part, look)
        for begin in range(look.at, end, FETCHED):
            keys = [lineage.key(n) for n in range(begin, min(begin + FETCHED, end))]
            if (begin - look.at) % SCANNED == 0:
                held = await _held(store, lineage, begin, min(begin + SCANNED, end))
            for key, part in (await _parts(store, keys)).items():
                memory = resident.memory
                kept = None if held is None else key in held or (memory is not None and memory.queued(key))
                yield pb.LookResponse(
                    key=wire.chunk_message(key),
                    poses=pose_messages(part.meta.poses) if isinstance(part, Part) else (),
                    state=_state(part, kept),
                    pictures=await self._pictures(film, part, look),
                    pictures_per_second=self.maker.config.live.pictures_per_second,
                )

    async def _pictures(self, film: _Film, part: Part | Miss, look: Look) -> Sequence[pb.Picture]:
        """The pictures of a chunk, if any are wanted and it is there."""
        if not look.pictures or not isinstance(part, Part):
            return ()
        async with self._turn:
            decoded, seconds = await self.maker.engine.run(partial(film.show, part))
            coded, more = await asyncio.to_thread(_coded, decoded, look, self.maker.config.live.jpeg_quality)
            if self.busy():
                await asyncio.sleep(max(seconds + more, LEAST_SECONDS) * (1 / self.share - 1))
        return coded


class _Film:
    """Makes pictures of one world's chunks again, each as it follows on the one before."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self._state: State | None = None
        self._following = 0

    def show(self, part: Part) -> tuple[Tensor, float]:
        """Pictures [pictures, 3, height, width] float32 in 0..1, and the seconds that took."""
        began, index = perf_counter(), part.meta.key.index
        if self._state is None or index != self._following:
            self._state = self.model.start(begin=part.meta.begin)
        self._following = index + 1
        return decode_again(self.model, self._state, part), perf_counter() - began


def _coded(pictures: Tensor, look: Look, quality: int) -> tuple[list[pb.Picture], float]:
    """Some of a chunk's pictures, evenly spread, as they travel; and the seconds that took of a processor."""
    began, count = thread_time(), min(look.pictures, len(pictures))
    chosen = pictures[[n * len(pictures) // count for n in range(count)]]
    height, width = chosen.shape[-2:]
    if 0 < look.height < height:
        chosen = interpolate(chosen, (look.height, max(1, round(width * look.height / height))), mode="area")
    return encoded(chosen, "jpeg", quality), thread_time() - began


async def _parts(store: Store, keys: Sequence[ChunkKey]) -> dict[ChunkKey, Part | Miss]:
    """The immutable parts of chunks, or why they cannot be had."""
    found = await store.get([PartKey(key, "part") for key in keys])
    return await asyncio.to_thread(lambda: {key.chunk: _read(frame) for key, frame in found.items()})


def _read(frame: Frame | Miss) -> Part | Miss:
    try:
        return decode_part(frame) if isinstance(frame, Frame) else frame
    except ChunkCorrupt:
        return Miss.CORRUPT


async def _held(store: Store, lineage: Lineage, begin: int, end: int) -> Collection[ChunkKey] | None:
    """Of these chunks of a world, those whose keys and values are kept; None: that is not known just now."""
    found = set[ChunkKey]()
    try:
        for branch, first, last in runs(lineage, begin, end):
            async for key in store.scan(branch, first, last, kind="kv"):
                found.add(key.chunk)
    except Unavailable:
        return None
    return found


def _state(part: Part | Miss, kept: bool | None) -> pb.ChunkState.ValueType:
    if isinstance(part, Miss):
        return pb.CHUNK_STATE_UNSPECIFIED if part in UNKNOWN else pb.CHUNK_STATE_MISSING
    if kept is None:
        return pb.CHUNK_STATE_UNSPECIFIED
    return pb.CHUNK_STATE_KEPT if kept else pb.CHUNK_STATE_DEMOTED
