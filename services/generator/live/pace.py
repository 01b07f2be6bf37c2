"""When the next chunk of a held action is begun, so that it is played in time and is of the newest wish."""

from __future__ import annotations

from collections import deque

RECENT = 8
"""Chunks by whose times it is told how long the next one may take."""
SLOWER, SPARE_SECONDS = 1.5, 0.05
"""Than the slowest of these it may be so much slower; and so long it may be on its way."""


class Pace:
    """Of one session. All times are seconds of one clock.

    playing  for which a chunk is played
    until    when all that was drawn has been played, by a viewer who has had every chunk at once
    """

    def __init__(self, playing: float) -> None:
        self.playing, self.until = playing, 0.0
        self._took: deque[float] = deque(maxlen=RECENT)

    @property
    def due(self) -> float:
        """When the next chunk is to be begun.

        As late as it is still in time, and no earlier than the one before it is played: until then a key that is
        pressed changes that chunk, and not the one after it.
        """
        lead = SLOWER * max(self._took) + SPARE_SECONDS if self._took else self.playing
        return self.until - min(self.playing, lead)

    def hurry(self, now: float) -> None:
        """The next chunk is waited for."""
        self.until = min(self.until, now)

    def drawn(self, now: float, took: float) -> None:
        """A chunk has been drawn, and that took so long."""
        self.until = max(now, self.until) + self.playing
        self._took.append(took)
