"""What the chunks of a branch say of themselves, from the first bytes of their parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from itertools import groupby

import numpy as np

from worldkv.chunk import ChunkKey
from worldkv.errors import ChunkCorrupt, DeadlineExceeded, InvalidInput, Unavailable
from worldkv.format import About, Frame, decode_about
from worldkv.index import Batch
from worldkv.store import Miss, PartKey

HEAD_BYTES = 2048
"""First bytes asked for: a header that names thirty recalled chunks, and the poses of three latent frames."""
WHOLE, TOGETHER = 16, 128
"""Parts read as a whole at a time, where their heads do not say enough, and chunks that come together, at most."""

Get = Callable[[Collection[PartKey]], Awaitable[dict[PartKey, Frame | Miss]]]


async def batches(
    listed: AsyncIterator[tuple[PartKey, Sequence[bytes]]], get: Get, counters: Counter[str]
) -> AsyncIterator[Batch]:
    """The chunks of all parts listed, in order, without those that are gone, or damaged wherever they are.

    get       reads parts whose heads are too short or damaged
    counters  `metas.head`, `metas.whole` and `metas.damaged` count which way chunks came to be known, or did not

    Raises Unavailable, or DeadlineExceeded, if such a part could not be read.
    """
    group: dict[PartKey, About | None] = {}
    whole = 0
    async for key, heads in listed:
        group[key] = next((found for head in heads if head and (found := _decoded(key.chunk, head))), None)
        whole += group[key] is None
        if whole == WHOLE or len(group) == TOGETHER:
            for batch in await _checked(group, get, counters):
                yield batch
            group, whole = {}, 0
    for batch in await _checked(group, get, counters):
        yield batch


async def _checked(group: dict[PartKey, About | None], get: Get, counters: Counter[str]) -> list[Batch]:
    """These chunks, in order; what is missing comes from whole parts."""
    missing = [key for key, about in group.items() if about is None]
    counters["metas.head"] += len(group) - len(missing)
    for key, frame in (await get(missing)).items() if missing else ():
        if frame is Miss.TIER_DOWN:
            raise Unavailable(f"{key} is where nobody answers: a list without it would be taken for the whole")
        if frame is Miss.LATE:
            raise DeadlineExceeded(f"{key} did not come in time: a list without it would be taken for the whole")
        if isinstance(frame, Frame):
            group[key] = _decoded(key.chunk, frame)
            counters["metas.whole"] += group[key] is not None
        counters["metas.damaged"] += frame is Miss.CORRUPT or (isinstance(frame, Frame) and group[key] is None)
    known = [about for about in group.values() if about is not None]
    found = [batch for _, alike in groupby(known, _shapes) for batch in _sound([*alike])]
    counters["metas.damaged"] += len(known) - sum(map(len, found))
    return found


def _sound(chunks: Sequence[About]) -> Iterator[Batch]:
    """These chunks, of arrays of the same shapes, without those that hold what a chunk must not."""
    headers, arrays = [each.header for each in chunks], [each.arrays for each in chunks]
    stacked = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
    columns = {name: np.array([header.fields[name] for header in headers]) for name in ("begin", "fov", "aspect")}
    try:
        yield Batch([each.key for each in headers], [each.spec for each in headers], **columns, **stacked)
    except InvalidInput:
        middle = len(chunks) // 2
        for half in (chunks[:middle], chunks[middle:]) if middle else ():
            yield from _sound(half)


def _shapes(about: About) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, array.shape) for name, array in about.arrays.items()]


def _decoded(chunk: ChunkKey, data: bytes | Frame) -> About | None:
    """What these bytes say of a chunk; None if they are too few, damaged, or another chunk's."""
    try:
        about = decode_about(data)
    except ChunkCorrupt:
        return None
    return about if about.header.key == chunk else None
