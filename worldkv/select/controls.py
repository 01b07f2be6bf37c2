"""Selectors that look at nothing: what others are compared with."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from worldkv.select.seam import Choice, Query
from worldkv.views import Candidates


class Random:
    """Any k candidates. The draw is a function of seed, query poses and chunk numbers: there is no hidden state."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        text = self.seed.to_bytes(16, "little", signed=True) + query.poses.tobytes() + candidates.index.tobytes()
        counter = int.from_bytes(blake2b(text, digest_size=16).digest(), "little")
        rng = np.random.Generator(np.random.Philox(key=counter))
        return _choices(rng.permutation(len(candidates)), k, spares)


class Latest:
    """The k newest candidates."""

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        return _choices(np.argsort(-candidates.index, kind="stable"), k, spares)


class Oldest:
    """The k oldest candidates."""

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        return _choices(np.argsort(candidates.index, kind="stable"), k, spares)


class Nothing:
    """No candidate at all: forgetting, through the same code."""

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        return []


def _choices(rows: np.ndarray[tuple[int], np.dtype[np.int64]], k: int, spares: int) -> list[Choice]:
    return [Choice(int(row), 0.0, spare=place >= k) for place, row in enumerate(rows[: max(k + spares, 0)])]
