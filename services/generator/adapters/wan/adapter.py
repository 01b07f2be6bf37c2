"""A causal Wan model behind the `WorldModel` seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast
from services.generator.adapters.wan.model import Passed, WanModel
from services.generator.adapters.wan.prompts import Heard, Imagine, Prompts
from services.generator.adapters.wan.recorded import recorded, recorded_bytes, records
from services.generator.adapters.wan.rotation import Rotation
from services.generator.adapters.wan.state import WanState, carried_bytes, drawing_bytes
from services.generator.adapters.wan.told import Teller, Told
from services.generator.adapters.wan.vae import VAE
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Conditioning, State, Subject
from worldkv.codec import Codec
from worldkv.coding import KV, NAMES
from worldkv.pose import Matrix
from worldkv.window import View

SEED_BITS = (1 << 63) - 1
"""Seeds are not negative."""


class WanWorldModel:
    """Adapter of `WanModel`; see `WorldModel` for the methods.

    imagine  makes the prompt of a world; it is asked when a session begins
    weights  digest of the transformer's weights, hex
    grid     rows and columns of latent cells
    """

    codecs: Mapping[str, tuple[Codec, Codec]] = MappingProxyType({})

    def __init__(
        self, variant: Variant, model: WanModel, imagine: Imagine, vae: VAE, weights: str, grid: tuple[int, int]
    ) -> None:
        self.variant, self.vae, self.grid, self.imagine = variant, vae, grid, imagine
        self.axes = variant.axes
        self.model = model.eval().requires_grad_(False)
        self.device = model.patch_embedding.weight.device
        self.spec = variant.spec(weights, vae.digest, grid, NAMES[model.dtype])
        c = model.config
        self.prompts = Prompts(imagine, model.hear, c, grid, self.device)
        self.teller = Teller(variant, model, self.prompts, grid)
        self.state_bytes = vae.feature_bytes(grid) + carried_bytes(c, self.spec.frame_tokens, model.dtype)
        self._pass = recorded(self.model)
        self._rotation = Rotation(c.rope, c.frames, grid[0] // c.patch, grid[1] // c.patch, self.device)

    def drawing_bytes(self, sessions: int) -> int:
        c, spec, features, vae = self.model.config, self.spec, self.vae.feature_bytes(self.grid), self.vae
        held = 0
        if records(c, self.device):
            held = recorded_bytes(carried_bytes(c, spec.frame_tokens, self.model.dtype), spec.raw_bytes, sessions)
        return held + drawing_bytes(c, spec, features, vae.pictures, vae.pixels, sessions)

    def hear(self, subject: Subject) -> Callable[[], Heard]:
        return self.prompts.hear(subject)

    def start(self, subject: Subject | None = None, begin: int = 0, before: Matrix | None = None) -> WanState:
        heard = None if subject is None else self.hear(subject)()
        fits = partial(self.vae.check, grid=self.grid)
        return WanState(self.variant.history, self.teller.no_past(), self.prompts, fits, heard, begin, before)

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
        # Each is what is seen for as long as its latent frame lasts; the first of a clip lasts one picture. Nothing is
        # known of the pictures before these: they begin a clip of their own.
        return self.vae.encode(torch.cat([pictures[:1], pictures[1:].repeat_interleave(self.vae.pictures, 0)]))

    def encode(self, latents: Tensor, window: View, conditions: Sequence[Conditioning]) -> list[KV]:
        passed = self.run(latents, 0.0, window, self.teller.tell(conditions), keep=True)
        assert passed.kv, "keys and values were asked for"
        for row, condition in enumerate(conditions):
            if condition.state is not None:
                own = passed.acts and ActionPast(*(each[:, :, row] for each in passed.acts))
                cast(WanState, condition.state).advance(condition.poses, own)
        keys, values = passed.kv
        return [KV(keys[:, row], values[:, row]) for row in range(len(latents))]

    def decode(self, states: Sequence[State], latents: Tensor) -> list[Tensor]:
        mine = cast(Sequence[WanState], states)
        pictures, features = self.vae.decode(latents, [state.features for state in mine])
        for state, after in zip(mine, features, strict=True):
            state.features = after
        return pictures

    def run(self, latents: Tensor, time: float, window: View, told: Told, keep: bool) -> Passed:
        """One pass over chunks [B, F, channels, height, width] that are told to be at `time`, 0 to 1000."""
        with torch.inference_mode():
            return self._pass(
                torch.cat([latents, told.given], 2),
                latents.new_full(latents.shape[:2], time),
                self._rotation.at(window.position),
                (window.keys, window.values),
                None if window.whole else window.valid,
                told.context,
                told.camera,
                told.acts,
                told.past,
                keep,
            )


def more_noise(noise: Tensor, count: int) -> Tensor:
    """More noise for chunks, [count, B, ...]: from their first, and so from seed and chunk number alone."""
    seeds = noise.flatten(1)[:, :2].float().cpu().contiguous().view(torch.int64)[:, 0].tolist()
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & SEED_BITS)
        drawn.append(torch.randn(count, *noise.shape[1:], generator=generator))
    return torch.stack(drawn, 1).to(noise.device)
