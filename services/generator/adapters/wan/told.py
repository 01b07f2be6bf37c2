"""What a chunk's passes are told besides the window: the first picture, the camera, the actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast, Acts, window_phase
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import MASK_CHANNELS, ActionConfig, CameraConfig, WanConfig
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.moves import Controls, motion, since_before, wasd
from services.generator.adapters.wan.state import Lead, WanState, no_past
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Conditioning
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix


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


class Teller:
    """Turns what sessions know of their chunks into what a model is told.

    grid  rows and columns of latent cells

    Raises InvalidInput for a prompt that does not fit the model.
    """

    def __init__(self, variant: Variant, model: WanModel, prompt: Prompt, grid: tuple[int, int]) -> None:
        c = model.config
        _check(prompt, c, grid)
        self.variant, self.model, self.grid = variant, model, grid
        self.device = model.patch_embedding.weight.device
        self._given = None if prompt.given is None else prompt.given.float().to(self.device)
        self._phase = window_phase(c.actions, self.device) if c.actions else None

    def no_past(self) -> ActionPast:
        """Empty caches of the action modules, of one session."""
        c = self.model.config
        return no_past(c, self.grid[0] * self.grid[1] // c.patch**2, self.device, self.model.dtype)

    def tell(self, conditions: Sequence[Conditioning]) -> Told:
        """Raises InvalidInput if a condition does not say what led to its chunk, and the model asks for it."""
        c, variant = self.model.config, self.variant
        leads = [self._lead(condition) for condition in conditions]
        walked = [np.concatenate([lead.before, each.poses]) for lead, each in zip(leads, conditions, strict=True)]
        given = torch.stack([self._picture(lead.begin) for lead in leads])
        camera = self._camera(c.camera, walked) if c.camera else None
        if c.actions is None or variant.controls is None:
            return Told(given, camera, None, None)
        # A chunk that is made again outside a walk is told what was done, and has no past to remember it by.
        states = [cast(WanState, each.state) if each.state else WanState(0, self.no_past()) for each in conditions]
        past = ActionPast(*(torch.stack(part, 2) for part in zip(*(state.past for state in states), strict=True)))
        known = [state.known for state in states]
        return Told(given, camera, self._acts(c.actions, variant.controls, leads, walked, known), past)

    def _lead(self, condition: Conditioning) -> Lead:
        if condition.extra:
            return Lead.from_bytes(condition.extra)
        if self.variant.history or self._given is not None:
            raise InvalidInput(f"a chunk of {self.variant.name} is drawn from what led to it, and nothing was given")
        return Lead(0, np.zeros((0, 4, 4)))

    def _picture(self, begin: int) -> Tensor:
        """Mask and latents of the given picture for the chunk that begins at a frame."""
        frames = self.model.config.frames
        if self._given is None:
            return torch.empty(frames, 0, *self.grid, device=self.device)
        at = torch.arange(begin, begin + frames, device=self.device)
        mask = (at == 0).float()[:, None, None, None].expand(-1, MASK_CHANNELS, *self.grid)
        return torch.cat([mask, self._given[at.clamp(max=len(self._given) - 1)]], 1)

    def _camera(self, config: CameraConfig, walked: Sequence[Matrix]) -> Tensor:
        c, step = self.model.config, self.variant.step
        # A world's first frame has none before it: it has not moved.
        whole = [np.concatenate([each[:1], each])[-c.frames - 1 :] for each in walked]
        moved = torch.from_numpy(np.stack([since_before(each, step) for each in whole]))
        keys = torch.from_numpy(np.stack([wasd(motion(each), step) for each in whole]))
        with torch.inference_mode():
            moved, keys = (each.float().to(self.device) for each in (moved, keys))
            return self.model.look(rays(config, moved, keys, self.grid, c.patch))

    def _acts(
        self,
        config: ActionConfig,
        controls: Controls,
        leads: Sequence[Lead],
        walked: Sequence[Matrix],
        known: Sequence[int],
    ) -> Acts:
        """known: latent frames of each session that its caches know."""
        frames, step = self.model.config.frames, self.variant.step
        keyboards, mice = [], []
        for lead, poses in zip(leads, walked, strict=True):
            keyboard, mouse = controls(motion(poses), step, config.pictures)
            # Motion begins at the second pose that is known; the first frame of a world is told of the second's.
            second = lead.begin - len(lead.before) + 1
            read = (rows_read(lead.begin, frames, config.frames, config.pictures) - second).clip(min=0)
            keyboards.append(keyboard[read])
            mice.append(mouse[read].reshape(frames, -1))
        keyboard_t, mouse_t = (torch.from_numpy(np.stack(x)) for x in (keyboards, mice))
        age = config.window - frames - np.arange(config.window)  # frames before the chunk, none above zero are its own
        valid = torch.from_numpy(age <= np.array(known)[:, None])[:, None, None].to(self.device)
        assert self._phase is not None, "made for a model that has actions"
        device, dtype = self.device, self.model.dtype
        return Acts(mouse_t.to(device, dtype), keyboard_t.to(device, dtype), valid, self._phase)


def rows_read(begin: int, frames: int, back: int, pictures: int) -> NDArray[np.int64]:
    """The latent frame whose action stands in each row that a chunk's frames read: [frames, back * pictures].

    A row is a picture; a latent frame has `pictures` of them, the world's first has one. Frame i reads the rows of
    `back` frames up to, and without, its own last picture. The world's first row stands for those before it.
    """
    last = pictures * np.arange(begin, begin + frames)
    rows = last[:, None] + np.arange(-back * pictures, 0)
    return -(-rows.clip(min=0) // pictures)


def _check(prompt: Prompt, config: WanConfig, grid: tuple[int, int]) -> None:
    if any(side % config.patch for side in grid):
        raise InvalidInput(f"a grid of latent cells divides by {config.patch}, got {grid}")
    wanted = (config.context.tokens, config.context.width)
    if tuple(prompt.tokens.shape) != wanted:
        raise InvalidInput(f"a prompt's tokens are {wanted}, got {tuple(prompt.tokens.shape)}")
    if (prompt.given is not None) != bool(config.given_channels):
        raise InvalidInput(f"a prompt of this model has {'a' if config.given_channels else 'no'} given picture")
    cell = (config.out_channels, *grid)
    if prompt.given is not None and (not len(prompt.given) or tuple(prompt.given.shape[1:]) != cell):
        raise InvalidInput(f"a given picture is at least one latent {cell}, got {tuple(prompt.given.shape)}")
