"""A circuit breaker: after a failure nobody waits for a server that is gone, until it was heard of again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from worldkv.errors import Unavailable


class Breaker:
    """Whether a server answers. It opens at the first failure, and closes when somebody who asked had an answer.

    first_seconds, longest_seconds  pauses between questions: doubling from the first up to the longest
    trips                           times it opened since it was made
    """

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._reason = ""
        self.trips = 0

    @property
    def open(self) -> bool:
        """True while calls are refused."""
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Why it is open; empty if it is not."""
        return self._reason

    def check(self) -> None:
        """Raise Unavailable, with the reason, while it is open."""
        if self._reason:
            raise Unavailable(self._reason)

    def trip(self, reason: str) -> bool:
        """Open it; answers whether it was closed. The newest reason is what is told."""
        was_closed, self._reason = not self._reason, reason or "gone"
        self.trips += was_closed
        return was_closed

    def close(self) -> None:
        """The server answered."""
        self._reason = ""

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each next question, without end."""
        return (min(self._longest, self._first * 2.0 ** min(n, 60)) for n in count())
