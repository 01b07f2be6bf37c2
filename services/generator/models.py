"""Which models a generator can be told to load, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from services.generator.world_model import WorldModel
from worldkv.errors import InvalidConfig


def _pocket(weights: Path | None) -> WorldModel:
    from services.generator.adapters.pocket import PocketWorldModel

    return PocketWorldModel.load() if weights is None else PocketWorldModel.load(weights)


def _paced(name: str, weights: Path | None) -> WorldModel:
    from services.generator.adapters.paced.adapter import PacedWorldModel
    from services.generator.adapters.paced.shapes import SHAPES

    if weights is not None:
        raise InvalidConfig(f"weights = {weights}: {name} has none")
    return PacedWorldModel(SHAPES[name])


MODELS: dict[str, Callable[[Path | None], WorldModel]] = {
    "pocket": _pocket,
    "paced-mg2": partial(_paced, "paced-mg2"),
    "paced-lingbot": partial(_paced, "paced-lingbot"),
}
"""Loaders by name; they are given a file or folder of weights, None for those that come along."""


def load_model(name: str, weights: Path | None) -> WorldModel:
    """The model of a name. Raises InvalidConfig for an unknown one, WeightsError if its weights cannot be used."""
    if name not in MODELS:
        raise InvalidConfig(f"model = {name!r}: there are {', '.join(sorted(MODELS))}")
    return MODELS[name](weights)
