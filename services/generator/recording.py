"""What is kept of an evaluated walk: truth, pictures, what was recalled, what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from pocket.rooms import Rooms
from services.generator.truth import Pictures as Pictures
from services.generator.truth import seen_again
from worldkv.pose import Matrix

Rule = Literal["view", "content"]
"""What counts as looking again: nearly the same view, or most of its pixels; see `metrics.looks_again`."""


class ChunkLog(NamedTuple):
    """One chunk of a walk.

    index     chunk number
    recalled  chunk numbers in the recalled slots, as they stand in the window
    seconds   wall time of the whole step
    memory_seconds  of that, recall, window and remember
    recalled_bytes  bytes of keys and values that were fetched or decoded for this step
    kv_bytes  bytes of keys and values kept for this world after the step, coded as they are kept; what is uncoded is
              counted as bfloat16, whatever type it is held in here
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a log entry
    recalled: tuple[int, ...]
    seconds: float
    memory_seconds: float
    recalled_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Recording:
    """A walk as one mode drew it.

    mode     "window", "full" or "worldkv", or the name of a variant
    truth, pictures  the true renders and what the walker saw, per latent frame
    poses    [frames, 4, 4] camera-to-world
    shown    latent frames, from the first, that came from the true renderer
    chunks   one log entry a chunk, shown ones included
    rule     what counts as looking again
    """

    scenario: str
    seed: int
    mode: str
    rooms: Rooms
    truth: Pictures
    pictures: Pictures
    poses: Matrix
    shown: int
    chunks: tuple[ChunkLog, ...] = field(repr=False)
    rule: Rule = "view"


def revisits(poses: Matrix, shown: int, gap: int) -> list[tuple[int, int]]:
    """Pairs (generated frame, shown frame) in which the generated one looks again at what was shown.

    See `seen_again`: what was also shown within the last `gap` latent frames is no revisit.
    """
    times = np.arange(shown)
    found = ((now, seen_again(poses[now], now, poses[:shown], times, gap)) for now in range(shown, len(poses)))
    return [(now, before) for now, before in found if before is not None]
