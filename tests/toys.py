"""A very small pocket model with random weights: real rotations, real KV, no training."""

from __future__ import annotations

import torch

from pocket.model import PocketConfig, PocketModel
from services.generator.adapters.pocket import PocketWorldModel
from worldkv.chunk import ModelSpec
from worldkv.rope import Rope

TOY = PocketConfig(height=16, width=24, dim=32, layers=2, heads=2, rope=Rope(4, 2, 2))


def toy_model(seed: int = 0) -> PocketWorldModel:
    torch.manual_seed(seed)
    model = PocketModel(TOY)
    return PocketWorldModel(model, digest=f"{seed:032x}", levels=(1.0, 0.5))


def toy_spec() -> ModelSpec:
    return toy_model().spec
