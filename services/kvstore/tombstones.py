"""What a shard remembers of parts it no longer has: deleted chunks for good, evicted parts for a while."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import pairwise

from worldkv.chunk import Branch, ChunkKey
from worldkv.store import Miss, PartKey


class Tombstones:
    """Why parts are gone. Deleted chunks cost memory by runs of chunk numbers: a whole branch is one run.

    max_evicted  evicted or corrupt parts that are remembered; the oldest are forgotten first
    """

    def __init__(self, max_evicted: int) -> None:
        self._max = max_evicted
        self._gone: OrderedDict[tuple[str, PartKey], Miss] = OrderedDict()  # oldest first
        self._deleted: dict[tuple[str, Branch], Numbers] = {}

    def __len__(self) -> int:
        """Parts that are remembered as evicted or corrupt."""
        return len(self._gone)

    def why(self, tenant: str, key: PartKey) -> Miss:
        """Why a part that is not held is not."""
        return Miss.DELETED if self.deleted(tenant, key.chunk) else self._gone.get((tenant, key), Miss.NEVER_STORED)

    def deleted(self, tenant: str, chunk: ChunkKey) -> bool:
        """Whether a chunk was deleted."""
        return chunk.index in self._deleted.get((tenant, chunk.branch), ())

    def delete(self, tenant: str, chunk: ChunkKey) -> None:
        """Remember a chunk as deleted, for good."""
        self._deleted.setdefault((tenant, chunk.branch), Numbers()).add(chunk.index)
        self.forget(tenant, PartKey(chunk, "part"))
        self.forget(tenant, PartKey(chunk, "kv"))

    def bury(self, tenant: str, key: PartKey, reason: Miss) -> None:
        """Remember why a part is gone, until it is put again or too many others went."""
        self._gone[tenant, key] = reason
        self._gone.move_to_end((tenant, key))
        while len(self._gone) > self._max:
            self._gone.popitem(last=False)

    def forget(self, tenant: str, key: PartKey) -> None:
        """The part is held again."""
        self._gone.pop((tenant, key), None)

    def check_integrity(self, held: set[tuple[str, PartKey]]) -> None:
        """Assert that nothing is both held and gone."""
        assert not held & self._gone.keys(), "a part is held and remembered as gone"
        assert not any(self.deleted(tenant, key.chunk) for tenant, key in (*held, *self._gone))
        assert len(self._gone) <= self._max
        for numbers in self._deleted.values():
            numbers.check_integrity()


class Numbers:
    """A set of whole numbers, kept as runs."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []  # exclusive

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._begins, number) - 1
        return at >= 0 and number < self._ends[at]

    def add(self, number: int) -> None:
        """Add a number; harmless if it is there."""
        if number in self:
            return
        at = bisect_right(self._begins, number)  # the run after it
        left = at > 0 and self._ends[at - 1] == number
        right = at < len(self._begins) and self._begins[at] == number + 1
        if left and right:
            self._ends[at - 1] = self._ends[at]
            del self._begins[at], self._ends[at]
        elif left:
            self._ends[at - 1] += 1
        elif right:
            self._begins[at] -= 1
        else:
            self._begins.insert(at, number)
            self._ends.insert(at, number + 1)

    def check_integrity(self) -> None:
        """Assert that runs are in order, not empty, and do not touch."""
        flat = [n for run in zip(self._begins, self._ends, strict=True) for n in run]
        assert all(a < b for a, b in pairwise(flat))
