"""The index as one session sees it, which goes on when the index does not answer: chunks are then chosen here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from time import monotonic

from worldkv.chunk import Branch, ChunkKey, Meta
from worldkv.client.retriever_finder import RemoteFinder
from worldkv.errors import DeadlineExceeded, Unavailable
from worldkv.index import Batch, Hit, ScanIndex
from worldkv.select import Query, make_selector
from worldkv.tasks import tell_defect

SLOW_SECONDS = 0.1
"""A lookup that was given up after so long counts as not answered: whoever asked had no more time."""

_log = logging.getLogger(__name__)

Batches = Callable[[Branch, int, int | None], AsyncIterator[Batch]]
"""Reads what chunks of a branch say of themselves, from a number up to another (exclusive), None: its end."""


class Standby:
    """A `Finder` over a retriever, and over the store while that is silent.

    A retriever holds nothing that the store cannot give back, so a session can read its own world back as well: some
    hundred bytes a chunk, once, and only while they are needed. What it chooses is the same, by the same function.
    Meanwhile the retriever is asked beside that, and chooses again from its first whole answer on.

    index    finds chunks in another process
    batches  see `KVClient.batches`
    """

    def __init__(self, index: RemoteFinder, batches: Batches) -> None:
        self.index = index
        self._batches, self._selector = batches, make_selector(index.selector, index.seed)
        self._own: asyncio.Task[ScanIndex] | None = None  # None: the retriever answers
        self._asking: asyncio.Task[None] | None = None
        self._added: list[Meta] = []  # while the world is read

    @property
    def stands_in(self) -> bool:
        """Whether chunks are chosen here."""
        return self._own is not None

    async def add(self, meta: Meta, kept: bool = True) -> None:
        """See `Finder.add`."""
        if (own := self._read) is not None:
            own.add(meta)
        elif self.stands_in:
            self._added.append(meta)
        await self.index.add(meta, kept)

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        """See `Finder.nearest`. Raises Unavailable only if neither the retriever answers nor the store."""
        if self._own is None:
            since = monotonic()
            try:
                return await self.index.nearest(query, k, exclude, spares)
            except (Unavailable, DeadlineExceeded) as error:
                self._stand_in(error)
            except asyncio.CancelledError:
                if monotonic() - since > SLOW_SECONDS:
                    self._stand_in(DeadlineExceeded("a lookup was given up"))
                raise
        elif self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(query, k, exclude, spares), name="whether the index answers")
            self._asking.add_done_callback(tell_defect)
        assert self._own is not None
        own = await asyncio.shield(self._own)
        return await asyncio.to_thread(own.nearest, query, self._selector, k, self.index.lineage, exclude, spares)

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        """See `Finder.least_useful`."""
        try:
            return await self.index.least_useful(count, view_range, protect, exclude)
        except (Unavailable, DeadlineExceeded):
            if (own := self._read) is None:
                raise
            return await asyncio.to_thread(own.least_useful, self.index.lineage, count, view_range, protect, exclude)

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        """See `Finder.remove`."""
        if (own := self._read) is not None:
            own.remove_many(keys)
        await self.index.remove(keys)

    def choose_by(self, selector: str) -> None:
        """See `Finder.choose_by`."""
        self._selector = make_selector(selector, self.index.seed)
        self.index.choose_by(selector)

    @property
    def _read(self) -> ScanIndex | None:
        """The world, once all of it is read."""
        own = self._own
        return own.result() if own is not None and own.done() and not own.cancelled() and not own.exception() else None

    def _stand_in(self, why: Exception) -> None:
        if self._own is not None:  # somebody else had no answer either
            return
        _log.warning("the index does not answer (%s): chunks are chosen here", why)
        self._added = []
        self._own = asyncio.create_task(self._whole(), name="a world is read back")
        self._own.add_done_callback(self._is_read)

    async def _whole(self) -> ScanIndex:
        """Read the world from the store."""
        own, begin = ScanIndex(), 0
        for branch, end in self.index.lineage.parts:
            async for batch in self._batches(branch, begin, end):
                own.add_many(batch)
            begin = end or begin
        for meta in (*self.index.pending, *self._added):
            own.add(meta)
        return own

    def _is_read(self, own: asyncio.Task[ScanIndex]) -> None:
        if (own.cancelled() or own.exception() is not None) and self._own is own:
            self._own = None  # the next lookup begins anew

    async def _ask(self, query: Query, k: int, exclude: Collection[int], spares: int) -> None:
        """Whether the retriever answers again, and knows as much: one that was started again has to read the world."""
        try:
            await self.index.nearest(query, k, exclude, spares)
        except (Unavailable, DeadlineExceeded):
            return
        own, missing = self._read, self.index.missing
        if missing and (own is None or missing > self.index.published - len(own)):  # of what the store has
            return
        _log.info("the index answers again")
        self._own = None
