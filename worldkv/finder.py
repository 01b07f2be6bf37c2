"""The index as one session sees it: the seam between a memory and wherever its chunks are indexed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.index import Hit, ScanIndex
from worldkv.select import Query, Selector, make_selector


class Finder(Protocol):
    """The chunks of one world, chosen by one selector.

    Whoever indexes them may be another process. Then `nearest`, `least_useful` and `remove` may raise Unavailable or
    DeadlineExceeded; `add` never does, and what was added is a candidate from then on all the same.
    """

    async def add(self, meta: Meta, kept: bool = True) -> None:
        """Make a chunk findable whose immutable part is kept.

        kept  False if it is not yet: then nothing is waited for, and whoever indexes for others too is not told
        """
        ...

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        """At most `k` chunks that are not excluded, best first, and behind them at most `spares` spares."""
        ...

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        """At most `count` chunks the world can do without, in the order to take them away; see `ScanIndex`."""
        ...

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        """These chunks seem to be gone: whoever can should make sure, and forget those that are."""
        ...

    def choose_by(self, selector: str) -> None:
        """Chunks are chosen by the selector of this name from now on. Raises InvalidInput if there is none."""
        ...


class LocalFinder:
    """A `Finder` over an index in this process."""

    def __init__(self, index: ScanIndex, selector: Selector, lineage: Lineage) -> None:
        self.index, self.selector, self.lineage = index, selector, lineage

    async def add(self, meta: Meta, kept: bool = True) -> None:
        self.index.add(meta)

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        return self.index.nearest(query, self.selector, k, self.lineage, exclude, spares)

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        return self.index.least_useful(self.lineage, count, view_range, protect, exclude)

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        for key in keys:
            self.index.remove(key)

    def choose_by(self, selector: str) -> None:
        self.selector = make_selector(selector)
