"""The Wan models small enough for a test, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.prompts import Prompt
from services.generator.adapters.wan.vae import VAE, LatentsOnly
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Subject
from worldkv.rope import Rope

GRID = (4, 6)
"""Rows and columns of latent cells: six tokens a frame."""
GIVEN = 3
"""Latents of the given picture: after them they have settled."""


def small(config: WanConfig) -> WanConfig:
    """The same architecture, of some hundred thousand parameters."""
    actions = config.actions
    return replace(
        config,
        dim=56,
        ffn=64,
        heads=2,
        layers=3,
        sinusoid=32,
        rope=Rope(time=6, height=4, width=4),
        context=replace(config.context, width=16, tokens=5),
        actions=actions and replace(actions, layers=2, heads=2, hidden=16, embedding=8),
    )


def random_model(config: WanConfig, seed: int = 0) -> WanModel:
    """A model whose every weight matters: norms are not left at one, biases not at nought."""
    torch.manual_seed(seed)
    model = WanModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def random_prompt(config: WanConfig, subject: Subject) -> Prompt:
    """A prompt, and first picture, that have nothing in common with those of other subjects."""
    generator = torch.Generator().manual_seed(int.from_bytes(subject.digest[:4], "little"))
    tokens = torch.randn(config.context.tokens, config.context.width, generator=generator)
    given = torch.randn(GIVEN, config.out_channels, *GRID, generator=generator) if config.given_channels else None
    return Prompt(tokens, given)


def random_adapter(variant: Variant, seed: int = 0, vae: VAE | None = None) -> WanWorldModel:
    """A small model of a variant behind the seam; worlds are about random things, by what is said of them."""
    c = small(variant.backbone)
    model, vae = random_model(c, seed), vae or LatentsOnly(c.out_channels)

    def imagine(subject: Subject) -> Callable[[], Prompt]:
        return partial(random_prompt, c, subject)

    return WanWorldModel(replace(variant, backbone=c), model, imagine, vae, f"{seed:032x}", GRID)
