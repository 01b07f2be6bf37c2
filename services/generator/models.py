"""Which models a generator can be told to load, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from services.generator.adapters.wan.settings import ANY, WanSettings
from services.generator.adapters.wan.variants import VARIANTS
from services.generator.world_model import WorldModel
from worldkv.errors import InvalidConfig

Loader = Callable[[Path | None, WanSettings], WorldModel]


def _pocket(weights: Path | None, _: WanSettings) -> WorldModel:
    from services.generator.adapters.pocket import PocketWorldModel

    return PocketWorldModel.load() if weights is None else PocketWorldModel.load(weights)


def _paced(name: str, weights: Path | None, _: WanSettings) -> WorldModel:
    from services.generator.adapters.paced.adapter import PacedWorldModel
    from services.generator.adapters.paced.shapes import SHAPES

    if weights is not None:
        raise InvalidConfig(f"weights = {weights}: {name} has none")
    return PacedWorldModel(SHAPES[name])


def _wan(name: str, weights: Path | None, settings: WanSettings) -> WorldModel:
    from services.generator.adapters.wan.loading import load

    if weights is None:
        raise InvalidConfig(f"weights: {name} comes without any, expected the folder of the published model")
    return load(name, weights, settings)


MODELS: dict[str, Loader] = {
    "pocket": _pocket,
    "paced-mg2": partial(_paced, "paced-mg2"),
    "paced-lingbot": partial(_paced, "paced-lingbot"),
    **{name: partial(_wan, name) for name in (ANY, *VARIANTS)},
}
"""Loaders by name; they are given a file or folder of weights, None for those that come along, and the settings of
published models."""


def load_model(name: str, weights: Path | None, wan: WanSettings | None = None) -> WorldModel:
    """The model of a name, as `wan` says if it is a published one. Raises InvalidConfig for an unknown one or settings
    that cannot be, WeightsError if its weights cannot be used."""
    if name not in MODELS:
        raise InvalidConfig(f"model = {name!r}: there are {', '.join(sorted(MODELS))}")
    return MODELS[name](weights, wan or WanSettings())
