"""KV parts a layer at a time: the first layers are used while the others travel.

First the headers of all parts are read, which say where each segment is; then the segments that are wanted, in the
order of their layers, each verified by its own checksum. What does not come that way is had from the whole part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from worldkv.chunk import Segment
from worldkv.client.policy import Deadline
from worldkv.client.shard import Run, Shard
from worldkv.errors import ChunkCorrupt, Truncated, WorldKVError
from worldkv.format import Frame, Header, Row, decode_header, decode_kv, decode_segment, header_bytes
from worldkv.store import Miss, PartKey

HEADER_BYTES = 16 << 10
"""First bytes of a part that are read for its header: enough for some two hundred segments."""
AHEAD = 4
"""Segments of each shard that may have come before they are asked for."""

Whole = Callable[[PartKey], Awaitable[Frame | Miss]]


class Opened(NamedTuple):
    """A part that was found: where, and what it says of itself; None if that is damaged."""

    shard: Shard
    header: Header | None


async def open_parts(
    shard: Shard, keys: Sequence[PartKey], deadline: Deadline, answered: Callable[[PartKey, Opened | Miss], None]
) -> None:
    """Read the headers of parts that a shard may have, and tell each answer as it comes."""
    longer: list[Run] = []

    async def told(run: Run, data: memoryview | Miss | None) -> None:
        header = None
        if isinstance(data, Miss):
            answered(run.key, data)
            return
        if data is not None:
            try:
                header = decode_header(data)
            except Truncated:
                if run.length == HEADER_BYTES == data.nbytes:
                    longer.append(run._replace(length=header_bytes(data)))
                    return
            except ChunkCorrupt:
                pass
        named = header is not None and (header.kind, header.key) == ("kv", run.key.chunk)
        answered(run.key, Opened(shard, header if named else None))

    await shard.read([Run(key, 0, HEADER_BYTES) for key in keys], deadline, told)
    await shard.read(longer, deadline, told)


async def in_layers(
    opened: Mapping[PartKey, Opened],
    which: Callable[[Row], bool],
    deadline: Deadline,
    whole: Whole,
    told: Callable[[PartKey, Header], None] | None = None,
) -> AsyncGenerator[tuple[PartKey, Segment | Miss], None]:
    """The segments of these parts that are wanted, by layer, then in the order of the parts, keys before values; a
    part of which nothing more can be had is told as a miss once.

    whole  reads all of a part, from wherever it is
    told   is given the header of each part before its first segment
    """
    parts = [_Part(key, *each) for key, each in opened.items()]
    for part in parts:
        if part.header is None and (miss := await part.recover(whole)):
            yield part.key, miss
        elif told and part.header is not None:
            told(part.key, part.header)
    wanted = sorted(_places(parts, which))
    lanes = _lanes(parts, wanted, deadline)
    try:
        for place in wanted:
            part = parts[place.turn]
            if part.miss is not None:
                continue
            segment = await _segment(part, place.row, lanes)
            if segment is None and (miss := await part.recover(whole)):
                yield part.key, miss
            else:
                yield part.key, segment or part.segments[place.row[:3]]
    finally:
        for lane in lanes.values():
            await lane.close()


class _Place(NamedTuple):
    """A segment that is wanted, of the part whose `turn` it is. Places sort as they are answered."""

    layer: int
    turn: int
    row: Row


@dataclass
class _Part:
    """A part whose segments are asked for.

    segments  from the whole part, once that was needed
    miss      why there is nothing more of it
    """

    key: PartKey
    shard: Shard
    header: Header | None
    segments: Mapping[tuple[str, int, int], Segment] = field(default_factory=dict)
    miss: Miss | None = None

    async def recover(self, whole: Whole) -> Miss | None:
        """Have the segments from the whole part; answers why there are none.

        EVICTED if there is another part by now than was opened: layers of two do not fit together.
        """
        frame = await whole(self.key)
        if isinstance(frame, Miss):
            self.miss = frame
            return frame
        try:
            header = decode_header(frame)
            _, _, kv = decode_kv(frame, verify=False)
        except ChunkCorrupt:
            self.miss = Miss.CORRUPT
            return self.miss
        if header.key != self.key.chunk:
            self.miss = Miss.CORRUPT
        elif self.header is not None and self.header.rows != header.rows:
            self.miss = Miss.EVICTED
        self.header = header
        self.segments = {(each.kind, each.layer, each.head_group): each for each in kv.segments}
        return self.miss


class _Lane:
    """Segments that one shard sends, in the order in which they are asked for."""

    def __init__(self, shard: Shard, runs: Sequence[Run], deadline: Deadline) -> None:
        self._come: asyncio.Queue[tuple[Run, memoryview | Miss | None] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD)
        self._task = asyncio.create_task(self._read(shard, runs, deadline))
        self._task.add_done_callback(lambda _: self._come.put_nowait(None))

    async def take(self, run: Run) -> memoryview | None:
        """The bytes of a run, None if they do not come; runs before it are passed over."""
        while not (self._task.done() and self._come.empty()):
            come = await self._come.get()
            if come is None:
                self._task.result()
                break
            self._room.release()
            if come[0] == run:
                return come[1] if isinstance(come[1], memoryview) else None
        return None

    async def close(self) -> None:
        """Ask for nothing more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self, shard: Shard, runs: Sequence[Run], deadline: Deadline) -> None:
        with suppress(WorldKVError):  # what does not come is asked for elsewhere
            await shard.read(runs, deadline, self._told)

    async def _told(self, run: Run, data: memoryview | Miss | None) -> None:
        await self._room.acquire()
        self._come.put_nowait((run, data))


def _places(parts: Sequence[_Part], which: Callable[[Row], bool]) -> Iterator[_Place]:
    for turn, part in enumerate(parts):
        if part.header is not None and part.miss is None:
            yield from (_Place(row.layer, turn, row) for row in part.header.rows if which(row))


def _lanes(parts: Sequence[_Part], wanted: Sequence[_Place], deadline: Deadline) -> dict[Shard, _Lane]:
    runs: dict[Shard, list[Run]] = {}
    for place in wanted:
        part = parts[place.turn]
        if place.row.length and not part.segments:
            runs.setdefault(part.shard, []).append(_run(part, place.row))
    return {shard: _Lane(shard, some, deadline) for shard, some in runs.items()}


def _run(part: _Part, row: Row) -> Run:
    return Run(part.key, row.offset, row.length, row.checksum)


async def _segment(part: _Part, row: Row, lanes: Mapping[Shard, _Lane]) -> Segment | None:
    """A segment as it travels; None if it does not come, or is none."""
    if part.segments:
        return part.segments[row[:3]]
    data = await lanes[part.shard].take(_run(part, row)) if row.length else memoryview(b"")
    try:
        return None if data is None else decode_segment(row, data, verify=False)
    except ChunkCorrupt:
        return None
