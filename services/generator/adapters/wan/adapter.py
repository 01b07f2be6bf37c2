"""A causal Wan model behind the `WorldModel` seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast, Acts, window_phase
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import MASK_CHANNELS, WanConfig
from services.generator.adapters.wan.layers import Pair
from services.generator.adapters.wan.model import Passed, WanModel
from services.generator.adapters.wan.moves import motion, since_before, wasd
from services.generator.adapters.wan.rotation import Rotation
from services.generator.adapters.wan.state import Lead, WanState, no_past
from services.generator.adapters.wan.vae import VAE
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Conditioning, State
from worldkv.chunk import ModelSpec
from worldkv.codec import Codec
from worldkv.coding import KV, NAMES
from worldkv.errors import InvalidInput
from worldkv.window import View

SEED_BITS = (1 << 63) - 1


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a world is about.

    tokens  [T, width] of the text or image encoder, as many as the model attends to
    given   [n, channels, height, width]: latents of the first picture and of grey after it, until they have settled;
            the last of them stands for all later frames. None for a model that takes no picture
    """

    tokens: Tensor
    given: Tensor | None = None


class Told(NamedTuple):
    """What the passes of a chunk have in common besides the window: see `WanModel.forward`.

    given [B, F, mask and channels, height, width], no channels where the model takes no picture
    """

    given: Tensor
    camera: Tensor | None
    acts: Acts | None
    past: ActionPast | None


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
        c = model.config
        rows, columns = (side // c.patch for side in grid)
        self.spec = ModelSpec(
            model=variant.name,
            weights=weights,
            vae=vae.digest,
            layers=c.layers,
            heads=c.heads,
            head_dim=c.head_dim,
            dtype=NAMES[model.dtype],  # type: ignore[arg-type]
            frame_tokens=rows * columns,
            latent=(c.out_channels, *grid),
            frames=c.frames,
            rope=(c.rope.time, c.rope.height, c.rope.width),
            theta=c.rope.theta,
            kv_sets=1,  # all of them are distilled: no guidance
            view_range=variant.view_range,
            camera_in_keys="none",  # motion since the frame before is all that they are told
        )
        _check(prompt, c, grid)
        self._rotation = Rotation(c.rope, c.frames, rows, columns, self.device)
        self._phase = window_phase(c.actions, c.actions.window, self.device) if c.actions else None
        self._given = None if prompt.given is None else prompt.given.float().to(self.device)
        with torch.inference_mode():
            self._context = model.hear(prompt.tokens[None].to(self.device))

    def start(self) -> WanState:
        return WanState(self.variant.history, self._no_past())

    def generate(self, window: View, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        levels = self.variant.levels
        told, x, further = self.tell(conditions), noise.float(), more_noise(noise, len(levels) - 1)
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
        passed = self.run(latents, 0.0, window, self.tell(conditions), keep=True)
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

    def _no_past(self) -> ActionPast:
        return no_past(self.model.config, self.spec.frame_tokens, self.device, self.model.dtype)

    def tell(self, conditions: Sequence[Conditioning]) -> Told:
        leads = [self._lead(condition) for condition in conditions]
        given = torch.stack([self._picture(lead.begin) for lead in leads])
        walked = [np.concatenate([lead.before, each.poses]) for lead, each in zip(leads, conditions, strict=True)]
        camera = self._camera(walked) if self.model.config.camera else None
        acts, past = self._acts(leads, walked, conditions) if self.model.config.actions else (None, None)
        return Told(given, camera, acts, past)

    def _lead(self, condition: Conditioning) -> Lead:
        if condition.extra:
            return Lead.from_bytes(condition.extra)
        if self.variant.history or self._given is not None:
            raise InvalidInput(f"a chunk of {self.spec.model} is drawn from what led to it, and nothing was given")
        return Lead(0, np.zeros((0, 4, 4)))

    def _picture(self, begin: int) -> Tensor:
        """Mask and latents of the given picture for the chunk that begins at a frame."""
        frames, (_, *cells) = self.spec.frames, self.spec.latent
        if self._given is None:
            return torch.empty(frames, 0, *cells, device=self.device)
        at = torch.arange(begin, begin + frames, device=self.device)
        mask = (at == 0).float()[:, None, None, None].expand(-1, MASK_CHANNELS, *cells)
        return torch.cat([mask, self._given[at.clamp(max=len(self._given) - 1)]], 1)

    def _camera(self, walked: list[np.ndarray]) -> Tensor:
        c, frames, step = self.model.config, self.spec.frames, self.variant.step
        # A world's first frame has none before it: it has not moved.
        whole = [np.concatenate([each[:1], each])[-frames - 1 :] for each in walked]
        moved = np.stack([since_before(each, step) for each in whole])
        keys = np.stack([wasd(motion(each), step) for each in whole])
        assert c.camera, "asked for a camera that the model has not"
        moved_t, keys_t = (torch.from_numpy(each).float().to(self.device) for each in (moved, keys))
        with torch.inference_mode():
            return self.model.look(rays(c.camera, moved_t, keys_t, self.grid, c.patch))

    def _acts(
        self, leads: Sequence[Lead], walked: Sequence[np.ndarray], conditions: Sequence[Conditioning]
    ) -> tuple[Acts, ActionPast]:
        c, frames, dtype = self.model.config.actions, self.spec.frames, self.model.dtype
        assert c, "asked for actions that the model has not"
        assert self.variant.controls, "a model with action modules has controls"
        assert self._phase is not None, "and turns of their window"
        keyboards, mice = [], []
        for lead, poses in zip(leads, walked, strict=True):
            keyboard, mouse = self.variant.controls(motion(poses), self.variant.step, c.pictures)
            rows = rows_read(lead.begin, frames, c.frames, c.pictures) - (lead.begin - len(lead.before) + 1)
            keyboards.append(keyboard[rows.clip(min=0)])
            mice.append(mouse[rows.clip(min=0)].reshape(frames, -1))
        pasts = [self._no_past() if each.state is None else cast(WanState, each.state).past for each in conditions]
        known = np.array(
            [0 if each.state is None else lead.begin for lead, each in zip(leads, conditions, strict=True)]
        )
        valid = torch.from_numpy(np.arange(c.window) >= c.window - frames - known[:, None]).to(self.device)
        keyboard_t, mouse_t = (torch.from_numpy(np.stack(x)).to(self.device, dtype) for x in (keyboards, mice))
        past = ActionPast(*(torch.stack(part, 2) for part in zip(*pasts, strict=True)))
        return Acts(mouse_t, keyboard_t, valid[:, None, None], self._phase), past


def rows_read(begin: int, frames: int, back: int, pictures: int) -> np.ndarray:
    """The latent frame whose action stands in each row that a chunk's frames read: [frames, back * pictures].

    Rows are pictures. Frame i is told of the rows from `back` frames before its last picture up to the row before that
    one; the world's first row stands for those before it.
    """
    ends = pictures * np.arange(begin, begin + frames)
    rows = ends[:, None] + np.arange(-back * pictures, 0)
    return -(-rows.clip(min=0) // pictures)


def more_noise(noise: Tensor, count: int) -> Tensor:
    """More noise for chunks, [count, B, ...]: from their first, and so from seed and chunk number alone."""
    seeds = noise.flatten(1)[:, :2].float().cpu().contiguous().view(torch.int64)[:, 0].tolist()
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & SEED_BITS)
        drawn.append(torch.randn(count, *noise.shape[1:], generator=generator))
    return torch.stack(drawn, 1).to(noise.device)


def _check(prompt: Prompt, config: WanConfig, grid: tuple[int, int]) -> None:
    wanted = (config.context.tokens, config.context.width)
    if tuple(prompt.tokens.shape) != wanted:
        raise InvalidInput(f"a prompt of this model is {wanted}, got {tuple(prompt.tokens.shape)}")
    if (prompt.given is not None) != bool(config.given_channels):
        raise InvalidInput(f"this model takes {'a' if config.given_channels else 'no'} first picture")
    if prompt.given is not None and (not len(prompt.given) or prompt.given.shape[1:] != (config.out_channels, *grid)):
        raise InvalidInput(f"latents of a given picture are {(config.out_channels, *grid)} each, at least one")
    if any(side % config.patch for side in grid):
        raise InvalidInput(f"a grid of latent cells is even by {config.patch}, got {grid}")
