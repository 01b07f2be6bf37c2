"""What a walker does, frame by frame: actions, the poses they lead to, and the path grammar.

Path grammar (the one of the paper's tool, in latent frames): letters with optional numbers, for example
`R90_L90` or `W2A1_12`.

    R L   turn right or left by so many degrees        (90 if no number)
    W S   walk forward or back by so many units         (1)
    D A   strafe right or left by so many units         (1)
    U J   look up or down by so many degrees            (30)
    _     stand still for so many latent frames         (3)

A number at the end of the last turn also serves the turns before it that have none: `R_L_R_L90`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import atan2, ceil, cos, degrees, radians, sin
from typing import Literal

import numpy as np

from worldkv.errors import InvalidInput, InvalidPose
from worldkv.pose import Matrix, Pose, camera

PITCH_LIMIT = 85.0
"""Degrees a walker may look up or down (LingBot's controller has the same)."""
LEVEL_TOLERANCE = 1e-3
"""How far the axis to a walker's right may leave the horizontal: poses are only as exact as their checks."""
TOKEN = re.compile(r"([RLWSDAUJ_])(\d+(?:\.\d+)?)?")
DEFAULTS = {"W": 1.0, "S": 1.0, "D": 1.0, "A": 1.0, "U": 30.0, "J": 30.0, "_": 3.0}
TURN_DEFAULT = 90.0
MAX_FRAMES = 1_000_000
"""Latent frames of a path, at most."""


Axis = Literal["forward", "strafe", "turn", "look"]
AXES: tuple[Axis, ...] = ("forward", "strafe", "turn", "look")
"""What an action is made of."""


@dataclass(frozen=True)
class Action:
    """One latent frame's motion: units forward and to the right, degrees to the right and upwards."""

    forward: float = 0.0
    strafe: float = 0.0
    turn: float = 0.0
    look: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite([self.forward, self.strafe, self.turn, self.look]).all():
            raise InvalidInput(f"an action is made of finite numbers, got {self}")

    def only(self, axes: Collection[Axis]) -> Action:
        """The same motion along these axes, and none along others."""
        return Action(**{axis: getattr(self, axis) for axis in axes})


Slide = Callable[[float, float, float, float], tuple[float, float]]
"""Collision rule: (x, z, dx, dz) to the new (x, z)."""


def unhindered(x: float, z: float, dx: float, dz: float) -> tuple[float, float]:
    """The rule of a world without walls."""
    return x + dx, z + dz


@dataclass(frozen=True)
class Walker:
    """Where a person stands and looks; yaw and pitch in degrees, the rest in units."""

    x: float
    z: float
    yaw: float = 0.0
    pitch: float = 0.0
    y: float = 0.0

    @classmethod
    def of(cls, pose: Matrix) -> Walker:
        """Who stands at a camera-to-world matrix [4, 4]; yaw is between -180 and 180 degrees.

        Raises InvalidPose for a matrix that is no pose, or whose camera is tilted to a side.
        """
        m = Pose(pose).matrix
        (right_x, right_y, right_z), down_y, forward_y = m[:3, 0], m[1, 1], m[1, 2]
        if abs(right_y) > LEVEL_TOLERANCE or down_y < 0:
            raise InvalidPose(f"a walker's camera is level, got one tilted by {degrees(atan2(right_y, down_y)):.3g}")
        x, y, z = map(float, m[:3, 3])
        return cls(x, z, degrees(atan2(-right_z, right_x)), degrees(atan2(-forward_y, down_y)), y)

    @property
    def pose(self) -> Matrix:
        """Camera-to-world [4, 4] float64."""
        return camera(self.x, self.y, self.z, self.yaw, self.pitch)

    def after(self, action: Action, slide: Slide = unhindered) -> Walker:
        """Where the action leads: turn first, then walk in the ground plane."""
        yaw = self.yaw + action.turn
        pitch = min(PITCH_LIMIT, max(-PITCH_LIMIT, self.pitch + action.look))
        c, s = cos(radians(yaw)), sin(radians(yaw))
        dx = action.forward * s + action.strafe * c
        dz = action.forward * c - action.strafe * s
        x, z = slide(self.x, self.z, dx, dz)
        return Walker(x, z, yaw, pitch, self.y)


@dataclass(frozen=True)
class Pace:
    """How fast a walker is: degrees and units a latent frame, at most."""

    turn: float = 9.0
    step: float = 0.28


def parse_path(path: str, pace: Pace | None = None) -> list[Action]:
    """Actions of a path, one a latent frame, each piece at an even pace.

    Raises InvalidInput at an odd letter, and for a path of more than `MAX_FRAMES`, before it takes memory.
    """
    pace = pace or Pace()
    tokens: list[tuple[str, str | None]] = []
    at = 0
    while at < len(path):
        match = TOKEN.match(path, at)
        if match is None:
            raise InvalidInput(f"path {path!r}: expected one of R L W S D A U J _ at position {at}, got {path[at]!r}")
        tokens.append((match[1], match[2]))
        at = match.end()
    turns = [number for op, number in tokens if op in "RL"]
    default_turn = float(turns[-1]) if turns and turns[-1] else TURN_DEFAULT
    actions: list[Action] = []
    for op, number in tokens:
        amount = float(number) if number else (default_turn if op in "RL" else DEFAULTS[op])
        frames = amount if op == "_" else amount / (pace.step if op in "WSDA" else pace.turn)
        if len(actions) + frames > MAX_FRAMES:
            raise InvalidInput(f"a path has at most {MAX_FRAMES} latent frames, got {path[:80]!r}")
        actions += _piece(op, amount, frames)
    return actions


def _piece(op: str, amount: float, frames_needed: float) -> list[Action]:
    if op == "_":
        return [Action()] * round(amount)
    frames = max(1, ceil(frames_needed - 1e-9))
    each = amount / frames
    return [
        {
            "R": Action(turn=each),
            "L": Action(turn=-each),
            "W": Action(forward=each),
            "S": Action(forward=-each),
            "D": Action(strafe=each),
            "A": Action(strafe=-each),
            "U": Action(look=each),
            "J": Action(look=-each),
        }[op]
    ] * frames


def follow(start: Walker, actions: Sequence[Action], slide: Slide = unhindered) -> list[Walker]:
    """The walker before the first action and after each: one more than there are actions."""
    walkers = [start]
    for action in actions:
        walkers.append(walkers[-1].after(action, slide))
    return walkers
