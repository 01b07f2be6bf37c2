"""What a session has been told to do and has not done yet: moves, shows and changes in order, and the last hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from torch import Tensor

from worldkv.actions import Action, Walker
from worldkv.errors import OverBudget
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MemoryChange

NUMBERS = 256
"""Numbers of taken messages that are remembered, the newest."""


@dataclass(frozen=True, eq=False)
class Moving:
    """Draw the next chunk; one action, or one a latent frame."""

    actions: tuple[Action, ...]
    number: int = 0
    since: float = field(default_factory=monotonic)


@dataclass(frozen=True, eq=False)
class Showing:
    """Take pictures as the next chunk: coded, as they came, or [pictures, 3, height, width] float32 in 0..1."""

    pictures: tuple[pb.Picture, ...] | Tensor
    walkers: tuple[Walker, ...]
    number: int = 0
    since: float = field(default_factory=monotonic)


@dataclass(frozen=True, eq=False)
class Holding:
    """From the next chunk on do this by itself; no action: do nothing more."""

    action: Action | None
    number: int = 0
    since: float = field(default_factory=monotonic)


@dataclass(frozen=True, eq=False)
class Changing:
    """Remember otherwise from the next chunk on."""

    change: MemoryChange
    number: int = 0
    since: float = field(default_factory=monotonic)


Told = Moving | Showing | Holding | Changing


class Inbox:
    """What a session is to do, and which numbers it has taken.

    most  moves and shows that may wait
    """

    def __init__(self, most: int, numbers: Iterable[int] = ()) -> None:
        self.most = most
        self._waiting: deque[Told] = deque()
        self._taken: dict[int, None] = dict.fromkeys(numbers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of what was taken, the newest last."""
        return tuple(self._taken)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Told | None:
        """The next message, which stays; None if none waits."""
        return self._waiting[0] if self._waiting else None

    def waits(self, number: int) -> bool:
        """Whether a message of this number has not been done yet."""
        return any(each.number == number for each in self._waiting)

    def put(self, told: Told) -> bool:
        """Take a message, unless its number was taken before: then False. Raises OverBudget if too many wait.

        A hold that is followed by a move or another hold before it had an effect has none.
        """
        if told.number and told.number in self._taken:
            return False
        if self._waiting and isinstance(self._waiting[-1], Holding) and isinstance(told, Moving | Holding):
            self._waiting.pop()
        if len(self._waiting) >= self.most:
            raise OverBudget(f"{len(self._waiting)} moves wait to be drawn, as many as may: await what is drawn")
        self._waiting.append(told)
        if told.number:
            self._taken[told.number] = None
            while len(self._taken) > NUMBERS:
                del self._taken[next(iter(self._taken))]
        return True

    def take(self) -> Told:
        """The next message."""
        return self._waiting.popleft()

    def refuse(self, told: Told) -> None:
        """A message came to nothing: it may be sent again."""
        self._taken.pop(told.number, None)

    def clear(self) -> None:
        """Drop what waits; it may be sent again."""
        for told in self._waiting:
            self.refuse(told)
        self._waiting.clear()
