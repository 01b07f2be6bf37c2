"""The index as one session sees it, in another process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Protocol

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OverBudget,
    SpecMismatch,
    Unavailable,
    WorldKVError,
)
from worldkv.index import Hit
from worldkv.select import Query
from worldkv.wire_retriever import MESSAGE_BYTES, Found, Lookup, meta_bytes

PENDING = 64
"""Chunks that are sent along with a lookup, the newest that the index has not acknowledged."""
ADDED = 256
"""Chunks that are sent with one add."""
EVICT_SECONDS = 10.0
"""Deadline of `least_useful`, at least."""


class Retriever(Protocol):
    """What a finder needs of `RetrieverClient`."""

    async def nearest(
        self, lookups: Sequence[Lookup], *, deadline_seconds: float | None = None
    ) -> list[Found | WorldKVError]: ...

    async def add(self, lineage: Lineage, metas: Sequence[Meta], *, deadline_seconds: float | None = None) -> int: ...

    async def remove(self, keys: Collection[ChunkKey] = (), *, deadline_seconds: float | None = None) -> int: ...

    async def least_useful(
        self,
        lineage: Lineage,
        count: int,
        view_range: float,
        protect: Collection[int] = (),
        exclude: Collection[int] = (),
        *,
        published: int = 0,
        deadline_seconds: float | None = None,
    ) -> list[ChunkKey]: ...


class RemoteFinder:
    """A `Finder` over a retriever.

    A session finds its own chunks whatever becomes of the index: those that it has not acknowledged go along with every
    lookup, and again with the next add.

    deadline_seconds  of every call
    published         chunks that are kept already; None: those of the branches before the last
    missing           of these the last answer did not know; 0: it was complete
    """

    def __init__(
        self,
        client: Retriever,
        lineage: Lineage,
        selector: str,
        seed: int,
        spec: str,
        deadline_seconds: float,
        published: int | None = None,
    ) -> None:
        self.lineage, self.selector, self.seed, self.spec = lineage, selector, seed, spec
        self.deadline_seconds = deadline_seconds
        self.published, self.missing = lineage.start if published is None else published, 0
        self._client = client
        self._pending: dict[ChunkKey, Meta] = {}
        self._unkept: set[ChunkKey] = set()
        self._ahead: set[int] = set()

    @property
    def pending(self) -> list[Meta]:
        """Chunks that the index has not acknowledged, oldest first."""
        return [*self._pending.values()]

    async def add(self, meta: Meta, kept: bool = True) -> None:
        """See `Finder.add`. Raises AlreadyExists, SpecMismatch or InvalidInput for a chunk that no index would take."""
        self._pending[meta.key] = meta
        if not kept:
            self._unkept.add(meta.key)
            return
        self._unkept.discard(meta.key)
        self._ahead.add(meta.key.index)
        while self.published in self._ahead:
            self._ahead.remove(self.published)
            self.published += 1
        some = [*islice((each for key, each in self._pending.items() if key not in self._unkept), ADDED)]
        try:
            await self._add(some)
        except (Unavailable, DeadlineExceeded, OverBudget):  # they stay pending
            pass
        except (AlreadyExists, SpecMismatch, InvalidInput):
            for each in some:  # one of them is refused: which?
                await self._add_alone(each)

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        """See `Finder.nearest`. Raises Unavailable also if the index has lost the world, and SpecMismatch."""
        lookup = Lookup(
            self.lineage,
            query,
            k,
            spares,
            exclude,
            self.published,
            self._newest(),
            self.selector,
            self.seed,
            self.spec,
        )
        try:
            (found,) = await self._client.nearest([lookup], deadline_seconds=self.deadline_seconds)
            if isinstance(found, WorldKVError):
                raise found
        except (NotFound, OverBudget) as error:  # the world is lost, or too large for the index
            raise Unavailable(str(error)) from error
        self.missing = found.missing
        return found.hits

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        """See `Finder.least_useful`. Has more time than other calls: in a large world it takes seconds."""
        return await self._client.least_useful(
            self.lineage,
            count,
            view_range,
            protect,
            exclude,
            published=self.published,
            deadline_seconds=max(self.deadline_seconds, EVICT_SECONDS),
        )

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        """See `Finder.remove`."""
        await self._client.remove(keys, deadline_seconds=self.deadline_seconds)

    def choose_by(self, selector: str) -> None:
        """See `Finder.choose_by`; whether there is such a selector, the index says."""
        self.selector = selector

    def _newest(self) -> list[Meta]:
        """The newest chunks that are pending, as many as one message holds."""
        newest, nbytes = list[Meta](), 0
        for meta in reversed(self._pending.values()):
            nbytes += meta_bytes(meta)
            if len(newest) == PENDING or (newest and nbytes > MESSAGE_BYTES):
                break
            newest.append(meta)
        return newest[::-1]

    async def _add(self, metas: Sequence[Meta]) -> None:
        await self._client.add(self.lineage, metas, deadline_seconds=self.deadline_seconds)
        for meta in metas:
            self._pending.pop(meta.key, None)

    async def _add_alone(self, meta: Meta) -> None:
        try:
            await self._add([meta])
        except (Unavailable, DeadlineExceeded, OverBudget):
            pass
        except WorldKVError:
            self._pending.pop(meta.key, None)
            raise
