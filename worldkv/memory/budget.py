"""The budget of a world: beyond it the chunks that others cover best are demoted to their latents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import DeadlineExceeded, Unavailable
from worldkv.finder import Finder
from worldkv.store import PartKey, Store
from worldkv.tasks import tell_defect


class Budget:
    """What a world is charged for: coded keys and values of the chunks that it wrote itself.

    most_bytes, most_chunks  that it may keep, 0 for no limit
    used_bytes  that it keeps
    demoted     is told of which chunks the latents alone are left, and
    changed     when what went on behind the caller's back has ended
    """

    def __init__(
        self,
        lineage: Lineage,
        view_range: float,
        store: Store,
        finder: Finder,
        demoted: Callable[[Collection[ChunkKey]], None],
        changed: Callable[[], None],
    ) -> None:
        self.most_bytes = self.most_chunks = 0
        self.lineage, self.view_range = lineage, view_range
        self.store, self.finder, self.demoted, self.changed = store, finder, demoted, changed
        self.used_bytes = 0
        self._newest = -1
        self._keeping: asyncio.Task[None] | None = None
        self._sizes: dict[ChunkKey, int] = {}

    def charge(self, key: ChunkKey, nbytes: int) -> None:
        """Keys and values of a chunk are kept: once, however often they were put."""
        if key.branch == self.lineage.head:
            self.used_bytes += nbytes - self._sizes.get(key, 0)
            self._sizes[key] = nbytes

    def begin(self, newest: int) -> None:
        """Keep the budget behind the caller's back: no put waits for an index that does not answer."""
        self._newest = max(self._newest, newest)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="keep the budget")
            self._keeping.add_done_callback(tell_defect)

    async def settle(self) -> None:
        """Wait until nothing goes on."""
        if self._keeping:
            await asyncio.wait([self._keeping])

    async def close(self) -> None:
        """Give up."""
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def keep(self, newest: int) -> None:
        """Demote chunks until the world fits. While index or store do not answer it stays as it is.

        newest  number of the last chunk; it is not demoted, and neither is the first
        """
        own = {key.index for key in self._sizes}
        count = len(own) - self.most_chunks if self.most_chunks else 0
        if self.most_bytes and (over := self.used_bytes - self.most_bytes) > 0:
            count = max(count, -(-over * len(own) // self.used_bytes))
        if count <= 0:
            return
        others, start = range(self.lineage.start), self.lineage.start
        gone = set(range(start, newest + 1)) - own
        try:
            doomed = await self.finder.least_useful(count, self.view_range, {0, newest, *others}, gone)
            await self.store.delete([PartKey(key, "kv") for key in doomed])
        except (Unavailable, DeadlineExceeded):  # over its budget until the next chunk
            return
        for key in doomed:
            self.used_bytes -= self._sizes.pop(key, 0)
        self.demoted(doomed)

    async def _keep(self) -> None:
        """Keep the budget, again if more was kept meanwhile."""
        newest = -1
        while newest < self._newest:
            newest = self._newest
            await self.keep(newest)
        self.changed()
