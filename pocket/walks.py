"""Random walks for training: turns, steps and pauses, with frequent returns to where one has been."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from pocket.rooms import Rooms, free_place, slide

TURN = 9.0
"""Fastest turn of a training walk, degrees a latent frame."""
STEP = 0.28
"""Longest step of a training walk, units a latent frame; shorter than a walker's radius."""

Move = tuple[float, float, float]
"""Forward and strafe in units, turn in degrees (right is positive), of one latent frame."""


def camera(x: float, z: float, yaw: float, pitch: float = 0.0) -> NDArray[np.float64]:
    """Camera-to-world matrix [4, 4] at a ground point; yaw to the right and pitch upwards, degrees."""
    cy, sy, cp, sp = cos(radians(yaw)), sin(radians(yaw)), cos(radians(pitch)), sin(radians(pitch))
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    pose[0, 3], pose[2, 3] = x, z
    return pose


def moves(frames: int, rng: np.random.Generator) -> list[Move]:
    """A random script of pieces, where a piece is often undone and a walk often retraced whole."""
    script: list[Move] = []
    undone = 0  # how many of the moves so far a retreat has already taken back
    while len(script) < frames:
        back = len(script) - undone
        chance = rng.random()
        if chance < 0.25 and back > 6:
            length = back
        elif chance < 0.5 and back > 2:
            length = int(rng.integers(3, min(back, 10) + 1))
        else:
            script += [_piece(rng)] * int(rng.integers(3, 11))
            undone = 0
            continue
        script += [(-f, -s, -t) for f, s, t in script[back - length : back][::-1]]
        undone = len(script) - (back - length)
    return script[:frames]


def _piece(rng: np.random.Generator) -> Move:
    kind = rng.random()
    turn = float(rng.choice([-1, 1]) * rng.uniform(0.5, 1) * TURN)
    step = float(rng.uniform(0.5, 1) * STEP)
    if kind < 0.5:
        return (0.0, 0.0, turn)
    if kind < 0.7:
        return (step, 0.0, 0.0)
    if kind < 0.85:
        return (step, 0.0, turn)
    if kind < 0.92:
        return (0.0, float(rng.choice([-1, 1])) * step, 0.0)
    return (0.0, 0.0, 0.0)


def walk(rooms: Rooms, script: list[Move], rng: np.random.Generator) -> NDArray[np.float64]:
    """Poses [frames, 4, 4] of a script begun at a random place, sliding along walls."""
    x, z = free_place(rooms, rng)
    yaw = float(rng.uniform(0, 360))
    poses = []
    for forward, strafe, turn in script:
        poses.append(camera(x, z, yaw))
        yaw += turn
        c, s = cos(radians(yaw)), sin(radians(yaw))
        x, z = slide(rooms, x, z, forward * s + strafe * c, forward * c - strafe * s)
    return np.stack(poses)
