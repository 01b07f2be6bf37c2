"""Reads worlds back from the store: what is missing, once, however many ask for it."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter

from services.retriever.holding import Holding, Run
from services.retriever.metrics import Metrics
from services.retriever.source import Source, Sources
from worldkv.chunk import Branch, Lineage
from worldkv.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OverBudget,
    SpecMismatch,
    WorldKVError,
)
from worldkv.index import Batch

_log = logging.getLogger(__name__)


class Reading:
    """Fills what is held from the store.

    sources  None: there is no store
    read     branches read back since the start

    A branch is read by one task at a time. It goes on when those that waited for it have gone.
    """

    def __init__(self, holding: Holding, sources: Sources | None, metrics: Metrics) -> None:
        self.holding, self.sources, self.metrics = holding, sources, metrics
        self.read = 0
        self._failing = False
        self._tasks: dict[tuple[str, Branch], asyncio.Task[None]] = {}

    async def whole(self, tenant: str, lineage: Lineage, published: int, seconds: float) -> WorldKVError | None:
        """Have the first `published` chunks of a lineage read, as far as they are not held.

        Answers why some may still be missing that the store has: it does not answer, there is no room for them, or
        they did not come within `seconds`. None: what is missing now the store has not got.
        """
        since = monotonic()
        while wanted := self.holding.wanted(tenant, lineage, published, since):
            if self.sources is None:
                return NotFound(f"{published} chunks are published, not all are known, and there is no store")
            source = self.sources(tenant)
            tasks = [self._task(source, tenant, branch, run) for branch, run in wanted.items()]
            left = since + seconds - monotonic()
            _, late = await asyncio.wait(tasks, timeout=max(left, 0))
            if late:
                return DeadlineExceeded(
                    f"a world of {published} chunks was not read from the store within {seconds:.3g} s"
                )
            errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
            for error in errors:
                if isinstance(error, WorldKVError):
                    return error
                raise error
        return self.holding.trouble(tenant, lineage)

    def tenants(self) -> set[str]:
        """Whose branches are being read."""
        return {tenant for tenant, _ in self._tasks}

    async def close(self) -> None:
        """End what is being read."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, source: Source, tenant: str, branch: Branch, run: Run) -> asyncio.Task[None]:
        """The task that reads a branch; one that is under way may read less than this run."""
        key = tenant, branch
        if key not in self._tasks:
            task = asyncio.create_task(self._read(source, tenant, branch, run))
            self._tasks[key] = task
            task.add_done_callback(lambda task: self._ended(key, task))
        return self._tasks[key]

    def _ended(self, key: tuple[str, Branch], task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, WorldKVError):
            level = logging.DEBUG if self._failing else logging.WARNING  # a store that is down is told of once
            _log.log(level, "branch %s of %s was not read: %s", key[1].hex(), key[0], error)
            self._failing = True
        elif error is not None:
            _log.error("reading branch %s of %s failed", key[1].hex(), key[0], exc_info=error)

    async def _read(self, source: Source, tenant: str, branch: Branch, run: Run) -> None:
        begin, count = perf_counter(), 0
        outcome = "failed"
        try:
            with self.holding.asked(tenant, [branch]):
                async for batch in source.batches(branch, *run):
                    count += self._add(tenant, batch)
                    await asyncio.sleep(0)  # an answer at hand is no reason to wait for other calls
                self.holding.looked(tenant, branch, run)
            self._failing = False
            self.read += count > 0
            outcome = "read" if count else "empty"
        except OverBudget as error:
            self.holding.looked(tenant, branch, run, error)  # nor would there be room if it were read again at once
            raise
        finally:
            self.metrics.read(outcome, count, perf_counter() - begin)
        _log.info("read %d chunks of branch %s of %s in %.3f s", count, branch.hex(), tenant, perf_counter() - begin)

    def _add(self, tenant: str, batch: Batch) -> int:
        """Make chunks findable that the store has. One that contradicts what is known is left out, not the others."""
        try:
            return self.holding.add(tenant, batch)
        except (AlreadyExists, InvalidInput, SpecMismatch) as error:
            if len(batch) == 1:
                _log.warning("%s is left out: %s", batch.keys[0], error)
                return 0
        return sum(self._add(tenant, Batch.of([batch.meta(row)])) for row in range(len(batch)))
