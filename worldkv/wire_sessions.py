"""Messages of walks and the nouns they stand for: one conversion at each crossing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeVar

import numpy as np

from worldkv.actions import PITCH_LIMIT, Action, Walker
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix, check
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb

Mode = Literal["worldkv", "window", "full"]
Format = Literal["jpeg", "rgb8", "rgb32f"]
T = TypeVar("T")

MAX_PICTURE_BYTES = 3_000_000
"""Of the picture that a world begins from, as a file: a message has room for it and for all else, in base64 too."""
MODES: dict[Mode, pb.MemoryMode.ValueType] = {
    "worldkv": pb.MEMORY_MODE_WORLDKV,
    "window": pb.MEMORY_MODE_WINDOW,
    "full": pb.MEMORY_MODE_FULL,
}
FORMATS: dict[Format, pb.PictureFormat.ValueType] = {
    "jpeg": pb.PICTURE_FORMAT_JPEG,
    "rgb8": pb.PICTURE_FORMAT_RGB8,
    "rgb32f": pb.PICTURE_FORMAT_RGB32F,
}


@dataclass(frozen=True)
class MemoryChange:
    """What is to change of how a session remembers; None: it stays as it is.

    mode      what stands in the window
    selector  how chunks are chosen for recall
    recalled  chunks recalled at most
    keep      share of a chunk's tokens that is kept, of every frame but its first
    codec     in which chunks are kept from now on
    budget_chunks  of which keys and values are kept at most; 0: no limit
    """

    mode: Mode | None = None
    selector: str | None = None
    recalled: int | None = None
    keep: float | None = None
    codec: str | None = None
    budget_chunks: int | None = None


NO_CHANGE = MemoryChange()


def change_of(message: pb.MemorySettings) -> MemoryChange:
    """What a message changes; InvalidInput for a mode without a meaning, or a share that is none."""
    if message.keep and not 0 < message.keep <= 1:
        raise InvalidInput(f"keep is a share above 0 and up to 1, got {message.keep}")
    return MemoryChange(
        mode=mode_of(message.mode) if message.mode else None,
        selector=message.selector or None,
        recalled=message.recalled if message.HasField("recalled") else None,
        keep=message.keep or None,
        codec=message.codec or None,
        budget_chunks=message.budget_chunks if message.HasField("budget_chunks") else None,
    )


def change_message(change: MemoryChange) -> pb.MemorySettings:
    """InvalidInput for numbers that no message can carry."""
    if change.mode is not None and change.mode not in MODES:
        raise InvalidInput(f"mode is one of {[*MODES]}, got {change.mode!r}")
    if change.keep is not None and not 0 < change.keep <= 1:
        raise InvalidInput(f"keep is a share above 0 and up to 1, got {change.keep}")
    if change.recalled is not None and not 0 <= change.recalled < 1 << 32:
        raise InvalidInput(f"recalled = {change.recalled}: expected 0 to 2^32 - 1")
    return pb.MemorySettings(
        mode=MODES[change.mode] if change.mode else pb.MEMORY_MODE_UNSPECIFIED,
        selector=change.selector or "",
        recalled=change.recalled,
        keep=change.keep or 0.0,
        codec=change.codec or "",
        budget_chunks=None if change.budget_chunks is None else counted("budget_chunks", change.budget_chunks),
    )


def mode_of(message: int) -> Mode:
    """The mode a message names; InvalidInput for a number without a meaning."""
    names: dict[int, Mode] = {n: name for name, n in MODES.items()}
    return _named("mode", names | {pb.MEMORY_MODE_UNSPECIFIED: "worldkv"}, message)


def format_of(message: int) -> Format:
    """The form of pictures a message names; InvalidInput for a number without a meaning."""
    names: dict[int, Format] = {n: name for name, n in FORMATS.items()}
    return _named("format of pictures", names | {pb.PICTURE_FORMAT_UNSPECIFIED: "jpeg"}, message)


def action_of(message: pb.Action) -> Action:
    """The action; InvalidInput for numbers that are not finite."""
    return Action(message.forward, message.strafe, message.turn, message.look)


def action_message(action: Action) -> pb.Action:
    return pb.Action(forward=action.forward, strafe=action.strafe, turn=action.turn, look=action.look)


def walker_of(message: pb.Walker) -> Walker:
    """Where somebody stands; InvalidInput (or InvalidPose) where nobody can."""
    if not isfinite(message.yaw) or not abs(message.pitch) <= PITCH_LIMIT:
        raise InvalidInput(
            f"a walker's yaw is finite and the pitch within {PITCH_LIMIT:g} degrees, got {message.yaw}, {message.pitch}"
        )
    walker = Walker(message.x, message.z, message.yaw, message.pitch, message.y)
    check(walker.pose)
    return walker


def walker_message(walker: Walker) -> pb.Walker:
    return pb.Walker(x=walker.x, y=walker.y, z=walker.z, yaw=walker.yaw, pitch=walker.pitch)


def poses_of(messages: Iterable[chunk_pb2.Pose]) -> Matrix:
    """Poses [poses, 4, 4]; InvalidPose for one that is none."""
    rows = [np.array(message.matrix, np.float64) for message in messages]
    if any(len(row) != 12 for row in rows):
        raise InvalidInput(f"a pose is 12 numbers, got {[len(row) for row in rows]}")
    matrices = np.zeros((len(rows), 4, 4))
    matrices[:, :3] = np.array(rows).reshape(-1, 3, 4)
    matrices[:, 3, 3] = 1
    return check(matrices)


def pose_messages(poses: Matrix) -> list[chunk_pb2.Pose]:
    """Poses [poses, 4, 4] as messages."""
    return [chunk_pb2.Pose(matrix=pose[:3].ravel()) for pose in poses]


def counted(what: str, number: int) -> int:
    """A number that a message can carry; InvalidInput for one below 0 or from 2^64."""
    if not 0 <= number < 1 << 64:
        raise InvalidInput(f"{what} = {number}: expected 0 to 2^64 - 1")
    return number


def watch_id(session: str) -> str:
    """The id by which others may watch a session; the session's own can't be told from it."""
    return "w" + hashlib.sha256(f"worldkv watch{session}".encode()).hexdigest()[:32]


def is_watch_id(session: str) -> bool:
    """Whether an id is one for watching, and not a session's own."""
    return re.fullmatch("w[0-9a-f]{32}", session) is not None


def _named(what: str, names: dict[int, T], number: int) -> T:
    if number not in names:
        raise InvalidInput(f"a {what} is one of {sorted(names)}, got {number}")
    return names[number]
