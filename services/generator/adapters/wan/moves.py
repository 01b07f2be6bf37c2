"""From camera poses to what the models are told: motion, and the keys and the mouse that stand for it.

The service knows poses; Matrix-Game-2.0 knows keys and mouse, LingBot's act variant knows keys. Both are read off the
motion between latent frames, so that a chunk is told the same whether it is drawn or made again from its poses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldkv.pose import Matrix

Numbers = NDArray[np.float64]
HELD = 0.1
"""Share of full speed from which on a key counts as held."""
MOUSE_DEGREES = 15.0
"""Degrees a picture turns at one unit of the mouse (Matrix-Game 3's controller)."""
MOUSE_LIMIT = 0.1
"""Units of the mouse that Matrix-Game-2.0 was trained with, at most."""


class Motion(NamedTuple):
    """What each latent frame did since the one before it, arrays [frames].

    forward, right, up  units, in the ground plane of where the camera looks now, and above it
    turn, look          degrees to the right and upwards
    """

    forward: Numbers
    right: Numbers
    up: Numbers
    turn: Numbers
    look: Numbers


def motion(poses: Matrix) -> Motion:
    """Motion of all poses but the first: camera-to-world [frames + 1, 4, 4], y down."""
    ahead, moved = poses[:, :3, 2], np.diff(poses[:, :3, 3], axis=0)
    yaw = np.arctan2(ahead[:, 0], ahead[:, 2])
    pitch = np.arcsin(np.clip(-ahead[:, 1], -1, 1))
    sine, cosine = np.sin(yaw[1:]), np.cos(yaw[1:])
    return Motion(
        forward=moved[:, 0] * sine + moved[:, 2] * cosine,
        right=moved[:, 0] * cosine - moved[:, 2] * sine,
        up=-moved[:, 1],
        turn=np.degrees((np.diff(yaw) + np.pi) % (2 * np.pi) - np.pi),
        look=np.degrees(np.diff(pitch)),
    )


def since_before(poses: Matrix, step: float) -> Matrix:
    """All poses but the first as seen from the one before, [frames, 4, 4]; moves are shares of `step` units."""
    relative = np.linalg.inv(poses[:-1]) @ poses[1:]
    relative[:, :3, 3] /= step
    return relative


def held(share: Numbers) -> Numbers:
    """1 where a key stands for this share of full speed, else 0."""
    return (share > HELD).astype(np.float64)


def wasd(moved: Motion, step: float) -> Numbers:
    """Held keys of LingBot, [frames, 4]: forward, left, back, right."""
    forward, right = moved.forward / step, moved.right / step
    return np.stack([held(forward), held(-right), held(-forward), held(right)], -1)


Controls = Callable[[Motion, float, int], tuple[Numbers, Numbers]]
"""Motion, units a frame at full speed and pictures a frame, to keyboard [frames, keys] and mouse [frames, axes]."""


def walking(moved: Motion, step: float, pictures: int) -> tuple[Numbers, Numbers]:
    """Matrix-Game-2.0 universal: forward, back, left, right; mouse up and to the right."""
    forward, right = moved.forward / step, moved.right / step
    keys = np.stack([held(forward), held(-forward), held(-right), held(right)], -1)
    return keys, np.stack([_mouse(moved.look, pictures), _mouse(moved.turn, pictures)], -1)


def driving(moved: Motion, step: float, pictures: int) -> tuple[Numbers, Numbers]:
    """Matrix-Game-2.0 GTA: forward, back; steering is the mouse to the right, it never looks up."""
    forward = moved.forward / step
    keys = np.stack([held(forward), held(-forward)], -1)
    return keys, np.stack([np.zeros_like(forward), _mouse(moved.turn, pictures)], -1)


def running(moved: Motion, step: float, pictures: int) -> tuple[Numbers, Numbers]:
    """Matrix-Game-2.0 TempleRun: one of nothing, jump, slide, turn left or right, step left or right; no mouse."""
    turn = _mouse(moved.turn, pictures) / MOUSE_LIMIT
    up, right = moved.up / step, moved.right / step
    wanted = np.stack([np.full_like(turn, HELD), up, -up, -turn, turn, -right, right], -1)
    keys = np.eye(wanted.shape[-1])[wanted.argmax(-1)]
    return keys, np.zeros((len(turn), 0))


def _mouse(degrees: Numbers, pictures: int) -> Numbers:
    return np.clip(degrees / pictures / MOUSE_DEGREES, -MOUSE_LIMIT, MOUSE_LIMIT)
