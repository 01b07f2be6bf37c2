"""Which models a generator can be told to load, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.generator.world_model import WorldModel
from worldkv.errors import InvalidConfig


def _pocket(weights: Path | None) -> WorldModel:
    from services.generator.adapters.pocket import PocketWorldModel

    return PocketWorldModel.load() if weights is None else PocketWorldModel.load(weights)


MODELS: dict[str, Callable[[Path | None], WorldModel]] = {"pocket": _pocket}
"""Loaders by name; they are given a file or folder of weights, None for those that come along."""


def load_model(name: str, weights: Path | None) -> WorldModel:
    """The model of a name. Raises InvalidConfig for an unknown one, WeightsError if its weights cannot be used."""
    if name not in MODELS:
        raise InvalidConfig(f"model = {name!r}: there are {', '.join(sorted(MODELS))}")
    return MODELS[name](weights)
