"""Where a camera will be: forecasts of its poses from the latest ones and from the action that is held.

A camera that keeps its roll is taken for one that somebody walks with: it goes on turning about the vertical (the
world's y axis), looking up or down, and moving along its heading, so that its roll stays exactly as it is. Any other
goes on along the screw of its last motion. A motion that is constant is continued exactly for a chunk, and from then on
ever slower along the same way, because turns and steps come to an end.

What is carried on is the motion of the last frame: on walks it is nearer to what comes than means or medians of
several, which lag behind every turn. A pose that springs out and back is passed over, and so is a last motion so large
that the camera must have been placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, exp, hypot, inf, isfinite, pi, radians
from typing import Literal, NamedTuple, Protocol

import numpy as np

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix, angle, check

LATEST = 6
"""Poses that a forecast looks at."""
LONGEST = 3
"""Chunks ahead that can be asked for."""
EASE = 0.85
"""Speed of each frame after the first chunk, as a share of the frame before."""
JUMP_TURN = radians(60)
"""A camera that turns by more in one frame was placed, not moved."""
JUMP_STEP = 0.25
"""The same of steps, as a share of the view range."""
DOUBT = 0.5
"""What a jump leaves of confidence: the camera may have been placed, or one pose be wrong."""
OBEYED = 0.9
"""An action is believed if the last frame did at least this share of what it asks for."""
ROLL = 1e-3
"""How far the latest rolls may lie apart and still count as one that is kept, radians."""
STEEP = 1e-3
"""Cosine of the pitch from which on heading and roll cannot be told apart."""
WEIGHTS = {"goes on": 0.9, "stops": 0.1}
"""Of the chunks that one hypothesis alone calls for, the share that the next step recalls, on smooth walks."""
HORIZON, FALL = 13.0, 2.6
"""Forecasts of smooth walks hold with probability exp(-(frames / HORIZON)^FALL)."""
BRISK = 0.17
"""Motion of a frame, radians and half view ranges, on such walks; a camera twice as fast is lost twice as soon."""
WANDER = 1.25
"""How far off, radians and half view ranges, an unsteady camera is lost with probability 1 - exp(-1)."""

Motion = Literal["goes on", "stops"]


class Held(Protocol):
    """What an action asks for in one latent frame: to turn first, and then to walk.

    forward, strafe  units along the ground, straight on and to the right
    turn, look       degrees to the right and upwards
    """

    @property
    def forward(self) -> float: ...
    @property
    def strafe(self) -> float: ...
    @property
    def turn(self) -> float: ...
    @property
    def look(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where the camera may be during one coming chunk.

    chunk       how many chunks ahead, from 1
    motion      the hypothesis: it goes on, or it stands still from now on
    poses       [frames, 4, 4] float64, camera-to-world, rigid
    confidence  0..1: the share of such forecasts whose view overlaps the true one by at least half. On smooth walks in
                chunks of three frames it is 0.99, 0.91, 0.75 for 1, 2, 3 chunks ahead; it is less where motion is
                fast or unsteady. The benchmark `idx.predict.pose` holds it against what came true
    weight      0..1: share of the chunks called for by this hypothesis alone that prove to be wanted
    """

    chunk: int
    motion: Motion
    poses: Matrix
    confidence: float
    weight: float


class _Pace(NamedTuple):
    """Motion of one frame.

    step  [3] units along the axes of the camera after the turn; of a camera that is walked with, of its heading
    turn  [3] rotation vector, radians, in the camera; of a camera that is walked with: pitch, yaw, 0
    """

    step: Matrix
    turn: Matrix


