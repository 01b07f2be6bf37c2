"""A causal Wan model behind the `WorldModel` seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast
from services.generator.adapters.wan.layers import Pair
from services.generator.adapters.wan.model import Passed, WanModel
from services.generator.adapters.wan.rotation import Rotation
from services.generator.adapters.wan.state import WanState
from services.generator.adapters.wan.told import Prompt, Teller, Told
from services.generator.adapters.wan.vae import VAE
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Conditioning, State
from worldkv.codec import Codec
from worldkv.coding import KV, NAMES
from worldkv.pose import Matrix
from worldkv.window import View

SEED_BITS = (1 << 63) - 1
"""Seeds are not negative."""


class WanWorldModel:
    """Adapter of `WanModel`; see `WorldModel` for the methods. One prompt serves all its sessions.

    weights  digest of the transformer's weights, hex
    grid     rows and columns of latent cells
    """

    codecs: Mapping[str, tuple[Codec, Codec]] = MappingProxyType({})

    def __init__(
        self, variant: Variant, model: WanModel, prompt: Prompt, vae: VAE, weights: str, grid: tuple[int, int]
    ) -> None:
        self.variant, self.vae, self.grid, self.prompt = variant, vae, grid, prompt
        self.model = model.eval().requires_grad_(False)
        self.device = model.patch_embedding.weight.device
        self.spec = variant.spec(weights, vae.digest, grid, NAMES[model.dtype])
        self.teller = Teller(variant, model, prompt, grid)
        c = model.config
        self._rotation = Rotation(c.rope, c.frames, grid[0] // c.patch, grid[1] // c.patch, self.device)
        with torch.inference_mode():
            self._context = model.hear(prompt.tokens[None].to(self.device))

    def start(self, begin: int = 0, before: Matrix | None = None) -> WanState:
        return WanState(self.variant.history, self.teller.no_past(), begin, before)

    def generate(self, window: View, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        levels = self.variant.levels
        told, x, further = self.teller.tell(conditions), noise.float(), more_noise(noise, len(levels) - 1)
        for i, level in enumerate(levels):
            flow = self.run(x, level.time, window, told, keep=False).flow
            clean = x.double() - level.sigma * flow.double()
            if i < len(further):
                sigma = levels[i + 1].sigma
                x = ((1 - sigma) * clean + sigma * further[i]).float()
        return clean.float()

    def see(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures)

    def encode(self, latents: Tensor, window: View, conditions: Sequence[Conditioning]) -> list[KV]:
        passed = self.run(latents, 0.0, window, self.teller.tell(conditions), keep=True)
        assert passed.kv, "keys and values were asked for"
        for row, condition in enumerate(conditions):
            if condition.state is not None:
                own = passed.acts and ActionPast(*(each[:, :, row] for each in passed.acts))
                cast(WanState, condition.state).advance(condition.poses, own)
        keys, values = passed.kv
        return [KV(keys[:, row], values[:, row]) for row in range(len(latents))]

    def decode(self, states: Sequence[State], latents: Tensor) -> Tensor:
        mine = cast(Sequence[WanState], states)
        pictures, features = self.vae.decode(latents, [state.features for state in mine])
        for state, after in zip(mine, features, strict=True):
            state.features = after
        return pictures

    def run(self, latents: Tensor, time: float, window: View, told: Told, keep: bool) -> Passed:
        """One pass over chunks [B, F, channels, height, width] that are told to be at `time`, 0 to 1000."""
        with torch.inference_mode():
            return self.model(
                torch.cat([latents, told.given], 2),
                latents.new_full(latents.shape[:2], time),
                self._rotation.at(window.position),
                (window.keys, window.values),
                None if window.whole else window.valid,
                self._shared(len(latents)),
                told.camera,
                told.acts,
                told.past,
                keep,
            )

    def _shared(self, batch: int) -> list[Pair]:
        """The one context for every row of a batch; nothing is copied."""
        return [(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in self._context]


def more_noise(noise: Tensor, count: int) -> Tensor:
    """More noise for chunks, [count, B, ...]: from their first, and so from seed and chunk number alone."""
    seeds = noise.flatten(1)[:, :2].float().cpu().contiguous().view(torch.int64)[:, 0].tolist()
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & SEED_BITS)
        drawn.append(torch.randn(count, *noise.shape[1:], generator=generator))
    return torch.stack(drawn, 1).to(noise.device)
