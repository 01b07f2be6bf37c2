"""Loads a published model: everything that can be told from headers is, before any weight is read."""

from __future__ import annotations

from pathlib import Path

from services.generator.adapters.wan import vae, weights
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.choosing import planned
from services.generator.adapters.wan.devices import devices, dtype_of, encoder_dtype, missing
from services.generator.adapters.wan.encoders.image import load_image
from services.generator.adapters.wan.encoders.imagining import Imagination
from services.generator.adapters.wan.encoders.text import load_text
from services.generator.adapters.wan.settings import WanSettings
from worldkv.errors import InvalidConfig


def load(name: str, place: Path, settings: WanSettings) -> WanWorldModel:
    """A model by its name, or whichever a folder holds; see `planned` for what is looked for, and where.

    Raises WeightsMissing, WeightsMismatch or InvalidConfig, naming all that lacks or does not fit; what can be told
    without reading weights is told first.
    """
    if lost := missing():
        raise InvalidConfig(f"model = {name!r}: {lost}")
    plan = planned(name, place, settings)
    device, encoder_device = devices(settings)
    decoder = vae.load(plan.vae.path, dtype_of(settings.vae_dtype), device)
    at, dtype = encoder_device, encoder_dtype(settings)
    text = load_text(plan.text.path, plan.tokenizer.path, dtype, at) if plan.text and plan.tokenizer else None
    image = load_image(plan.image.path, dtype, at) if plan.image else None
    imagine = Imagination(plan.variant, plan.grid, decoder, text, image, beside=at != device)
    loaded = weights.load(plan.transformer.path, (plan.variant,), dtype_of(settings.dtype), device)
    return WanWorldModel(loaded.variant, loaded.model, imagine, decoder, loaded.digest, plan.grid)
