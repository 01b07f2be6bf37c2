"""Growing a set of candidates that together show most of a view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput
from worldkv.pose import Matrix
from worldkv.select.seam import TIE, Choice, ranked


@dataclass(frozen=True)
class Worth:
    """When a candidate is worth a slot.

    threshold  abstain: a candidate that adds less than this share of the view is not chosen for what it adds
    fill       unless its score is at least this; None: no exception
    again      worth of showing what is shown already, beside showing what is not, 0..1
    early      how much more the oldest candidate's score is worth than the newest's, -1..1; others lie between, by
               number. Below zero the newest is worth more

    Raises InvalidInput for values out of range.
    """

    threshold: float
    fill: float | None
    again: float
    early: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.early <= 1:
            raise InvalidInput(f"early lies between -1 and 1, got {self.early}")
        for name in ("threshold", "fill", "again"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise InvalidInput(f"{name} is a share between 0 and 1, got {share}")

    def liked(self, score: NDArray[Any], age: NDArray[Any]) -> NDArray[Any]:
        """What scores [n] are worth beside gains; age [n]: 1 for the oldest of all candidates, 0 for the newest."""
        return np.asarray(score * (self.again + self.early * age) if self.early else score * self.again)


def grow(
    rows: NDArray[np.int64], age: Matrix, near: Matrix, missing: Matrix, worth: Worth, k: int, spares: int = 0
) -> list[Choice]:
    """At most k choices, and behind them at most so many spares: each time the candidate of largest gain + liked score.

    rows     [n]: places of the candidates among all that there are
    age      [n]: how old each is among these, see `Worth.liked`
    near     [n, points] 0..1: how well each candidate shows each point of the view
    missing  [points] 0..1: how much of each point is not shown yet

    The score is the mean of near over the points; the gain that of near * missing, and missing falls with each choice
    by the factor 1 - near. Spares are those that would have been chosen first without the choices before them.
    """
    if not len(rows) or k <= 0:
        return []
    score = near.mean(-1)
    relevant = score >= (worth.fill if worth.fill is not None else np.inf)
    liked = worth.liked(score, age)
    first = _gains(near, missing)
    left = np.ones(len(rows), bool)
    chosen: list[Choice] = []

    def best(gains: Matrix) -> tuple[int, bool]:
        """Place of the best that is left, and whether it is worth a slot."""
        good = left & (relevant | ((gains >= worth.threshold) & (gains > 0)))
        place = ranked(np.where(good, gains + liked, -np.inf), 1)[0]
        return place, bool(good[place])

    def take(place: int, gain: float, spare: bool = False) -> None:
        left[place] = False
        parts: Mapping[str, float] = {"alone": float(first[place])}
        chosen.append(Choice(int(rows[place]), float(score[place]), gain, parts, spare))

    while len(chosen) < k:
        gains = _gains(near, missing)
        place, good = best(gains)
        if not good:
            break
        take(place, float(gains[place]))
        missing = missing * (1 - near[place])
    for _ in range(spares):
        place, good = best(first)
        if not good or not first[place]:
            break
        take(place, 0.0, spare=True)
    return chosen


def in_order(near: Matrix, missing: Matrix) -> list[float]:
    """Share of the view that each of some candidates [n, points] adds to what those before it leave of `missing`."""
    gains = []
    for each in near:
        gains.append(float(_gains(each, missing)))
        missing = missing * (1 - each)
    return gains


def _gains(near: Matrix, missing: Matrix) -> Matrix:
    """Share of the view that candidates [n, points] add where `missing` [points] is not yet shown."""
    return np.asarray(np.round(near @ missing / missing.shape[-1], TIE))
