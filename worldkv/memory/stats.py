"""What a memory says of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from worldkv.prefetch import PrefetchStats
from worldkv.store import Level, Miss


@dataclass
class MemoryStats:
    """Counts since the memory was made.

    recalled       chunks put back into the window
    at_hand        of these, without a fetch for this step
    fetched_bytes  coded bytes of keys and values that came from the store
    missed         chunks that were wanted and did not come, or not in time, by reason
    reencoded      of these, made again from their latents
    abstained      slots left empty by an index that answered
    unanswered     steps that recalled nothing because the index did not answer, or not in time
    dropped        chunks whose keys and values were dropped before they were kept
    demoted        chunks reduced to their latents to keep a budget
    ahead          what became of fetches ahead of the camera
    """

    recalled: int = 0
    at_hand: int = 0
    fetched_bytes: int = 0
    missed: Counter[Miss] = field(default_factory=Counter)
    reencoded: int = 0
    abstained: int = 0
    unanswered: int = 0
    dropped: int = 0
    demoted: int = 0
    ahead: PrefetchStats = field(default_factory=PrefetchStats)


class Kept(NamedTuple):
    """How far a world is safe.

    end    all chunks before this number are kept
    level  the least level of them; ONE where there are none
    """

    end: int
    level: Level
