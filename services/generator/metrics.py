"""How well a walk was remembered, on the frames that look again at what was shown."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, radians, tan

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from pocket.rooms import FIELD_OF_VIEW, Renderer, Rooms
from services.generator.recording import Recording, revisits
from services.generator.truth import Pictures
from services.generator.truth import psnr as psnr
from worldkv.pose import Matrix

CONTENT = 0.6
"""Share of a generated frame's pixels that must have been shown, for it to look again by content."""
JUDGED, DEPTHS = (12, 16), (36, 48)
"""Rows and columns of the pixels that are looked for, and of the depth maps in which they are."""
NEARER = 0.02
"""Share by which a pixel may lie behind what a depth map holds and still count as seen."""
LEAST_GAP = 3.0
"""dB by which full KV must beat the window before a share of that gain means anything."""


@dataclass(frozen=True)
class Scores:
    """Means over the revisit frames of one walk; dB for PSNR, in 0..1 for SSIM. NaN where nothing was revisited.

    truth_*  against the true render at the same pose
    first_*  against what the walker saw when the view was first seen; NaN too where views come back by content only
    """

    frames: int
    truth_psnr: float
    truth_ssim: float
    first_psnr: float
    first_ssim: float


def ssim(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Structural similarity of each pair of pictures [frames, height, width, 3]."""
    return np.array([structural_similarity(x, y, channel_axis=-1) for x, y in zip(a, b, strict=True)])


def looks_again(walk: Recording, gap: int) -> list[tuple[int, int]]:
    """Pairs (generated frame, shown frame) in which the generated one looks again, by the walk's own rule."""
    if walk.rule == "view":
        return revisits(walk.poses, walk.shown, gap)
    return content_revisits(walk.rooms, walk.poses, walk.shown, gap)


def content_revisits(rooms: Rooms, poses: Matrix, shown: int, gap: int) -> list[tuple[int, int]]:
    """The same where no view comes back exactly: pairs in which most of the picture was shown before, from elsewhere.

    A pixel of a generated frame comes back if a shown frame more than `gap` latent frames ago truly sees the place in
    the world that it looks at, and no shown frame since: what the window still holds is none. Whether a frame sees
    a place is told by exact depth: it lies in the picture, and not behind what the renderer sees there. The frame looks
    again if at least `CONTENT` of its pixels come back; the shown frame of the pair has the most of them.

    rooms  the world, poses [frames, 4, 4] camera-to-world, shown: latent frames, from the first, that were shown
    """
    places, depths = _places(rooms, poses[shown:]), _render_depth(rooms, poses[:shown], DEPTHS)
    pairs = []
    for now, points in enumerate(places, start=shown):
        seen = _visible(points, poses[:shown], depths)
        old, since = seen[: max(now - gap, 0)], seen[max(now - gap, 0) :]
        back = old & ~since.any(0)
        if len(old) and back.any(0).mean() >= CONTENT:
            pairs.append((now, int(back.sum(1).argmax())))
    return pairs


def _render_depth(rooms: Rooms, poses: Matrix, size: tuple[int, int]) -> Tensor:
    """Depth along the viewing axis at the pixels' centres, [views, *size], units."""
    renderer = Renderer([rooms], *size, FIELD_OF_VIEW, supersample=1)
    return renderer(torch.zeros(len(poses), dtype=torch.int64), torch.from_numpy(poses))[1]


def _places(rooms: Rooms, poses: Matrix) -> Matrix:
    """Where in the world the `JUDGED` pixels of each view look, [views, pixels, 3]."""
    rows, columns = JUDGED
    half = tan(radians(FIELD_OF_VIEW) / 2)
    u = ((np.arange(columns) + 0.5) / columns * 2 - 1) * half
    v = ((np.arange(rows) + 0.5) / rows * 2 - 1) * half * rows / columns
    rays = np.stack([*(a.ravel() for a in np.meshgrid(u, v)), np.ones(rows * columns)], -1)
    depth = _render_depth(rooms, poses, JUDGED).flatten(1).numpy()
    return np.asarray((rays * depth[..., None]) @ poses[:, :3, :3].swapaxes(-1, -2) + poses[:, None, :3, 3])


def _visible(points: Matrix, poses: Matrix, depths: Tensor) -> NDArray[np.bool_]:
    """Which points [points, 3] each view truly sees, [views, points], by its depth map [views, rows, columns]."""
    local = (points - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    z = np.maximum(local[..., 2], 1e-6)
    rows, columns = depths.shape[1:]
    half = tan(radians(FIELD_OF_VIEW) / 2) * np.array([1, rows / columns])
    place = local[..., :2] / (z[..., None] * half)
    # One over depth is linear across a plane's picture, so that reading it between pixels is exact.
    grid = torch.from_numpy(place)[:, None].float()
    nearest = functional.grid_sample(1 / depths[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0]
    inside = (local[..., 2] > 0) & (np.abs(place) <= 1).all(-1)
    return np.asarray(inside & (1 / z * (1 + NEARER) >= nearest.numpy()))


def score(walk: Recording, gap: int) -> Scores:
    """Scores of a walk; `gap` latent frames must lie between showing a view and looking at it again."""
    pairs = looks_again(walk, gap)
    if not pairs:
        return Scores(0, nan, nan, nan, nan)
    now, before = (list(side) for side in zip(*pairs, strict=True))
    drawn, first = walk.pictures[now], walk.pictures[before]
    exact = walk.rule == "view"
    return Scores(
        frames=len(now),
        truth_psnr=float(psnr(drawn, walk.truth[now]).mean()),
        truth_ssim=float(ssim(drawn, walk.truth[now]).mean()),
        first_psnr=float(psnr(drawn, first).mean()) if exact else nan,
        first_ssim=float(ssim(drawn, first).mean()) if exact else nan,
    )


def gain_closed(method: float, window: float, full: float) -> float:
    """(method - window) / (full - window): NaN where full is less than `LEAST_GAP` dB above the window."""
    return (method - window) / (full - window) if full - window >= LEAST_GAP else float("nan")
