"""How a chunk's keys and values come from a store: in one call, or layer by layer.

Either way they are decoded in a worker thread, so that the event loop goes on, and the entry is the same bit for bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from time import perf_counter
from typing import NamedTuple, Protocol, runtime_checkable

from worldkv.chunk import ChunkKey, Segment
from worldkv.coding import coded_bytes
from worldkv.errors import ChunkCorrupt, DeadlineExceeded, Unavailable
from worldkv.format import Frame, Header
from worldkv.format import decode_kv as read_kv
from worldkv.memory.coder import Coder
from worldkv.memory.layers import LayerCodecs, Layers
from worldkv.store import Miss, PartKey, Store
from worldkv.window import Entry


class Fetched(NamedTuple):
    """A chunk that came.

    nbytes  coded bytes of its keys and values
    came    when the last of them was here, by `perf_counter`; what follows is decoding
    """

    entry: Entry
    nbytes: int
    came: float


class Source(Protocol):
    """Where chunks come from."""

    async def fetch(self, key: ChunkKey) -> Fetched | Miss:
        """A chunk, or why there is none; that it is damaged is a reason too.

        Raises SpecMismatch for a chunk of another model, UnknownCodec for one that cannot be decoded here.
        """
        ...


class Parts(Protocol):
    """Segments of KV parts as they come, see `KVClient.segments`."""

    def __call__(
        self, keys: Collection[PartKey], *, opened: Callable[[PartKey, Header], None] | None = None
    ) -> AsyncGenerator[tuple[PartKey, Segment | Miss], None]: ...


@runtime_checkable
class Segmented(Protocol):
    """A store that also gives KV parts layer by layer."""

    @property
    def segments(self) -> Parts: ...


class Whole:
    """Chunks from any store, each in one call."""

    def __init__(self, store: Store, coder: Coder) -> None:
        self.store, self.coder = store, coder

    async def fetch(self, key: ChunkKey) -> Fetched | Miss:
        frame = await get(self.store, PartKey(key, "kv"))
        if isinstance(frame, Miss):
            return frame
        came = perf_counter()
        try:
            found, spec, kv = read_kv(frame, verify=False)  # the store has summed it where it crossed a wire
            self.coder.require(key, found, spec)
            return Fetched(await self.coder.entry(key, kv), kv.nbytes, came)
        except ChunkCorrupt:
            return Miss.CORRUPT


class Layered:
    """Chunks from a store that gives them layer by layer: each layer is decoded while the next ones travel."""

    def __init__(self, store: Segmented, coder: Coder) -> None:
        self.store, self.coder, self._codecs = store, coder, LayerCodecs(coder.coding.fitted)

    async def fetch(self, key: ChunkKey) -> Fetched | Miss:
        headers: list[Header] = []
        layers = Layers(self.coder.spec, self._codecs)
        waiting: list[Segment] = []
        came = 0.0
        parts = self.store.segments([PartKey(key, "kv")], opened=lambda _, header: headers.append(header))
        try:
            async for _, segment in parts:
                if isinstance(segment, Miss):
                    return segment
                waiting.append(segment)
                came = perf_counter()
                if len(waiting) == sum(row.layer == segment.layer for row in headers[0].rows):
                    await asyncio.to_thread(layers.add, waiting)
                    waiting = []
            (header,) = headers
            self.coder.require(key, header.key, header.spec)
            entry = self.coder.place(key, bool(header.fields["reencoded"]), layers.kv)
        except ChunkCorrupt:
            return Miss.CORRUPT
        except Unavailable:
            return Miss.TIER_DOWN
        except DeadlineExceeded:
            return Miss.LATE
        finally:
            await parts.aclose()
        return Fetched(entry, layers.coded_bytes, came)


def source(store: Store, coder: Coder, layered_bytes: int) -> Source:
    """The best way that a store offers: layer by layer if chunks have so many coded bytes, and layers that a processor
    has to decode. A GPU decodes a chunk several times as fast as it comes, and each layer by itself more slowly."""
    coding, spec = coder.coding, coder.spec
    plain = coding.keys == coding.values == "raw"  # there is nothing to decode: they are used where they have landed
    large = spec.layers > 0 and not plain and coded_bytes(coding, spec) >= layered_bytes
    if large and coder.device.at_hand.type == "cpu" and isinstance(store, Segmented):
        return Layered(store, coder)
    return Whole(store, coder)


async def get(store: Store, key: PartKey) -> Frame | Miss:
    """What a store says of a key; that it does not answer is a reason too."""
    try:
        return (await store.get([key]))[key]
    except Unavailable:
        return Miss.TIER_DOWN
    except DeadlineExceeded:
        return Miss.LATE
