"""A walk as it was walked, in a file: where it was, and where the walker stood at every latent frame.

{"schema": "worldkv.walk/1", "scene": "rooms:7", "seed": 0, "shown": 39, "walkers": [[x, y, z, yaw, pitch], ...]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, isfinite, radians, sin
from pathlib import Path
from typing import Any

from worldkv.actions import MAX_FRAMES, Action, Walker
from worldkv.errors import InvalidInput

SCHEMA = "worldkv.walk/1"
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class RecordedWalk:
    """Where somebody walked.

    scene    what the world began as, in the model's own words
    seed     of the noise
    shown    latent frames, from the first, whose pictures came from elsewhere; the rest was drawn
    walkers  one a latent frame

    Raises InvalidInput if nothing was walked, or more was shown than there is.
    """

    scene: str
    seed: int
    shown: int
    walkers: tuple[Walker, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.walkers) <= MAX_FRAMES:
            raise InvalidInput(f"a walk has 1 to {MAX_FRAMES} latent frames, got {len(self.walkers)}")
        if not 0 <= self.shown <= len(self.walkers):
            raise InvalidInput(f"shown = {self.shown}: the walk has {len(self.walkers)} latent frames")

    @property
    def actions(self) -> list[Action]:
        """What leads from each place to the next, where nothing is in the way."""
        return [action_between(before, after) for before, after in zip(self.walkers, self.walkers[1:])]


def action_between(before: Walker, after: Walker) -> Action:
    """The action that leads from one place to another, by the shorter turn; who walks keeps their height."""
    turn = (after.yaw - before.yaw + 180) % 360 - 180
    yaw = radians(before.yaw + turn)
    dx, dz = after.x - before.x, after.z - before.z
    return Action(
        forward=dx * sin(yaw) + dz * cos(yaw),
        strafe=dx * cos(yaw) - dz * sin(yaw),
        turn=turn,
        look=after.pitch - before.pitch,
    )


def write_walk(file: Path, walk: RecordedWalk) -> None:
    """Write a walk, over what is there."""
    walkers = [[w.x, w.y, w.z, w.yaw, w.pitch] for w in walk.walkers]
    data = {"schema": SCHEMA, "scene": walk.scene, "seed": walk.seed, "shown": walk.shown, "walkers": walkers}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")


def read_walk(file: Path) -> RecordedWalk:
    """Read a walk. Raises InvalidInput, naming the file, for what is none."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{file} is larger than {MAX_BYTES} bytes: no recorded walk is")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is no recorded walk: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InvalidInput(f"{file} is no recorded walk: expected one with the schema {SCHEMA}")
    try:
        return RecordedWalk(
            _of(str, data, "scene"), _of(int, data, "seed"), _of(int, data, "shown"), (*_walkers(data["walkers"]),)
        )
    except (KeyError, TypeError, InvalidInput) as error:
        raise InvalidInput(f"{file} is no recorded walk: {error}") from error


def _of(kind: type, data: dict[str, Any], name: str) -> Any:
    value = data[name]
    if type(value) is not kind:
        raise InvalidInput(f"{name}: expected {kind.__name__}, got {value!r:.80}")
    return value


def _walkers(rows: Any) -> Iterable[Walker]:
    for row in rows:
        if not (isinstance(row, list) and len(row) == 5 and all(type(v) in (int, float) and isfinite(v) for v in row)):
            raise InvalidInput(f"walkers: expected five finite numbers each, got {row!r:.80}")
        x, y, z, yaw, pitch = map(float, row)
        yield Walker(x, z, yaw, pitch, y)
