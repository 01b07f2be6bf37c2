"""One walk, as every mode drew it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pocket.rooms import Rooms
from services.generator.metrics import Scores, looks_again, psnr, score
from services.generator.recording import ChunkLog, Pictures, Recording
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix

MODES = ("window", "full", "worldkv")
"""The modes of a comparison, in the order in which they are shown."""
FPS_CHUNKS = 8
"""Generated chunks, from the last, over which the speed at the end is taken."""


@dataclass(frozen=True)
class Comparison:
    """The recordings of one scenario and seed, one a mode.

    walks  all over the same poses; the modes in the order in which they are to be shown
    gap    latent frames that must lie between showing a view and looking at it again

    Raises InvalidInput if the recordings are not of one walk.
    """

    walks: tuple[Recording, ...]
    gap: int

    def __post_init__(self) -> None:
        names = {(w.scenario, w.seed, len(w.truth), w.shown) for w in self.walks}
        if len(names) != 1:
            raise InvalidInput(f"a comparison is of one walk, got {sorted(names)}")

    @property
    def name(self) -> str:
        return self.walks[0].scenario

    @property
    def seed(self) -> int:
        return self.walks[0].seed

    @property
    def rooms(self) -> Rooms:
        return self.walks[0].rooms

    @property
    def truth(self) -> Pictures:
        return self.walks[0].truth

    @property
    def poses(self) -> Matrix:
        return self.walks[0].poses

    @property
    def shown(self) -> int:
        return self.walks[0].shown

    @property
    def frames(self) -> int:
        return len(self.truth)

    @cached_property
    def by_mode(self) -> dict[str, Recording]:
        return {w.mode: w for w in self.walks}

    @cached_property
    def revisits(self) -> dict[int, int]:
        """The shown frame that each revisit frame looks at again."""
        return dict(looks_again(self.walks[0], self.gap))

    @cached_property
    def scores(self) -> dict[str, Scores]:
        return {w.mode: score(w, self.gap) for w in self.walks}

    @cached_property
    def psnr(self) -> dict[str, NDArray[np.float64]]:
        """PSNR against the truth by mode and frame, dB; shown frames are the truth itself."""
        return {w.mode: psnr(w.pictures, w.truth) for w in self.walks}


def chunk_frames(walk: Recording) -> int:
    """Latent frames of a chunk."""
    return len(walk.truth) // len(walk.chunks)


def generated(walk: Recording) -> list[ChunkLog]:
    """The log of the chunks that the model drew itself."""
    frames = chunk_frames(walk)
    return [log for log in walk.chunks if log.index * frames >= walk.shown]


def fps(walk: Recording) -> NDArray[np.float64]:
    """Latent frames a second of each generated chunk."""
    frames = chunk_frames(walk)
    return np.array([frames / max(log.seconds, 1e-9) for log in generated(walk)])


def end_fps(walk: Recording) -> float:
    """Latent frames a second at the end of a walk: the median of its last generated chunks; NaN if there are none."""
    last = fps(walk)[-FPS_CHUNKS:]
    return float(np.median(last)) if len(last) else float("nan")
