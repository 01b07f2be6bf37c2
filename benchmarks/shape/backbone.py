"""A published model's shape with random weights, made on its device: nothing is read, and nothing passes the host."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.shape.plan import Plan
from benchmarks.wan_vae_small import FILE
from benchmarks.wan_vae_small import random_weights as random_vae_weights
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.prompts import Prompt, fixed
from services.generator.adapters.wan.vae import VAE, LatentsOnly, load
from worldkv.coding import DTYPES


def shaped(plan: Plan) -> WanWorldModel:
    """The model of a plan behind the seam, with a random prompt and first picture."""
    variant, device, dtype = plan.variant, torch.device(plan.device), DTYPES[plan.dtype]
    c = variant.backbone
    model = random_weights(c, device, dtype)
    tokens = torch.randn(c.context.tokens, c.context.width, device=device, dtype=dtype)
    given = torch.randn(2, c.out_channels, *plan.cells, device=device) if c.given_channels else None
    vae = random_vae(plan) if plan.decode else LatentsOnly(c.out_channels)
    return WanWorldModel(variant, model, fixed(Prompt(tokens, given)), vae, "", plan.cells)


def random_weights(config: WanConfig, device: torch.device, dtype: torch.dtype) -> WanModel:
    """A model that keeps its activations finite: weights by the width that they read, no biases, norms of one."""
    with torch.device("meta"):
        model = WanModel(config).to(dtype)
    model.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(std=weights[0].numel() ** -0.5)
            else:
                weights.fill_(float(name.endswith("weight")))
    return model


def random_vae(plan: Plan) -> VAE:
    """A VAE on the plan's device; in float16, as these models use it, where that is no processor."""
    device = torch.device(plan.device)
    with TemporaryDirectory() as folder:
        torch.save(random_vae_weights(), Path(folder, FILE))
        return load(Path(folder, FILE), torch.float32 if device.type == "cpu" else torch.float16, device)
