"""A viewer, without I/O: chunks come, are played one after the other at the world's pace, and moves fall due."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


class Played(NamedTuple):
    """What became of one move.

    chunk    its place in the session, from 0
    latency  seconds from when the move was due until its chunk was there
    action   seconds from when the move was due until its first picture was shown
    stall    seconds that the viewer looked at the last picture of the chunk before, waiting
    """

    chunk: int
    latency: float
    action: float
    stall: float


@dataclass
class Viewer:
    """Plays chunks of `playing` seconds each, in the order in which their moves were made; all times are of one clock.

    lead  chunks by which moves run ahead of what is shown: the move for chunk n is made when chunk n - lead begins to
          be shown. More of them hide a slow service, and make it answer keys later

    The first chunk is shown when it comes; its move, and those of the chunks that run ahead of it, are due at `begun`.
    """

    playing: float
    lead: int
    begun: float
    played: int = 0
    stalled: float = 0.0
    _until: float | None = None

    def __post_init__(self) -> None:
        self._due: deque[float] = deque([self.begun] * self.lead)

    @property
    def waiting(self) -> int:
        """Moves that were due and have no chunk yet."""
        return len(self._due)

    def came(self, now: float) -> Played:
        """The chunk of the oldest move is here. A move more is due, at `next_due`."""
        due = self._due.popleft()
        planned = now if self._until is None else self._until
        shown = max(now, planned)
        stall, self._until = shown - planned, shown + self.playing
        self._due.append(shown)
        self.played, self.stalled = self.played + 1, self.stalled + stall
        return Played(self.played - 1, now - due, shown - due, stall)

    @property
    def next_due(self) -> float:
        """When the newest move is due."""
        return self._due[-1]

    def overdue(self, now: float) -> list[float]:
        """Of moves without a chunk, how long they have been due."""
        return [now - due for due in self._due if due <= now]
