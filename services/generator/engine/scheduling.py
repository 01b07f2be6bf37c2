"""Whose chunk is drawn next, and with whom: decisions without clock, thread or model.

Whoever runs out of pictures first goes first, and those who can be drawn in the same pass come along. A session that
was just answered often asks again at once: a free model waits for it a moment, so that sessions which began at
different times soon draw in one pass.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from services.generator.drawing import Shape
from services.generator.engine.config import EngineConfig
from worldkv.errors import Conflict

PATIENCE = 10.0
"""Seconds by which a request may be before or behind others by its viewer's pictures. Whoever has waited for twice as
long goes before everybody who comes now, whatever they say."""
GATHER_SHARE = 0.25
"""Of a step's time, that a model which could draw waits for others at most."""
LONG = 4
"""Times `gather_seconds` that a pause counts at most: one long look round is soon forgotten."""
RECENT = 0.25
"""Weight of the newest of some times in their recent mean."""


class Batch(NamedTuple):
    """Who is drawn for together."""

    shape: Shape
    owners: tuple[Hashable, ...]


class _Request(NamedTuple):
    """Sorts by urgency.

    due     when the viewer runs out of pictures, at most `PATIENCE` from `since`
    number  of all requests
    """

    due: float
    number: int
    since: float
    owner: Hashable
    shape: Shape


class _Answered(NamedTuple):
    """A session that does not wait.

    at       when it was answered last
    pause    seconds it takes to ask again, recent mean; 0: not known yet
    """

    at: float
    pause: float
    shape: Shape


class Means:
    """Recent mean time of steps, by how many sessions they drew for."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self.latest = 0.0

    def add(self, sessions: int, seconds: float) -> None:
        self._seconds[sessions] = _mean(self._seconds.get(sessions), seconds)
        self.latest = _mean(self.latest or None, seconds)

    def of(self, sessions: int) -> float:
        """Expected for so many: as measured, else by the next smaller number, or larger; 0: nothing measured yet."""
        if not self._seconds:
            return 0.0
        near = max((n for n in self._seconds if n <= sessions), default=None) or min(self._seconds)
        return self._seconds[near] * max(1.0, sessions / near)


class Schedule:
    """Requests that wait, at most one of each owner; the caller tells what happens and when, on one clock."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._waiting: dict[Hashable, _Request] = {}
        self._answered: dict[Hashable, _Answered] = {}
        self._means: dict[Shape, Means] = {}
        self._count = 0
        self._free_since = 0.0

    def add(self, owner: Hashable, shape: Shape, due: float, now: float) -> None:
        """An owner asks for a chunk. Raises Conflict if it waits for one already."""
        if owner in self._waiting:
            raise Conflict(f"session {owner!r} waits for a chunk already")
        due = min(max(due, now - PATIENCE), now + PATIENCE)
        self._count += 1
        self._waiting[owner] = _Request(due, self._count, now, owner, shape)
        if before := self._answered.get(owner):
            pause = min(now - before.at, LONG * self.config.gather_seconds)
            self._answered[owner] = before._replace(pause=_mean(before.pause or None, pause))

    def cancel(self, owner: Hashable) -> None:
        """An owner does not wait any more."""
        self._waiting.pop(owner, None)

    def forget(self, owner: Hashable) -> None:
        """An owner has gone for good."""
        self.cancel(owner)
        self._answered.pop(owner, None)

    def next(self, now: float) -> Batch | float | None:
        """Who is drawn for now that the model is free: they wait no more. Or when to ask again; None: nobody waits.

        Any change in between is a reason to ask sooner.
        """
        if not self._waiting:
            return None
        first = min(self._waiting.values())
        together = sorted(r for r in self._waiting.values() if r.shape == first.shape)[: self._most(first.shape)]
        until = self._gather_until(together, now)
        if until > now:
            return until
        for request in together:
            del self._waiting[request.owner]
        return Batch(first.shape, tuple(request.owner for request in together))

    def answered(self, batch: Batch, seconds: float, now: float) -> None:
        """A batch was drawn, which took so long."""
        self._free_since = now
        self._means.setdefault(batch.shape, Means()).add(len(batch.owners), seconds)
        for owner in batch.owners:
            before = self._answered.get(owner)
            self._answered[owner] = _Answered(now, before.pause if before else 0.0, batch.shape)

    def failed(self, now: float) -> None:
        """A batch was not drawn."""
        self._free_since = now

    def _most(self, shape: Shape) -> int:
        return 1 if shape.grows else self.config.batch

    def _gather_until(self, together: list[_Request], now: float) -> float:
        """Until when the model had better wait for others: not longer than it takes, nor at anybody else's cost."""
        shape = together[0].shape
        if len(together) == self._most(shape) or len(together) < len(self._waiting):
            return now
        means = self._means.get(shape)
        step = means.of(len(together) + 1) if means else 0.0
        most = min(self.config.gather_seconds, GATHER_SHARE * step)
        ready = max(self._free_since, min(r.since for r in together))
        in_time = [r.due - step for r in together if r.due - step > ready]  # they are not made late
        until = min([ready + most, *in_time])
        return until if any(self._comes(owner, shape, most, until) for owner in self._answered) else now

    def _comes(self, owner: Hashable, shape: Shape, most: float, until: float) -> bool:
        """Whether an owner was answered just now and is likely to ask again in time."""
        found = self._answered[owner]
        return (
            owner not in self._waiting
            and found.shape == shape
            and until - found.at <= 2 * most
            and found.at + found.pause <= until
        )


def _mean(before: float | None, value: float) -> float:
    return value if before is None else before + RECENT * (value - before)