def predict(
    poses: Matrix, held: Held | None = None, chunks: int = LONGEST, frames: int = 3, view_range: float = 8.0
) -> list[Forecast]:
    """Forecasts of the next 1 to `chunks` chunks of a camera that goes on, and of the next one if it stops.

    poses       [n, 4, 4]: camera-to-world of the latest latent frames, oldest first; the last `LATEST` are looked at.
                One alone, or equal ones, stay where they are
    held        the action that is held, during the last frame too; None: not known. Turns follow it. Steps and looks
                do unless the last frame did much less: what a wall has stopped does not move now
    frames      latent frames of a chunk
    view_range  how far a view is taken to reach, units: what distances are measured by

    That it stops is not told of a camera that stands still. If the world frame is moved so that its vertical stays,
    forecasts move with it; so they do with any other, to within `ROLL`, where no action is held, the camera turns about
    one axis and does not come to look straight up or down, which ends its looking up or down.

    Raises InvalidPose for poses that are not rigid, InvalidInput for none and for numbers out of range.
    """
    recent = check(poses)
    if recent.ndim != 3 or not len(recent):
        raise InvalidInput(f"a forecast needs poses [frames, 4, 4], at least one, got {recent.shape}")
    if not 1 <= chunks <= LONGEST:
        raise InvalidInput(f"forecasts reach 1 to {LONGEST} chunks ahead, got {chunks}")
    if frames < 1:
        raise InvalidInput(f"a chunk has at least one latent frame, got {frames}")
    if not 0 < view_range < inf:
        raise InvalidInput(f"view_range is a positive number of units, got {view_range}")
    recent = _orthonormal(recent[-LATEST:])
    carried = _carried(recent, view_range)
    walked = _keeps_roll(recent)
    seen = None if carried.first is None else _pace(recent[carried.first], recent[carried.first + 1], walked)
    pace = _blend(seen, held, walked)
    speeds = EASE ** np.maximum(np.arange(chunks * frames) - frames + 1.0, 0)
    way = _follow(recent[-1], pace, speeds, walked).reshape(chunks, frames, 4, 4)
    speed = float(_apart(recent[-1], way[0, 0], view_range))
    sure = [_confidence(carried, speed, i * frames + (frames + 1) / 2) for i in range(chunks)]
    found = [Forecast(i + 1, "goes on", way[i], sure[i], WEIGHTS["goes on"]) for i in range(chunks)]
    if pace.step.any() or pace.turn.any():
        still = np.repeat(recent[-1:], frames, 0)
        sure_still = sure[0] * exp(-((speed * (frames + 1) / 2 / WANDER) ** 2))
        found.append(Forecast(1, "stops", still, sure_still, WEIGHTS["stops"]))
    return found


def _confidence(carried: _Carried, speed: float, ahead: float) -> float:
    """Of a forecast of so many frames ahead, where the camera is taken to go on at `speed`."""
    haste = max(1.0, max(speed, carried.speed) / BRISK)
    return carried.trust * exp(-((haste * ahead / HORIZON) ** FALL) - (carried.unsteady * ahead / WANDER) ** 2)


def _apart(a: Matrix, b: Matrix, view_range: float) -> Matrix:
    """How different rigid motions [..., 4, 4] are: radians, and half view ranges."""
    step = np.linalg.norm(a[..., :3, 3] - b[..., :3, 3], axis=-1)
    return np.asarray(np.hypot(angle(a[..., :3, :3], b[..., :3, :3]), step * 2 / view_range))


def _orthonormal(poses: Matrix) -> Matrix:
    """The same poses [n, 4, 4], their rotations made rotations to the last digit."""
    left, _, right = np.linalg.svd(poses[:, :3, :3])
    exact = np.zeros_like(poses)
    exact[:, :3, :3], exact[:, :3, 3], exact[:, 3, 3] = left @ right, poses[:, :3, 3], 1
    return exact


class _Carried(NamedTuple):
    """Which motion to carry on.

    first     place of its first pose; None: there is none to be trusted
    speed     fastest motion of a frame, see `_apart`, but for jumps
    unsteady  median change of motion from frame to frame
    trust     `DOUBT` after a jump, else 1
    """

    first: int | None
    speed: float = 0.0
    unsteady: float = 0.0
    trust: float = 1.0


def _carried(recent: Matrix, view_range: float) -> _Carried:
    """What to make of the latest poses [n, 4, 4]."""
    motions = np.linalg.inv(recent[:-1]) @ recent[1:]
    if not len(motions):
        return _Carried(None)
    jumps = angle(motions[:, :3, :3], np.eye(3)) > JUMP_TURN
    jumps |= np.linalg.norm(motions[:, :3, 3], axis=-1) > JUMP_STEP * view_range
    speed = float(_apart(motions, np.eye(4), view_range)[~jumps].max(initial=0.0))
    changes = _apart(motions[:-1], motions[1:], view_range)
    unsteady = float(np.median(changes)) if len(changes) else 0.0
    last = len(motions) - 1
    if jumps[last]:
        return _Carried(last - 1 if last and not jumps[last - 1] else None, speed, unsteady, DOUBT)
    if last >= 2:
        before, out, back = motions[last - 2 :]
        if _apart(before @ before, out @ back, view_range) < changes[-1] / 2:
            return _Carried(last - 2, speed, unsteady)
    return _Carried(last, speed, unsteady)


