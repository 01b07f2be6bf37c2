"""Which shards there are is counted elsewhere; a shard only remembers the highest number it has seen."""

from __future__ import annotations

from worldkv.errors import Outdated


class Membership:
    """Refuses writes that were routed by an older membership than others.

    number  the highest that was seen; 0: none
    """

    def __init__(self) -> None:
        self.number = 0

    def see(self, number: int) -> None:
        """There is a membership of this number."""
        self.number = max(self.number, number)

    def check(self, given: int) -> None:
        """Raise Outdated for an older number than was seen; 0 is from somebody who does not route."""
        if given and given < self.number:
            raise Outdated(f"routed by membership {given}, but {self.number} was seen")
        self.see(given)
