"""A session's window from what its world keeps: for sessions whose generator died, for rewinds and for other modes.

A world's first chunk is stored as it was. Of sink and recent chunks keys and values are made again from their latents,
behind the sink and the chunk before: a function of the chunk alone where the clean pass is, else close to what they
were. What modes without recall hold beyond these comes as it is stored, as far as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from services.generator.drawing import encode_again
from services.generator.modes import SessionConfig, stays
from services.generator.session import HeldChunk
from services.generator.world_model import WorldModel
from worldkv.chunk import ChunkKey, KVPart, Lineage, Part
from worldkv.codec import Codec
from worldkv.coding import KV, decode_kv
from worldkv.errors import ChunkCorrupt, NotFound, Unavailable
from worldkv.format import Frame
from worldkv.format import decode_kv as read_kv
from worldkv.format import decode_part as read_part
from worldkv.store import Miss, PartKey, Store
from worldkv.window import Entry

Run = Callable[[Callable[[], KV]], Awaitable[KV]]
"""Has something done where the model runs."""


@dataclass(frozen=True)
class Rebuilder:
    """Makes the chunks of one world's windows again.

    fitted  codecs made for the model, by name
    """

    model: WorldModel
    run: Run
    config: SessionConfig
    fitted: Mapping[str, Codec]
    store: Store
    lineage: Lineage

    async def held(self, following: int, known: Mapping[int, HeldChunk]) -> tuple[HeldChunk, ...]:
        """The chunks that a window holds uncoded before chunk `following` is drawn.

        known  those that are at hand

        Raises NotFound for a chunk that is gone, ChunkCorrupt, Unavailable.
        """
        frames, held = self.model.spec.frames, dict[int, HeldChunk]()
        close = stays(replace(self.config, mode="worldkv"), frames, range(following))
        for index in sorted(stays(self.config, frames, range(following))):
            if index in known:
                held[index] = known[index]
            elif index in close or (kept := await self._as_stored(index)) is None:
                held[index] = await self._again(index, held)
            else:
                held[index] = kept
        return tuple(held.values())

    async def part(self, index: int) -> Part:
        """The immutable part of a chunk."""
        key = PartKey(self.lineage.key(index), "part")
        return read_part(_found(key, (await self.store.get([key]))[key]))

    async def _as_stored(self, index: int) -> HeldChunk | None:
        """A chunk as the store has it; None if its keys and values cannot be had."""
        kv = await self._stored(index)
        if kv is None:
            return None
        poses = (await self.part(index)).meta.poses
        return HeldChunk(index, poses, await asyncio.to_thread(self._decoded, kv))

    async def _again(self, index: int, held: Mapping[int, HeldChunk]) -> HeldChunk:
        part = await self.part(index)
        if index == 0 and (kept := await self._stored(0)) is not None and _as_it_was(kept):
            return HeldChunk(index, part.meta.poses, await asyncio.to_thread(self._decoded, kept))
        before = [self._entry(each.index, each.kv) for each in held.values()]
        if index - 1 not in held and index and self.config.context == "window":
            kept = await self._stored(index - 1)
            before += [self._entry(index - 1, await asyncio.to_thread(self._decoded, kept))] if kept else []
        placement, context = self.config.window.placement, self.config.context
        kv = await self.run(lambda: encode_again(self.model, part, before, placement, context))
        return HeldChunk(index, part.meta.poses, kv)

    async def _stored(self, index: int) -> KVPart | None:
        """A chunk's keys and values as they are stored; None if they cannot be had."""
        key = PartKey(self.lineage.key(index), "kv")
        frame = (await self.store.get([key]))[key]
        if isinstance(frame, Miss):
            return None
        chunk, spec, kv = read_kv(frame)
        self.model.spec.require(spec)
        return kv if chunk == key.chunk else None

    def _decoded(self, kv: KVPart) -> KV:
        return decode_kv(kv, self.model.spec, self.fitted)

    def _entry(self, index: int, kv: KV) -> Entry:
        key, frames = ChunkKey(self.lineage.head, index), self.model.spec.frames
        return Entry((key, "before"), index * frames, frames, kv)


def _as_it_was(kv: KVPart) -> bool:
    """Whether nothing was lost when it was stored."""
    return not kv.reencoded and all(segment.codec == "raw" for segment in kv.segments)


def _found(key: PartKey, frame: Frame | Miss) -> Frame:
    if isinstance(frame, Frame):
        return frame
    if frame in (Miss.LATE, Miss.TIER_DOWN):
        raise Unavailable(f"{key} cannot be had now: {frame.value}")
    if frame is Miss.CORRUPT:
        raise ChunkCorrupt(f"{key} is damaged wherever it is")
    raise NotFound(f"{key} is gone: {frame.value}")