def _keeps_roll(recent: Matrix) -> bool:
    """Whether all of [n, 4, 4] have one roll; not so of a camera that looks straight up or down."""
    rows = recent[:, 1, :2]
    if np.linalg.norm(rows, axis=-1).min() < STEEP:
        return False
    roll = np.arctan2(rows[:, 0], rows[:, 1])
    return bool(np.abs((roll - roll[-1] + pi) % (2 * pi) - pi).max() <= ROLL)


def _headings(rotation: Matrix) -> tuple[float, float, float]:
    """Yaw, pitch and roll, radians: the rotation is that of `camera(yaw, pitch)`, after a roll about the view axis."""
    m = rotation
    return atan2(m[0, 2], m[2, 2]), atan2(-m[1, 2], hypot(m[1, 0], m[1, 1])), atan2(m[1, 0], m[1, 1])


def _pace(before: Matrix, after: Matrix, walked: bool) -> _Pace:
    """The motion from one pose [4, 4] to the next."""
    way = after[:3, 3] - before[:3, 3]
    if not walked:
        return _Pace(after[:3, :3].T @ way, _vector(before[:3, :3].T @ after[:3, :3]))
    (yaw0, pitch0, _), (yaw, pitch, _) = _headings(before), _headings(after)
    turn = (yaw - yaw0 + pi) % (2 * pi) - pi
    return _Pace(_rotation(np.array([0, yaw, 0])).T @ way, np.array([pitch - pitch0, turn, 0]))


def _blend(seen: _Pace | None, held: Held | None, walked: bool) -> _Pace:
    """The motion to expect: what was seen, corrected by what is asked for; None is not known."""
    if held is None:
        return seen or _Pace(np.zeros(3), np.zeros(3))
    asked = np.array([held.strafe, 0, held.forward]), radians(held.look), radians(held.turn)
    if not (np.isfinite(asked[0]).all() and isfinite(asked[1]) and isfinite(asked[2])):
        raise InvalidInput(f"a held action is made of finite numbers, got {held}")
    step, look, turn = asked
    if seen is not None:
        if seen.step @ step < OBEYED * (step @ step):
            step = seen.step
        if seen.turn[0] * look < OBEYED * look**2:
            look = float(seen.turn[0])
    if walked:
        return _Pace(step, np.array([look, turn, 0]))
    return _Pace(step, _vector(_rotation(np.array([0, turn, 0])) @ _rotation(np.array([look, 0, 0]))))


def _follow(start: Matrix, pace: _Pace, speeds: Matrix, walked: bool) -> Matrix:
    """Poses [n, 4, 4] after `start` [4, 4], one for each of the speeds [n], which are shares of the pace."""
    way = np.repeat(start[None], len(speeds), 0)
    along = np.cumsum(speeds)
    if walked:
        yaw, pitch, roll = _headings(start)
        heading = _rotation(np.outer(yaw + along * pace.turn[1], [0, 1, 0]))
        tilt = np.clip(pitch + along * pace.turn[0], -pi / 2, pi / 2)
        way[:, :3, :3] = heading @ _rotation(np.outer(tilt, [1, 0, 0])) @ _rotation(np.array([0, 0, roll]))
    else:
        heading = way[:, :3, :3] = start[:3, :3] @ _rotation(np.outer(along, pace.turn))
    way[:, :3, 3] += np.cumsum(speeds[:, None] * (heading @ pace.step), 0)
    return way


def _rotation(vector: Matrix) -> Matrix:
    """Rotations [..., 3, 3] about vectors [..., 3] by their length, radians."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    size = np.linalg.norm(vector, axis=-1)[..., None, None]
    # sin(s) / s and (1 - cos(s)) / s^2, which numpy's sinc has right at 0 too
    return np.asarray(np.eye(3) + np.sinc(size / pi) * cross + np.sinc(size / (2 * pi)) ** 2 / 2 * cross @ cross)


def _vector(rotation: Matrix) -> Matrix:
    """The vector [3] of a rotation [3, 3] by less than half a turn."""
    m = rotation
    axis = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / 2
    sine = float(np.linalg.norm(axis))
    return axis * (atan2(sine, (np.trace(m) - 1) / 2) / sine if sine else 1.0)
