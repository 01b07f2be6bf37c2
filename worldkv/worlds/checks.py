"""Reading every checksum of a world."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from worldkv.catalog import World
from worldkv.chunk import ChunkKey
from worldkv.errors import BadHeader, ChunkCorrupt
from worldkv.format import Frame, decode_kv, decode_part
from worldkv.store import Miss, PartKey, Store
from worldkv.worlds.lineages import length


@dataclass
class Verdict:
    """What was found of a world.

    chunks    of the world
    parts, kv frames of either kind that are what was written
    nbytes    bytes of these frames
    without   chunks whose KV nobody has, by reason; it can be made again from the latents
    bad       what is gone or damaged and should not be, and in which way
    """

    chunks: int = 0
    parts: int = 0
    kv: int = 0
    nbytes: int = 0
    without: Counter[str] = field(default_factory=Counter)
    bad: dict[PartKey, str] = field(default_factory=dict)


async def verify(store: Store, world: World, seen: set[ChunkKey] | None = None) -> Verdict:
    """Read all of a world's chunks and every checksum in them; damage is told, not raised.

    seen  chunks that were looked at before, which are counted but not read again; those of this world are added
    """
    end = max(world.chunks, await length(store, world.lineage))
    verdict, seen = Verdict(end), set() if seen is None else seen
    for index in range(end):
        chunk = world.lineage.key(index)
        if chunk in seen:
            continue
        seen.add(chunk)
        for key in (PartKey(chunk, "part"), PartKey(chunk, "kv")):
            found = (await store.get([key]))[key]
            if isinstance(found, Frame):
                await _look(key, found, world.spec, verdict)
            elif key.kind == "kv" and found in (Miss.NEVER_STORED, Miss.EVICTED):
                verdict.without[found.value] += 1
            else:
                verdict.bad[key] = found.value
    return verdict


async def _look(key: PartKey, frame: Frame, spec: str, verdict: Verdict) -> None:
    try:
        await asyncio.to_thread(_check, key, frame, spec)
    except ChunkCorrupt as error:
        verdict.bad[key] = str(error)
        return
    verdict.parts += key.kind == "part"
    verdict.kv += key.kind == "kv"
    verdict.nbytes += frame.nbytes


def _check(key: PartKey, frame: Frame, spec: str) -> None:
    if key.kind == "part":
        meta = decode_part(frame).meta
        name, made_by = meta.key, meta.spec
    else:
        name, made_by, _ = decode_kv(frame)
    if name != key.chunk:
        raise BadHeader(f"it says it is of {name}")
    if spec and made_by != spec:
        raise BadHeader(f"it is of spec {made_by}, but its world of {spec}")
