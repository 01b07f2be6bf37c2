"""Which generator a session is placed on: those that hold its world's root first, then those with most room."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Load(NamedTuple):
    """What is known of a generator.

    name      in the membership
    sessions  that live on it
    room      for so many more; negative if more were placed since it was asked than it said it would take
    roots     first branches of the lineages of their worlds
    """

    name: str
    sessions: int
    room: int
    roots: Collection[bytes]

    def __str__(self) -> str:
        held = f"{self.sessions} session" + ("" if self.sessions == 1 else "s")
        return f"{self.name} with {held} and room for {max(self.room, 0)}"


def ranked(loads: Iterable[Load], root: bytes | None = None) -> list[Load]:
    """Where a session is to be tried, in this order.

    root  first branch of its world's lineage, which the world's forks share; None: it is not known, or is to be new

    A generator that holds the root goes first if it has room: what was recalled there for one is at hand for all. The
    full ones go last and are not left out: what is known of them may be old.
    """
    return sorted(
        loads,
        key=lambda load: (load.room <= 0, root is None or root not in load.roots, -load.room, load.sessions, load.name),
    )
