"""What the chunks of a branch say of themselves, from the first bytes of their parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from worldkv.chunk import ChunkKey, Meta
from worldkv.errors import ChunkCorrupt, DeadlineExceeded, Unavailable
from worldkv.format import Frame, decode_meta
from worldkv.store import Miss, PartKey

HEAD_BYTES = 2048
"""First bytes asked for: a header that names thirty recalled chunks, and the poses of three latent frames."""
WHOLE, WAITING = 16, 256
"""Parts read as a whole at a time, where their heads do not say enough, and metas that wait for such, at most."""

Get = Callable[[Collection[PartKey]], Awaitable[dict[PartKey, Frame | Miss]]]


async def metas(
    listed: AsyncIterator[tuple[PartKey, Sequence[bytes]]], get: Get, counters: Counter[str]
) -> AsyncIterator[Meta]:
    """The meta of every part listed, in order; of those that are gone, or damaged wherever they are, none.

    get       reads parts whose heads are too short or damaged
    counters  `metas.head`, `metas.whole` and `metas.damaged` count which way metas came, or did not

    Raises Unavailable, or DeadlineExceeded, if such a part could not be read.
    """
    waiting: dict[PartKey, Meta | None] = {}  # from the first that has to be read as a whole
    whole = 0
    async for key, heads in listed:
        meta = next((found for head in heads if head and (found := _decoded(key.chunk, head))), None)
        counters["metas.head"] += meta is not None
        if meta is not None and not waiting:
            yield meta
            continue
        waiting[key] = meta
        whole += meta is None
        if whole == WHOLE or len(waiting) == WAITING:
            for meta in await _filled(waiting, get, counters):
                yield meta
            waiting, whole = {}, 0
    for meta in await _filled(waiting, get, counters):
        yield meta


async def _filled(waiting: dict[PartKey, Meta | None], get: Get, counters: Counter[str]) -> list[Meta]:
    """These metas, in order, with those that are missing from whole parts."""
    missing = [key for key, meta in waiting.items() if meta is None]
    for key, frame in (await get(missing)).items() if missing else ():
        if frame is Miss.TIER_DOWN:
            raise Unavailable(f"{key} is where nobody answers: a list without it would be taken for the whole")
        if frame is Miss.LATE:
            raise DeadlineExceeded(f"{key} did not come in time: a list without it would be taken for the whole")
        if isinstance(frame, Frame):
            waiting[key] = _decoded(key.chunk, frame)
            counters["metas.whole"] += waiting[key] is not None
        counters["metas.damaged"] += frame is Miss.CORRUPT or (isinstance(frame, Frame) and waiting[key] is None)
    return [meta for meta in waiting.values() if meta is not None]


def _decoded(chunk: ChunkKey, data: bytes | Frame) -> Meta | None:
    """What these bytes say of a chunk; None if they are too few, damaged, or another chunk's."""
    try:
        meta = decode_meta(data)
    except ChunkCorrupt:
        return None
    return meta if meta.key == chunk else None
