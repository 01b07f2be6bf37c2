"""What sessions ask: which chunks of a world to recall, and which it can do without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, perf_counter
from typing import TypeVar

from services.retriever.config import ServingConfig
from services.retriever.holding import Holding
from services.retriever.metrics import Metrics
from services.retriever.reading import Reading
from worldkv.chunk import Branch, ChunkKey, Lineage
from worldkv.errors import DeadlineExceeded, NotFound, OverBudget, SpecMismatch, Unavailable
from worldkv.evict import least_useful
from worldkv.index import Gap, Hit, hits
from worldkv.select import Candidates, Choice, Selector
from worldkv.wire_retriever import Found, Lookup

T = TypeVar("T")


class Lookups:
    """Answers from what is held, and from the store where that is not all."""

    def __init__(self, holding: Holding, reading: Reading, metrics: Metrics, config: ServingConfig) -> None:
        self._holding, self._reading, self._metrics, self._config = holding, reading, metrics, config
        self._threads = ThreadPoolExecutor(config.threads, "choose")
        self._evicting = ThreadPoolExecutor(1, "evict")  # takes seconds in a large world: no lookup waits behind it

    def close(self) -> None:
        """End the threads; what they do now is waited for."""
        for threads in (self._threads, self._evicting):
            threads.shutdown(cancel_futures=True)

    async def found(self, tenant: str, lookup: Lookup, selector: Selector, seconds: float, inline: int) -> Found:
        """The answer to a query, within about so many seconds.

        inline  candidates up to which choosing is not left to a thread

        Raises Unavailable, DeadlineExceeded or OverBudget if the store could not be read and nothing is known of the
        world; NotFound if the store knows nothing of it; SpecMismatch if another model made it.
        """
        end = monotonic() + seconds
        with self._holding.asked(tenant, [branch for branch, _ in lookup.lineage.parts]):
            error, gaps = None, self._gaps(tenant, lookup)
            if gaps:
                error = await self._reading.whole(tenant, lookup.lineage, lookup.published, seconds)
                gaps = self._gaps(tenant, lookup)
            if lookup.spec:
                self._require(tenant, lookup)
            begin, index = perf_counter(), self._holding.index(tenant)
            chunks = index.candidates(lookup.lineage, lookup.exclude, lookup.pending)
            missing = _missing(gaps, lookup) if gaps else 0
            if chunks is None and 0 < lookup.published == missing:
                raise error or NotFound(f"the store has no chunk of the world {lookup.lineage.head.hex()}")
            hits = [] if chunks is None else await self._chosen(lookup, selector, chunks, inline, end)
        candidates = 0 if chunks is None else len(chunks)
        wanted = sum(not hit.spare for hit in hits)
        self._metrics.found(lookup.selector, perf_counter() - begin, candidates, lookup.count, wanted, missing)
        return Found(hits, candidates, missing)

    async def least_useful(
        self,
        tenant: str,
        lineage: Lineage,
        count: int,
        view_range: float,
        protect: Collection[int],
        exclude: Collection[int],
        owned: Collection[Branch],
        published: int,
        seconds: float,
    ) -> list[ChunkKey]:
        """At most `count` chunks of these branches that a world can do without, in the order to take them away.

        Raises Unavailable or DeadlineExceeded if the world is not whole and could not be read, or it took too long.
        """
        end = monotonic() + seconds
        with self._holding.asked(tenant, [branch for branch, _ in lineage.parts]):
            error = await self._reading.whole(tenant, lineage, published, seconds)
            if isinstance(error, NotFound | OverBudget):  # no store, or no room for what it has
                raise Unavailable(str(error)) from error
            if error is not None:
                raise error
            chunks = self._holding.index(tenant).candidates(lineage, exclude)
            if chunks is None:
                return []
            keys = [lineage.key(number) for number in chunks.index.tolist()]
            others = {key.index for key in keys if key.branch not in owned}
            work = partial(least_useful, chunks, count, view_range, others.union(protect))
            gone = await _within(end, self._evicting, work)
        return [lineage.key(number) for number in gone]

    async def _chosen(
        self, lookup: Lookup, selector: Selector, chunks: Candidates, inline: int, end: float
    ) -> list[Hit]:
        if not lookup.count:
            return []

        def choose() -> list[Choice]:
            return selector.choose(lookup.query, chunks, lookup.count, lookup.spares)

        if len(chunks) <= inline:
            choices = choose()
        else:
            choices = await _within(end, self._threads, choose)
        return hits(lookup.lineage, chunks, choices)

    def _gaps(self, tenant: str, lookup: Lookup) -> list[Gap]:
        return self._holding.index(tenant).missing(lookup.lineage, lookup.published)

    def _require(self, tenant: str, lookup: Lookup) -> None:
        self._holding.require(tenant, lookup.lineage, lookup.spec)
        for meta in lookup.pending:
            if meta.spec != lookup.spec:
                raise SpecMismatch(f"pending chunk {meta.key} is of spec {meta.spec}, spec {lookup.spec} asks")


async def _within(end: float, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What work gives that is done by a thread; DeadlineExceeded at `end`, and then it is not begun any more."""
    try:
        async with asyncio.timeout(end - monotonic()):
            return await asyncio.get_running_loop().run_in_executor(threads, work)
    except TimeoutError as error:
        raise DeadlineExceeded("the chunks of a large world were not compared in time") from error


def _missing(gaps: Sequence[Gap], lookup: Lookup) -> int:
    """How many chunks of these gaps are not pending."""
    pending = {meta.key for meta in lookup.pending}
    come = sum(any(gap.branch == key.branch and gap.begin <= key.index < gap.end for gap in gaps) for key in pending)
    return sum(gap.end - gap.begin for gap in gaps) - come
