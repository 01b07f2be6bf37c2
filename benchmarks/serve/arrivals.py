"""Who comes when, what for and for how long: drawn once from a seed, whatever the service does."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import chain, cycle
from typing import NamedTuple

from worldkv.actions import Action, parse_path
from worldkv.errors import InvalidInput

TOURS = "tours"
PATHS = {
    "turns": "R90_3L90_3",
    "rounds": "R360_3L360_3",
    "errands": "W2_3R180W2_3R180",
    TOURS: "L90_3R90_3",
}
"""Kinds of walk that go over and over a path: to look away and back, all round, there and back, and where one was shown
round before one walks."""
WANDER = "wander"
"""The kind that goes where it likes."""
KINDS = (*PATHS, WANDER)
TOUR = "R360"
"""What is shown of a world first, on `tours`."""
MIX: Mapping[str, float] = {"turns": 2, "rounds": 1, "errands": 1, WANDER: 2}
LEAST, MOST = 0.25, 3.0
"""Durations lie between these shares of the mean: nobody leaves before there is something to see, and all leave."""


class Visit(NamedTuple):
    """A session that comes.

    at       seconds after the load begins
    kind     of walk
    seconds  of playing after which it leaves
    seed     of its world and its ways
    """

    at: float
    kind: str
    seconds: float
    seed: int

    def actions(self) -> Iterator[Action]:
        """What it does, a latent frame after the other, for ever."""
        return chain.from_iterable(_legs(self.seed)) if self.kind == WANDER else cycle(parse_path(PATHS[self.kind]))


def arrivals(rate: float, seconds: float, mean: float, mix: Mapping[str, float], seed: int) -> list[Visit]:
    """Sessions that arrive within so many seconds: a Poisson process of `rate` a second.

    mean  seconds that a session plays; exponential, but for the shortest and the longest

    Raises InvalidInput for figures that cannot be.
    """
    if rate <= 0 or seconds <= 0 or mean <= 0:
        raise InvalidInput(f"rate {rate}, seconds {seconds} and mean stay {mean} must be above 0")
    check_mix(mix)
    rng, visits, at = random.Random(seed), list[Visit](), 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        (kind,) = rng.choices([*mix], [*mix.values()])
        stay = min(max(rng.expovariate(1 / mean), LEAST * mean), MOST * mean)
        visits.append(Visit(at, kind, stay, rng.randrange(1 << 31)))
    return visits


def parse_mix(words: str) -> dict[str, float]:
    """`turns=2,wander=1`: kinds of walk and how often each is. Raises InvalidInput."""
    mix: dict[str, float] = {}
    for each in words.split(","):
        kind, _, weight = each.strip().partition("=")
        try:
            mix[kind] = float(weight or 1)
        except ValueError as error:
            raise InvalidInput(f"mix {words!r}: {weight!r} is no number") from error
    check_mix(mix)
    return mix


def check_mix(mix: Mapping[str, float]) -> None:
    """Raise InvalidInput for kinds of walk that there are none of, or weights that weigh nothing."""
    if odd := set(mix) - set(KINDS):
        raise InvalidInput(f"walks are of the kinds {', '.join(KINDS)}, got {', '.join(sorted(odd))}")
    if not sum(mix.values()) > 0 or min(mix.values()) < 0:
        raise InvalidInput(f"weights of a mix are from 0, and one above it, got {dict(mix)}")


def _legs(seed: int) -> Iterator[list[Action]]:
    """Turns and steps at random, with looks back."""
    rng = random.Random(seed)
    while True:
        turn = rng.choice((30, 60, 90, 180))
        yield parse_path(
            f"{rng.choice('RL')}{turn}_2" + (f"W{rng.uniform(0.3, 1.5):.2f}" if rng.random() < 0.6 else "")
        )
