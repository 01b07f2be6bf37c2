"""The seam: what a walk asks of an index, and what it is answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.pose import Matrix
from worldkv.select import Candidates, Choice, Query, Selector


@dataclass(frozen=True)
class Hit:
    """A chunk that is worth recalling.

    key    its name
    score, gain, parts, spare  as the selector chose it, see `worldkv.select.Choice`
    poses  [frames, 4, 4] camera-to-world: where it was seen from; no frames: nobody said
    """

    key: ChunkKey
    score: float
    gain: float
    parts: Mapping[str, float]
    spare: bool
    poses: Matrix = field(default_factory=lambda: np.empty((0, 4, 4)), compare=False, repr=False)


def hits(lineage: Lineage, candidates: Candidates, choices: Sequence[Choice]) -> list[Hit]:
    """The chunks that a selector chose among candidates of a lineage."""
    if not choices:
        return []
    chosen = candidates.take(np.array([choice.row for choice in choices]))
    return [
        Hit(lineage.key(index), each.score, each.gain, each.parts, each.spare, poses)
        for each, index, poses in zip(choices, chosen.index.tolist(), chosen.poses, strict=True)
    ]


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
