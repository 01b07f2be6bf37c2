"""The published files of a transformer: which model they hold, and its weights.

A model is told by the names and shapes of its weights, and by the sizes that a `config.json` states where they are
not the published ones. Two models that are alike in both have to be told by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.files import (
    Shape,
    Stored,
    about,
    differences,
    made,
    shapes,
    stored,
    told,
    unwrapped,
)
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.sizes import Sizes
from services.generator.adapters.wan.variants import VARIANTS, Variant
from worldkv.errors import InvalidConfig, WeightsMismatch

WIDTHS = ("text_embedding.0.weight", "img_emb.proj.1.weight")
"""Weights whose second axis is the encoder's width, which no published config.json states."""


class Loaded(NamedTuple):
    """A model with its weights.

    digest  of names and values as they are stored, 32 hex digits: the same however they are spread over files
    """

    variant: Variant
    model: WanModel
    digest: str


def load(
    path: Path,
    variants: Collection[Variant] = tuple(VARIANTS.values()),
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    sizes: Sizes | None = None,
) -> Loaded:
    """The model of a file, or of all safetensors files of a folder: the first of `variants` that fits.

    dtype  of the weights in memory, whatever they are stored as
    sizes  that are stated beside them

    Raises WeightsMissing if there is no file, WeightsMismatch if the weights are no model's among the variants.
    """
    tensors = transformer(path)
    with about(path):
        variant = fitting(shapes(tensors), variants, sizes)[0]
    model, digest = made(lambda: WanModel(variant.backbone), tensors, path, dtype, device)
    return Loaded(variant, model.eval().requires_grad_(False), digest)


def transformer(path: Path) -> dict[str, Stored]:
    """All tensors of a transformer's files by their plain names. Raises as `stored` and `unwrapped` do."""
    return unwrapped(stored(path), path)


def fitting(
    found: Mapping[str, Shape], variants: Collection[Variant], sizes: Sizes | None = None
) -> tuple[Variant, ...]:
    """The variants that have exactly these weights: as published or, if none has, at the sizes that are stated.

    At least one; raises WeightsMismatch, telling how the nearest differs, where there is none.
    """
    nearest = list[tuple[int, str]]()
    for versions in (list(variants), _resized(variants, found, sizes)):
        fit = []
        for variant in versions:
            wanted = shapes_of(variant.backbone)
            if wrong := differences(wanted, found):
                nearest.append((len(wrong), f"{variant.name} is nearest, {told(wrong, wanted, found)}"))
            else:
                fit.append(variant)
        if fit:
            return tuple(fit)
    raise WeightsMismatch(f"these are no known model's weights: {min(nearest)[1] if nearest else 'none is known'}")


def _resized(variants: Collection[Variant], found: Mapping[str, Shape], sizes: Sizes | None) -> list[Variant]:
    """The variants at stated sizes, those that can be had at them."""
    versions = list[Variant]()
    if sizes is None:
        return versions
    for variant in variants:
        width = next((found[name][-1] for name in WIDTHS if name in found), variant.backbone.context.width)
        with suppress(InvalidConfig):
            versions.append(replace(variant, backbone=sizes.of(variant.backbone, width)))
    return versions


@cache
def shapes_of(backbone: WanConfig) -> Mapping[str, Shape]:
    """Names and shapes of a transformer's weights, as they are published."""
    with torch.device("meta"):
        return {name: tuple(each.shape) for name, each in WanModel(backbone).state_dict().items()}
