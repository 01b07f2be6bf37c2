"""What every way of choosing chunks has in common: the question, the answer and the one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, pi
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput, InvalidPose
from worldkv.pose import Matrix, check
from worldkv.views import Candidates

TIE = 9
"""Decimals to which scores are compared: what rounds to the same is a tie, on every machine."""


@dataclass(frozen=True, eq=False)
class Query:
    """What the camera is about to see.

    poses       [frames, 4, 4]: camera-to-world, one a latent frame of the coming chunk, at least one
    fov         horizontal field of view, radians
    aspect      height of the picture over its width
    view_range  how far a view is taken to reach, units
    visible     [frames, 4, 4]: frames that stand in the window anyway (sink and recent), seen through the same lens
    descriptor  [n] float32: what the descriptors of chunks are compared with, by selectors that compare content; empty:
                nothing is known of the content

    Raises InvalidPose, or InvalidInput naming the value that is wrong.
    """

    poses: Matrix
    fov: float
    aspect: float
    view_range: float
    visible: Matrix = field(default_factory=lambda: np.empty((0, 4, 4)))
    descriptor: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        for name in ("poses", "visible"):
            matrices = check(getattr(self, name))
            if matrices.ndim != 3:
                raise InvalidPose(f"{name} of a query have shape [frames, 4, 4], got {matrices.shape}")
            object.__setattr__(self, name, matrices)
        if not len(self.poses):
            raise InvalidInput("a query has at least one pose, got none")
        if not 0 < self.fov < pi:
            raise InvalidInput(f"a field of view lies between 0 and pi radians, got {self.fov}")
        for name in ("aspect", "view_range"):
            if not 0 < getattr(self, name) < inf:
                raise InvalidInput(f"a query's {name} is positive and finite, got {getattr(self, name)}")
        if self.descriptor.dtype != np.float32 or self.descriptor.ndim != 1 or not np.isfinite(self.descriptor).all():
            raise InvalidInput(
                f"a descriptor is finite float32 [n], got {self.descriptor.dtype} {self.descriptor.shape}"
            )


@dataclass(frozen=True)
class Choice:
    """A candidate that was chosen.

    row    its place among the candidates
    score  how well it suits the query, best is 1; comparable between queries only where the selector says so
    gain   share of the coming view that it adds to the window and to the choices before it; 0 for spares, and for
           controls, which look at nothing
    parts  what the score is made of, by name
    spare  True if it stands in only for a choice that proves to be gone
    """

    row: int
    score: float
    gain: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    spare: bool = False


class Selector(Protocol):
    """Chooses the chunks that are worth recalling for a view."""

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        """At most `k` choices, best first, and behind them at most `spares` spares; no candidate twice.

        The same arguments give the same answer. Fewer choices than `k` mean that no further candidate is worth a
        slot; only selectors with a threshold abstain so.
        """
        ...


def ranked(scores: NDArray[np.floating], count: int) -> list[int]:
    """Places of the `count` highest scores [n], best first; of equals the oldest, which has drifted least."""
    cost = -np.round(scores, TIE)
    if not 0 < count < len(cost):
        return [int(place) for place in np.argsort(cost, kind="stable")[: max(count, 0)]]
    last = np.partition(cost, count - 1)[count - 1]
    better = np.flatnonzero(cost < last)
    best = np.concatenate([better, np.flatnonzero(cost == last)[: count - len(better)]])
    return [int(place) for place in best[np.argsort(cost[best], kind="stable")]]
