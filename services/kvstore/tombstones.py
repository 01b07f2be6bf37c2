"""What a shard remembers of parts it no longer has: deleted chunks for long, evicted parts for a while."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from worldkv.chunk import Branch, ChunkKey
from worldkv.store import Miss, PartKey


class Tombstones:
    """Why parts are gone. Deleted chunks cost memory by runs of chunk numbers: a whole branch is one run.

    max_evicted  evicted or corrupt parts that are remembered; the oldest are forgotten first
    max_deleted  runs of deleted chunks that are remembered; the branches that nothing was deleted of for longest are
                 forgotten first, never the last one. Branches are not used twice: what then comes of one is late
    deleted_runs of deleted chunks that are remembered
    """

    def __init__(self, max_evicted: int, max_deleted: int) -> None:
        self._max, self._max_deleted = max_evicted, max_deleted
        self._gone: OrderedDict[tuple[str, PartKey], Miss] = OrderedDict()  # oldest first
        self._deleted: OrderedDict[tuple[str, Branch], Numbers] = OrderedDict()  # oldest first
        self.deleted_runs = 0

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
        """Remember a chunk as deleted."""
        name = tenant, chunk.branch
        numbers = self._deleted.setdefault(name, Numbers())
        self._deleted.move_to_end(name)
        before = len(numbers)
        numbers.add(chunk.index)
        self.deleted_runs += len(numbers) - before
        while self.deleted_runs > self._max_deleted and len(self._deleted) > 1:
            self.deleted_runs -= len(self._deleted.popitem(last=False)[1])
        self.forget(tenant, PartKey(chunk, "part"))
        self.forget(tenant, PartKey(chunk, "kv"))

    def all_deleted(self) -> Iterator[tuple[str, ChunkKey]]:
        """Every chunk that is remembered as deleted, with its tenant."""
        for (tenant, branch), numbers in self._deleted.items():
            for index in numbers:
                yield tenant, ChunkKey(branch, index)

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
        assert self.deleted_runs == sum(map(len, self._deleted.values()))
        for numbers in self._deleted.values():
            numbers.check_integrity()


class Numbers:
    """A set of whole numbers, kept as runs."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []  # exclusive

    def __len__(self) -> int:
        """Runs."""
        return len(self._begins)

    def __iter__(self) -> Iterator[int]:
        for begin, end in zip(self._begins, self._ends, strict=True):
            yield from range(begin, end)

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
