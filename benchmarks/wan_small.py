"""The Wan models small enough for a test, with random weights; and their walks as clips, told frame by frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.wan_clip import Clip, WanClip
from services.generator.adapters.wan.adapter import WanWorldModel, more_noise
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import MASK_CHANNELS, ActionConfig, WanConfig
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.moves import motion, since_before, wasd
from services.generator.adapters.wan.told import Prompt
from services.generator.adapters.wan.vae import VAE, LatentsOnly
from services.generator.adapters.wan.variants import Variant
from worldkv.pose import Matrix
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


def random_adapter(variant: Variant, seed: int = 0, vae: VAE | None = None) -> WanWorldModel:
    """A small model of a variant behind the seam, with a random prompt and first picture."""
    c = small(variant.backbone)
    model = random_model(c, seed)
    tokens = torch.randn(c.context.tokens, c.context.width)
    given = torch.randn(GIVEN, c.out_channels, *GRID) if c.given_channels else None
    vae = vae or LatentsOnly(c.out_channels)
    return WanWorldModel(replace(variant, backbone=c), model, Prompt(tokens, given), vae, f"{seed:032x}", GRID)


class ClipWalk:
    """A walk drawn by one pass over the whole clip for every denoise step: nothing is ever evicted, or even cached."""

    def __init__(self, adapter: WanWorldModel) -> None:
        self.variant, self.config, self.prompt = adapter.variant, adapter.model.config, adapter.prompt
        self.clip = WanClip(self.config, adapter.model.state_dict())
        self.latents = torch.empty(0, self.config.out_channels, *GRID)

    def draw(self, poses: Matrix, noise: Tensor) -> Tensor:
        """The next chunk of `noise` [F, channels, height, width]; poses [frames, 4, 4] are those of the walk so far."""
        levels, x = self.variant.levels, noise.double()
        further = more_noise(noise[None], len(levels) - 1)[:, 0].double()
        for i, level in enumerate(levels):
            flow = self.flow(poses, torch.cat([self.latents, x]), level.time)[-len(noise) :]
            clean = x - level.sigma * flow
            if i < len(further):
                x = (1 - levels[i + 1].sigma) * clean + levels[i + 1].sigma * further[i]
        self.latents = torch.cat([self.latents, clean])
        return clean

    def flow(self, poses: Matrix, latents: Tensor, time: float) -> Tensor:
        """Of a clip [frames, channels, height, width] whose last chunk is at `time`, and all before it clean."""
        times = torch.zeros(len(latents))
        times[-self.config.frames :] = time
        x = torch.cat([latents, self._given(len(latents))], 1)
        mouse, keyboard = self._actions(poses) if self.config.actions else (None, None)
        return self.clip.flow(Clip(x, times, self.prompt.tokens, self._rays(poses), mouse, keyboard))

    def _given(self, frames: int) -> Tensor:
        if self.prompt.given is None:
            return torch.empty(frames, 0, *GRID)
        mask = torch.zeros(frames, MASK_CHANNELS, *GRID)
        mask[0] = 1
        settled = self.prompt.given[-1:].expand(max(0, frames - GIVEN), -1, -1, -1)
        return torch.cat([mask, torch.cat([self.prompt.given, settled])[:frames]], 1)

    def _rays(self, poses: Matrix) -> Tensor | None:
        c = self.config
        if c.camera is None:
            return None
        whole = np.concatenate([poses[:1], poses])
        moved = torch.from_numpy(since_before(whole, self.variant.step)).float()
        keys = torch.from_numpy(wasd(motion(whole), self.variant.step)).float()
        return rays(c.camera, moved[None], keys[None], GRID, c.patch)[0]

    def _actions(self, poses: Matrix) -> tuple[Tensor, Tensor]:
        """The rows of actions that each frame reads, cut from one long list of a row a picture."""
        a: ActionConfig | None = self.config.actions
        assert a, "asked for actions of a model without"
        assert self.variant.controls, "a model with action modules has controls"
        keyboard, mouse = self.variant.controls(motion(poses), self.variant.step, a.pictures)
        rows = [part[[0, *np.repeat(np.arange(len(part)), a.pictures)]] for part in (keyboard, mouse)]
        reads = [[max(0, row) for row in range(a.pictures * i - a.rows, a.pictures * i)] for i in range(len(poses))]
        read_keys, read_mouse = (torch.from_numpy(part[reads]).float() for part in rows)
        return read_mouse.flatten(1), read_keys
