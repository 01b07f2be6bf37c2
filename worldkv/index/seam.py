"""The seam: what a walk asks of an index, and what it is answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.select import Query, Selector


@dataclass(frozen=True)
class Hit:
    """A chunk that is worth recalling.

    key    its name
    score, gain, parts, spare  as the selector chose it, see `worldkv.select.Choice`
    """

    key: ChunkKey
    score: float
    gain: float
    parts: Mapping[str, float]
    spare: bool


class PoseIndex(Protocol):
    """The poses of the chunks of any number of branches."""

    def add(self, meta: Meta) -> bool:
        """Make a chunk findable; False if it was.

        Raises AlreadyExists if its key has another pose or lens, SpecMismatch if its branch holds chunks of another
        model, InvalidInput if they have another number of frames.
        """
        ...

    def remove(self, key: ChunkKey) -> bool:
        """Make a chunk unfindable; False if it was not known. It may be added again."""
        ...

    def nearest(
        self,
        query: Query,
        selector: Selector,
        k: int,
        lineage: Lineage,
        exclude: Collection[int] = (),
        spares: int = 0,
        pending: Sequence[Meta] = (),
    ) -> list[Hit]:
        """At most `k` chunks of a lineage, best first, and behind them at most `spares` spares.

        selector  chooses among all chunks of the lineage that are not excluded, in order of time
        exclude   chunk numbers that are not wanted: sink, recent, not yet to be seen
        pending   chunks that may not have been added yet, ranked with all others; those of no concern are ignored

        Raises InvalidInput if `k` or `spares` is negative.
        """
        ...

    def __len__(self) -> int:
        """Chunks of all branches."""
        ...
