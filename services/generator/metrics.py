"""How well a walk was remembered, on the frames that look again at what was shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from services.generator.recording import Pictures, Recording, revisits

LEAST_GAP = 3.0
"""dB by which full KV must beat the window before a share of that gain means anything."""


@dataclass(frozen=True)
class Scores:
    """Means over the revisit frames of one walk; dB for PSNR, in 0..1 for SSIM. NaN where nothing was revisited.

    truth_*  against the true render at the same pose
    first_*  against what the walker saw when the view was first seen
    """

    frames: int
    truth_psnr: float
    truth_ssim: float
    first_psnr: float
    first_ssim: float


def psnr(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of pictures, dB; identical pictures count as 60."""
    error = np.square(a.astype(np.float64) - b).mean((-3, -2, -1)) / 255**2
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-6)))


def ssim(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Structural similarity of each pair of pictures [frames, height, width, 3]."""
    return np.array([structural_similarity(x, y, channel_axis=-1) for x, y in zip(a, b, strict=True)])


def score(walk: Recording, gap: int) -> Scores:
    """Scores of a walk; `gap` latent frames must lie between showing a view and looking at it again."""
    pairs = revisits(walk.poses, walk.shown, gap)
    if not pairs:
        return Scores(0, *[float("nan")] * 4)
    now, before = (list(side) for side in zip(*pairs, strict=True))
    drawn = walk.pictures[now]
    return Scores(
        frames=len(now),
        truth_psnr=float(psnr(drawn, walk.truth[now]).mean()),
        truth_ssim=float(ssim(drawn, walk.truth[now]).mean()),
        first_psnr=float(psnr(drawn, walk.pictures[before]).mean()),
        first_ssim=float(ssim(drawn, walk.pictures[before]).mean()),
    )


def gain_closed(method: float, window: float, full: float) -> float:
    """(method - window) / (full - window): NaN where full is less than `LEAST_GAP` dB above the window."""
    return (method - window) / (full - window) if full - window >= LEAST_GAP else float("nan")
