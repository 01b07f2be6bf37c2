"""How long a call may take, and how it goes on when a shard does not answer: the only place that retries."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeVar

from worldkv.errors import DeadlineExceeded, InvalidConfig, Unavailable


class Deadline:
    """The moment at which a call has to end, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._end - monotonic()

    @property
    def passed(self) -> bool:
        return self.remaining <= 0

    def require(self, what: str) -> float:
        """Seconds left, more than none. Raises DeadlineExceeded, naming `what` is not done."""
        if (remaining := self.remaining) <= 0:
            raise DeadlineExceeded(f"{what} was not done within {self.seconds:g} s")
        return remaining


@dataclass(frozen=True)
class Retry:
    """When to ask again a shard that did not answer. All calls may be repeated: putting what is held changes nothing.

    attempts       calls in all, at least 1
    first_seconds  wait before the second one; each further wait is twice as long. All are drawn between half and
                   the whole of that, so that many clients do not return at once
    rest_seconds   that a shard is left alone for when the attempts are used up, or when it gave no sign of life

    Raises InvalidConfig for values out of range.
    """

    attempts: int = 3
    first_seconds: float = 0.02
    rest_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidConfig(f"retry.attempts = {self.attempts}: expected at least 1")
        for name in ("first_seconds", "rest_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidConfig(f"retry.{name} = {getattr(self, name)}: expected seconds from 0")

    def waits(self) -> Iterable[float]:
        """Seconds to wait before each attempt; the first is 0."""
        yield 0.0
        for attempt in range(self.attempts - 1):
            yield self.first_seconds * 2**attempt * random.uniform(0.5, 1)


class Resting(Protocol):
    """Whoever can be asked, and may have to be left alone."""

    @property
    def resting(self) -> bool: ...


K = TypeVar("K")
S = TypeVar("S", bound=Resting)


async def walk(
    routes: Mapping[K, Sequence[S]],
    ask: Callable[[S, list[K]], Awaitable[None]],
    done: Callable[[K], bool],
    retry: Retry,
    deadline: Deadline,
) -> None:
    """Ask shards about keys until every key is done or has nobody left to ask, or the deadline has passed.

    routes  whom to ask about a key, in this order
    ask     one call about several keys; raises Unavailable if the shard does not answer, and what it raises else
            ends the walk
    done    whether a key needs nobody any more

    A wave asks every key's next shard, all shards at once. Who did not answer is asked again at the end, if the
    policy allows: by then another shard may have had the key.
    """
    for wait in retry.waits():
        if wait:
            await asyncio.sleep(max(min(wait, deadline.remaining), 0))
        again: dict[K, list[S]] = defaultdict(list)
        left = {key: list(route) for key, route in routes.items()}
        while not deadline.passed and (wave := _wave(left, done)):
            for shard, keys in await _silent(ask, wave):
                for key in keys:
                    again[key].append(shard)
        routes = {
            key: route
            for key, shards in again.items()
            if not done(key) and (route := [shard for shard in shards if not shard.resting])
        }
        if not routes or deadline.passed:
            return


async def _silent(
    ask: Callable[[S, list[K]], Awaitable[None]], wave: Sequence[tuple[S, list[K]]]
) -> list[tuple[S, list[K]]]:
    """Ask all of a wave at once; answers those who did not answer. What else they raise is raised when all ended."""
    if len(wave) == 1:  # no task for it: it would cost as much as a quarter of a small call
        try:
            await ask(*wave[0])
        except Unavailable:
            return [*wave]
        return []
    outcomes = await asyncio.gather(*(ask(shard, keys) for shard, keys in wave), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Unavailable):
            raise outcome
    return [each for each, outcome in zip(wave, outcomes, strict=True) if outcome is not None]


def _wave(left: dict[K, list[S]], done: Callable[[K], bool]) -> list[tuple[S, list[K]]]:
    """The next shard of every key that still needs one, taken off `left`."""
    groups: dict[int, tuple[S, list[K]]] = {}
    for key, route in left.items():
        if route and not done(key):
            shard = route.pop(0)
            groups.setdefault(id(shard), (shard, []))[1].append(key)
    return list(groups.values())


T = TypeVar("T")


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """What several calls give that run at once; if one raises, the others are cancelled and that is raised."""

    async def one(call: Awaitable[T]) -> T:
        return await call

    calls = [*calls]
    if len(calls) == 1:
        return [await calls[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(call)) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
