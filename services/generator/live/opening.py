"""What may be said of a session when it is opened."""

from __future__ import annotations

from dataclasses import dataclass

from services.generator.session import Mode
from worldkv.actions import Walker
from worldkv.wire_sessions import NO_CHANGE, Format, MemoryChange


@dataclass(frozen=True)
class Opening:
    """What is asked for when a session is opened; see `OpenRequest`. None: it was not said."""

    world: str = ""
    at: int | None = None
    scene: str = ""
    seed: int = 0
    start: Walker | None = None
    mode: Mode = "worldkv"
    lockstep: bool = False
    format: Format = "jpeg"
    tour: str = ""
    change: MemoryChange = NO_CHANGE
    judged: bool = False
    fork: bool = False
    picture: bytes = b""
