"""What a replica holds: an index a tenant, and one bound for the chunks of all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from time import monotonic

from worldkv.chunk import Branch, ChunkKey, Lineage
from worldkv.errors import OverBudget, SpecMismatch, WorldKVError
from worldkv.index import Batch, Gap, ScanIndex

Run = tuple[int, int]
"""Chunk numbers from the first up to the second, exclusive."""


@dataclass(eq=False)
class _Record:
    """What is known of a branch beside its chunks.

    calls   in progress that are about it: it is not forgotten meanwhile
    spec    digest of the model spec of its chunks; empty as long as it has none
    looked  runs of chunks that were looked for in the store, when that was done, and why not all that it has is held
    """

    calls: int = 0
    spec: str = ""
    looked: list[tuple[Run, float, WorldKVError | None]] = field(default_factory=list)


class Holding:
    """The chunks of all tenants, at most `max_chunks`.

    forgets      whether the branches asked for least recently make room; else what is too much is refused
    gap_seconds  for which what was looked for and is not there is not wanted again
    chunks, added, forgotten  chunks held; chunks that were new, and branches forgotten to make room, since the start

    Belongs to one event loop: no method gives up control between looking and changing.
    """

    def __init__(self, max_chunks: int, gap_seconds: float, forgets: bool) -> None:
        self.max_chunks, self.gap_seconds, self.forgets = max_chunks, gap_seconds, forgets
        self.chunks = self.added = self.forgotten = 0
        self._indexes: dict[str, ScanIndex] = {}
        self._records: OrderedDict[tuple[str, Branch], _Record] = OrderedDict()  # asked for least recently first
        self._untidy: set[tuple[str, Branch]] = set()

    @property
    def branches(self) -> int:
        """Branches with at least one chunk."""
        return sum(len(index.branches()) for index in self._indexes.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the tables that hold the chunks."""
        return sum(index.nbytes for index in self._indexes.values())

    def index(self, tenant: str) -> ScanIndex:
        """A tenant's index; what is added to it directly is not counted."""
        if tenant not in self._indexes:
            self._indexes[tenant] = ScanIndex()
        return self._indexes[tenant]

    @contextmanager
    def asked(self, tenant: str, branches: Collection[Branch]) -> Iterator[None]:
        """Around a call about some branches: they are those asked for last, and are not forgotten meanwhile."""
        records = [self._record(tenant, branch) for branch in branches]
        for record in records:
            record.calls += 1
        try:
            yield
        finally:
            for record in records:
                record.calls -= 1

    def add(self, tenant: str, batch: Batch) -> int:
        """Make chunks findable; answers how many are new. Those before one that is refused are.

        Raises OverBudget if there is no room, and what `ScanIndex.add_many` raises.
        """
        index = self.index(tenant)
        specs = {branch: batch.specs[rows.start] for branch, rows in reversed([*batch.runs()])}
        with self.asked(tenant, specs):
            if self.chunks + len(batch) > self.max_chunks:
                self._make_room(len(batch) - self._known(tenant, batch))
            before = len(index)
            for branch in specs:
                if not index.held(branch):
                    self._record(tenant, branch).spec = ""
            try:
                return index.add_many(batch)
            finally:
                self.chunks += len(index) - before
                self.added += len(index) - before
                for branch, spec in specs.items():
                    if index.held(branch):
                        record = self._record(tenant, branch)
                        record.spec = record.spec or spec

    def remove(self, tenant: str, keys: Collection[ChunkKey]) -> int:
        """Make chunks unfindable; answers how many were known."""
        removed = self.index(tenant).remove_many(keys)
        self.chunks -= removed
        self._untidy |= {(tenant, key.branch) for key in keys}
        return removed

    def listed(self, tenant: str, branch: Branch) -> list[ChunkKey]:
        """All chunks held of a branch, by number."""
        found = self.index(tenant).candidates(Lineage.begin(branch))
        return [] if found is None else [ChunkKey(branch, number) for number in found.index.tolist()]

    def require(self, tenant: str, lineage: Lineage, spec: str) -> None:
        """Raise SpecMismatch if chunks of a lineage were made by another model."""
        index = self.index(tenant)
        for branch, _ in lineage.parts:
            record = self._records.get((tenant, branch))
            if record is not None and record.spec not in ("", spec) and index.held(branch):
                raise SpecMismatch(f"chunks of branch {branch.hex()} are of spec {record.spec}, spec {spec} asks")

    def looked(self, tenant: str, branch: Branch, run: Run, error: WorldKVError | None = None) -> None:
        """All of the store was asked about a run of a branch; what it has is held, or else `error` says why not."""
        self._record(tenant, branch).looked.append((run, monotonic(), error))
        self._untidy.add((tenant, branch))

    def trouble(self, tenant: str, lineage: Lineage) -> WorldKVError | None:
        """Why not all that the store has of a lineage is held, if that was found out within `gap_seconds`."""
        oldest = monotonic() - self.gap_seconds
        for branch, _ in lineage.parts:
            for _, when, error in record.looked if (record := self._records.get((tenant, branch))) else ():
                if error is not None and when >= oldest:
                    return error
        return None

    def wanted(self, tenant: str, lineage: Lineage, published: int, since: float) -> dict[Branch, Run]:
        """What is missing of each branch and worth looking for: from the first such chunk to the last.

        since  what was looked for after this time is not worth it, however short `gap_seconds` is
        """
        gaps = self.index(tenant).missing(lineage, published)
        return self._worth(tenant, gaps, since) if gaps else {}

    def _worth(self, tenant: str, gaps: Sequence[Gap], since: float) -> dict[Branch, Run]:
        found: dict[Branch, Run] = {}
        oldest = min(since, monotonic() - self.gap_seconds)
        for branch, own in groupby(gaps, key=lambda gap: gap.branch):
            record = self._records.get((tenant, branch))
            recent = [run for run, when, _ in record.looked if when >= oldest] if record else []
            if left := without([(gap.begin, gap.end) for gap in own], recent):
                found[branch] = left[0][0], left[-1][1]
        return found

    def tidy(self) -> None:
        """Drop what time has made useless: call it now and then."""
        now = monotonic()
        for tenant, branch in [*self._untidy]:
            if (record := self._records.get((tenant, branch))) is None:
                self._untidy.remove((tenant, branch))
                continue
            record.looked = [each for each in record.looked if each[1] + self.gap_seconds > now]
            if not record.looked and not record.calls:
                self._untidy.remove((tenant, branch))
                if not self.index(tenant).held(branch):
                    del self._records[tenant, branch]
        for tenant in [tenant for tenant, index in self._indexes.items() if not len(index)]:
            del self._indexes[tenant]

    def _known(self, tenant: str, batch: Batch) -> int:
        """How many chunks of a batch are held."""
        held = {key for branch in {branch for branch, _ in batch.runs()} for key in self.listed(tenant, branch)}
        return len(held.intersection(batch.keys))

    def _make_room(self, count: int) -> None:
        """Forget branches until so many chunks fit; OverBudget if they never can."""
        over = self.chunks + count - self.max_chunks
        doomed = list[tuple[str, Branch]]()
        for (tenant, branch), record in self._records.items() if self.forgets and over > 0 else ():
            if over > 0 and not record.calls:
                doomed.append((tenant, branch))
                over -= self.index(tenant).held(branch)
        if over > 0:
            raise OverBudget(f"{count} chunks are {over} more than there is room for beside those in use")
        for tenant, branch in doomed:
            self.forgotten += self.index(tenant).held(branch) > 0
            self.chunks -= self.index(tenant).drop_branch(branch)
            del self._records[tenant, branch]

    def _record(self, tenant: str, branch: Branch) -> _Record:
        key = tenant, branch
        if key not in self._records:
            self._records[key] = _Record()
            self._untidy.add(key)
        self._records.move_to_end(key)
        return self._records[key]


def without(runs: Sequence[Run], others: Iterable[Run]) -> list[Run]:
    """What is left of sorted, disjoint runs without the numbers of the others."""
    left = [*runs]
    for begin, end in others:
        cut = [each for low, high in left for each in ((low, min(high, begin)), (max(low, end), high))]
        left = [(low, high) for low, high in cut if low < high]
    return left
