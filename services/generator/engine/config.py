"""What an engine can be told."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from worldkv.errors import InvalidConfig


@dataclass(frozen=True)
class EngineConfig:
    """How many sessions are drawn for, and how.

    batch           sessions that one pass of the model draws for at most
    gather_seconds  that a free model waits for sessions which were just answered to come along, at most. It never
                    waits for one that is known to take longer, nor for more than a quarter of a step
    rows            of a window that sessions of one shape share, at least as many as `batch`; if there are more
                    sessions, those drawn least recently make room, and their chunks are moved in again when they draw
    resident_bytes  of windows, of the uncoded chunks that stand in them, of the model's states, of what is there of
                    chunks while they are drawn and, unless it is a processor, of chunks at hand, on its device; 0: no
                    limit
    most_sessions   that are admitted
    round_seconds   within which every session gets a chunk where all draw at once: beyond that, by the measured time
                    of a step, no more sessions are admitted; 0: no limit

    Raises InvalidConfig naming the value that is out of range.
    """

    batch: int = 4
    gather_seconds: float = 0.25
    rows: int = 8
    resident_bytes: int = 8 << 30
    most_sessions: int = 64
    round_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name in ("batch", "most_sessions"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"engine.{name} must be at least 1, got {getattr(self, name)}")
        if self.rows < self.batch:
            raise InvalidConfig(f"engine.rows must be at least engine.batch ({self.batch}), got {self.rows}")
        if self.resident_bytes < 0:
            raise InvalidConfig(f"engine.resident_bytes must not be negative, got {self.resident_bytes}")
        for name in ("gather_seconds", "round_seconds"):
            if not 0 <= getattr(self, name) < inf:
                raise InvalidConfig(f"engine.{name} = {getattr(self, name)}: expected seconds from 0")
