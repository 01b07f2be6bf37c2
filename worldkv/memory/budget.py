"""The budget of a world: beyond it the chunks that others cover best are demoted to their latents."""

from __future__ import annotations

from collections.abc import Collection

from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import DeadlineExceeded, Unavailable
from worldkv.finder import Finder
from worldkv.store import PartKey, Store


class Budget:
    """What a world is charged for: coded keys and values of the chunks that it wrote itself.

    budget_bytes  that it may keep, 0 for no limit
    used_bytes    that it keeps
    """

    def __init__(self, budget_bytes: int, lineage: Lineage, view_range: float, store: Store, finder: Finder) -> None:
        self.budget_bytes, self.lineage, self.view_range = budget_bytes, lineage, view_range
        self.store, self.finder = store, finder
        self.used_bytes = 0
        self._sizes: dict[ChunkKey, int] = {}

    def charge(self, key: ChunkKey, nbytes: int) -> None:
        """Keys and values of a chunk are kept: once, however often they were put."""
        if key.branch == self.lineage.head:
            self.used_bytes += nbytes - self._sizes.get(key, 0)
            self._sizes[key] = nbytes

    async def keep(self, newest: int) -> Collection[ChunkKey]:
        """Demote chunks until the world fits, and answer which. While index or store do not answer it stays as it is.

        newest  number of the last chunk; it is not demoted, and neither is the first
        """
        over = self.used_bytes - self.budget_bytes
        if not self.budget_bytes or over <= 0:
            return ()
        own = {key.index for key in self._sizes}
        count = -(-over * len(own) // self.used_bytes)
        others, start = range(self.lineage.start), self.lineage.start
        gone = set(range(start, newest + 1)) - own
        try:
            doomed = await self.finder.least_useful(count, self.view_range, {0, newest, *others}, gone)
            await self.store.delete([PartKey(key, "kv") for key in doomed])
        except (Unavailable, DeadlineExceeded):  # over its budget until the next chunk
            return ()
        for key in doomed:
            self.used_bytes -= self._sizes.pop(key, 0)
        return doomed
