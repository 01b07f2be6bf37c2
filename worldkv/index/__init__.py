"""Which chunks saw what the camera sees now: the `PoseIndex` seam and its exact scan.

An index is a hint: it holds nothing that the store cannot give back, and a chunk that it names may be gone.

`PoseIndex` is what a walk needs. `ScanIndex` does more, for a service that holds many worlds:

| call | does |
| --- | --- |
| `add_many(Batch)` | makes many chunks findable; a `Batch` holds them as columns, checked in one go |
| `remove_many(keys)` | makes some unfindable |
| `drop_branch(branch)` | forgets a branch |
| `missing(lineage, published)` | numbers of a world that are not held, as runs; costs next to nothing when none is |
| `branches()`, `held(branch)`, `branch_bytes(branch)`, `nbytes` | what is held, and what it costs |
| `candidates(lineage, ...)` | a snapshot of a world, for selectors |
| `least_useful(lineage, ...)` | what a world can do without |

**While it changes.** One thread changes an index at a time; any number may read it meanwhile, without a lock. What a
reader was given stays as it was: chunks are appended behind what readers see, and whatever else changes is copied.
"""

from __future__ import annotations

from worldkv.index.batch import Batch
from worldkv.index.scan import Gap, ScanIndex
from worldkv.index.seam import Hit, PoseIndex, hits

__all__ = ["Batch", "Gap", "Hit", "PoseIndex", "ScanIndex", "hits"]
