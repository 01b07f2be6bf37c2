"""How pictures compare with true ones, and which of them show a place again: for evaluations and for live walks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldkv.pose import Matrix, angle, distance
from worldkv.window import WindowConfig

REVISIT_DISTANCE = 0.25
"""How near, in units, a shown view must be for a generated frame to revisit it."""
REVISIT_ANGLE = 5.0
"""How near, in degrees, its direction must be."""

Pictures = NDArray[np.uint8]
"""[frames, height, width, 3]."""


def baseline_gap(window: WindowConfig, frames: int) -> int:
    """Latent frames after which a view counts as out of a window without recall: the window, and a chunk more."""
    return window.frames(frames) + frames


def seen_again(pose: Matrix, now: int, shown: Matrix, times: NDArray[np.int64], gap: int) -> int | None:
    """Which shown frame a generated one looks at again; None: it looks at none.

    pose, now     [4, 4] camera-to-world, and time of the generated frame
    shown, times  [n, 4, 4], and [n], rising: of the frames that were shown

    It is the nearest (distance in units plus angle in radians) of those within `REVISIT_DISTANCE` and `REVISIT_ANGLE`.
    What was also shown within the last `gap` latent frames is not seen again: a window alone would remember it.
    """
    near = distance(shown, pose)
    turned = angle(shown[:, :3, :3], pose[:3, :3])
    seen = np.flatnonzero((near <= REVISIT_DISTANCE) & (turned <= np.radians(REVISIT_ANGLE)))
    if not len(seen) or now - times[seen[-1]] <= gap:
        return None
    return int(seen[np.argmin((near + turned)[seen])])


def psnr(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of pictures, dB; identical pictures count as 60."""
    error = np.square(a.astype(np.float64) - b).mean((-3, -2, -1)) / 255**2
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-6)))


def to_bytes(pictures: Tensor) -> Pictures:
    """[frames, 3, height, width] float32 in 0..1 to [frames, height, width, 3] uint8."""
    return np.asarray((pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
