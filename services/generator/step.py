"""What a step of a session gives: its pictures, what was recalled for them, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from worldkv.chunk import ChunkKey
from worldkv.memory import Recalled
from worldkv.pose import Matrix
from worldkv.store import Miss

Mode = Literal["window", "full", "worldkv"]


class Seconds(NamedTuple):
    """Wall time of a step, by part. What runs beside something else is counted only as far as it was waited for.

    lookup  for the index
    fetch   for bytes from the store
    decode  for keys and values to be decoded, or made again
    place   for them to be placed in the window, and
    draw    for the model: the whole batch's
    keep    to remember the chunk
    """

    lookup: float
    fetch: float
    decode: float
    place: float
    draw: float
    keep: float

    @property
    def recall(self) -> float:
        """Waiting for memory before the chunk is drawn."""
        return self.lookup + self.fetch + self.decode

    @property
    def memory(self) -> float:
        return self.recall + self.place + self.keep


class HeldBytes(NamedTuple):
    """Bytes that a session's memory takes, by where they are.

    window  on the model's device: its row of the window, and the uncoded chunks that stand in it
    hot     decoded, at hand
    queued  on their way to the store
    stored  there, as far as this session put them there: keys and values, coded
    """

    window: int
    hot: int
    queued: int
    stored: int


@dataclass(frozen=True, eq=False)
class Step:
    """What one chunk gave.

    index     chunk number
    pictures  [pictures, 3, height, width] float32 in 0..1
    poses     [frames, 4, 4] camera-to-world
    mode      what stood in the window
    recalled  of these, what stood in the recalled slots
    missed    what was named for recall and did not, and why
    let_go    chunks whose latents alone are left, since the step before
    held      what the session's memory takes now
    seconds   wall time
    """

    index: int
    pictures: Tensor
    poses: Matrix
    mode: Mode
    recalled: tuple[Recalled, ...]
    missed: Mapping[ChunkKey, Miss]
    let_go: tuple[ChunkKey, ...]
    held: HeldBytes
    seconds: Seconds
