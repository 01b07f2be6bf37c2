"""Which chunks are worth recalling for a view: the `Selector` seam and its implementations.

| name | chooses |
| --- | --- |
| `pose` | nearest poses: the paper's rule |
| `fov` | largest overlap of views, each candidate for itself |
| `coverage` | the set that shows most of what the window lacks; abstains |
| `coverage_early`, `coverage_late` | as `coverage`; of views as good the older, or the newer |
| `greedy` | the set that shows most, nothing twice and however little it adds |
| `visibility` | as `coverage`, but what a chunk's own depth maps hide it does not show |
| `greedy_visibility` | as `greedy`, with depth maps likewise |
| `attention` | descriptors nearest the query's: content instead of place |
| `random`, `latest`, `oldest`, `nothing` | controls |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldkv.errors import InvalidInput
from worldkv.select.attention import Attention
from worldkv.select.controls import Latest, Nothing, Oldest, Random
from worldkv.select.likeness import Likeness, likenesses
from worldkv.select.overlap import FINE, Coverage, Fov
from worldkv.select.pose import Pose
from worldkv.select.seam import Choice, Query, Selector
from worldkv.select.visibility import Visibility
from worldkv.views import Candidates

__all__ = [
    "SELECTORS",
    "Attention",
    "Candidates",
    "Choice",
    "Coverage",
    "Fov",
    "Latest",
    "Likeness",
    "Nothing",
    "Oldest",
    "Pose",
    "Query",
    "Random",
    "Selector",
    "Visibility",
    "likenesses",
    "make_selector",
]

ONCE: dict[str, Any] = {"threshold": 0, "fill": None, "again": 0, "close": 0, "grid": FINE}
"""Options of `Coverage` by which nothing is worth showing twice, and the least addition is worth a slot."""

SELECTORS: dict[str, Callable[[int], Selector]] = {
    "pose": lambda seed: Pose(),
    "fov": lambda seed: Fov(),
    "coverage": lambda seed: Coverage(),
    "coverage_early": lambda seed: Coverage(early=0.3),
    "coverage_late": lambda seed: Coverage(early=-0.3),
    "greedy": lambda seed: Coverage(**ONCE),
    "visibility": lambda seed: Visibility(),
    "greedy_visibility": lambda seed: Visibility(**ONCE),
    "attention": lambda seed: Attention(),
    "random": Random,
    "latest": lambda seed: Latest(),
    "oldest": lambda seed: Oldest(),
    "nothing": lambda seed: Nothing(),
}
"""Factories by name; they are given a seed, which only `random` uses."""


def make_selector(name: str, seed: int = 0) -> Selector:
    """The selector of a name with its default options, or InvalidInput if there is none."""
    if name not in SELECTORS:
        raise InvalidInput(f"no selector is named {name!r}; there are {', '.join(SELECTORS)}")
    return SELECTORS[name](seed)
