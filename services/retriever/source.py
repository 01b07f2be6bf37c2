"""Where worlds are read back from: the seam, and its implementation over any store of chunks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from itertools import groupby, islice
from typing import Protocol, TypeVar

from worldkv.chunk import Branch, ChunkKey, Meta
from worldkv.client import KVClient
from worldkv.errors import ChunkCorrupt, DeadlineExceeded, Unavailable
from worldkv.format import Frame, decode_part
from worldkv.index import Batch
from worldkv.store import Miss, PartKey, Store

_log = logging.getLogger(__name__)

BATCH = 64
"""Immutable parts that are fetched at once."""
FEW = 8
"""Immutable parts that are fetched at once only to learn whether they are there."""
MAX_DOUBTFUL = 1024
"""Chunks that are asked for one by one where the list of their branch cannot be had."""

T = TypeVar("T")


class Source(Protocol):
    """The truth that an index of one tenant is made from."""

    def batches(self, branch: Branch, begin: int, end: int) -> AsyncIterator[Batch]:
        """What is known of a branch's chunks `begin` to `end` (exclusive), in order; damaged ones are left out.

        Raises Unavailable, or DeadlineExceeded, if a part of the store does not answer: what came until then is
        true, and not all.
        """
        ...

    async def gone(self, keys: Collection[ChunkKey]) -> set[ChunkKey]:
        """Those of these chunks that are deleted, or unknown everywhere; not those about which nobody answers."""
        ...


Sources = Callable[[str], Source]
"""Gives a tenant's source."""


class StoreSource:
    """A `Source` over any `Store`: lists a branch's immutable parts, then fetches them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def batches(self, branch: Branch, begin: int, end: int) -> AsyncIterator[Batch]:
        """See `Source.batches`."""
        keys = [key async for key in self.store.scan(branch, begin, end, "part")]
        for some in _batches(keys, BATCH):
            found = [_meta(key, frame) for key, frame in (await self.store.get(some)).items()]
            metas = [meta for meta in found if meta is not None]
            for _, alike in groupby(metas, _shapes):
                yield Batch.of([*alike])

    async def gone(self, keys: Collection[ChunkKey]) -> set[ChunkKey]:
        """See `Source.gone`. Bytes travel only where the list of a branch could not be had, or changed meanwhile."""
        doubtful: list[ChunkKey] = []
        for branch, group in groupby(sorted(keys), key=lambda key: key.branch):
            some = [*group]
            doubtful += await self._unlisted(branch, some)
        gone: set[ChunkKey] = set()
        for batch in _batches(doubtful, FEW):
            try:
                found = await self.store.get([PartKey(key, "part") for key in batch])
            except (Unavailable, DeadlineExceeded) as error:
                _log.warning("whether %d chunks are gone is not known: %s", len(batch), error)
                continue
            gone |= {key.chunk for key, each in found.items() if each in (Miss.DELETED, Miss.NEVER_STORED)}
        return gone

    async def _unlisted(self, branch: Branch, keys: Sequence[ChunkKey]) -> list[ChunkKey]:
        """Those of a branch's chunks, sorted, that the store does not list.

        If it gives no list: all of them, or none if they are too many.
        """
        listed: set[ChunkKey] = set()
        try:
            async for key in self.store.scan(branch, keys[0].index, keys[-1].index + 1, "part"):
                listed.add(key.chunk)
        except (Unavailable, DeadlineExceeded):  # somebody may know all the same that a chunk was deleted
            return [*keys] if len(keys) <= MAX_DOUBTFUL else []
        return [key for key in keys if key not in listed]


class ShardsSource(StoreSource):
    """A `Source` over the shards of a store, which give the heads of parts with their list."""

    def __init__(self, client: KVClient) -> None:
        super().__init__(client)
        self._client = client

    def batches(self, branch: Branch, begin: int, end: int) -> AsyncIterator[Batch]:
        """See `Source.batches`."""
        return self._client.batches(branch, begin, end)


def _meta(key: PartKey, frame: Frame | Miss) -> Meta | None:
    """What a part says of its chunk; None if it is damaged, or gone since it was listed."""
    if isinstance(frame, Miss):
        if frame in (Miss.LATE, Miss.TIER_DOWN):
            raise Unavailable(f"{key} could not be read: {frame.value}")
        if frame is Miss.CORRUPT:
            _log.warning("%s is damaged and left out", key)
        return None
    try:
        meta = decode_part(frame, verify=False).meta
    except ChunkCorrupt as error:
        _log.warning("%s is left out: %s", key, error)
        return None
    if meta.key != key.chunk:
        _log.warning("%s is left out: it says that it is %s", key, meta.key)
        return None
    return meta


def _shapes(meta: Meta) -> list[tuple[int, ...] | None]:
    """Chunks of one batch have arrays of the same shapes."""
    return [None if each is None else each.shape for each in (meta.poses, meta.depth, meta.descriptor)]


def _batches(items: Collection[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := [*islice(rest, size)]:
        yield some
