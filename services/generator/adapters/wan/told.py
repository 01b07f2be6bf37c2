"""What a chunk's passes are told besides the window: the first picture, the camera, the actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast, Acts, window_phase
from services.generator.adapters.wan.block import Sight
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import MASK_CHANNELS, ActionConfig, CameraConfig
from services.generator.adapters.wan.layers import Pair
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.moves import Controls, motion, since_before, wasd
from services.generator.adapters.wan.prompts import Heard, Prompts, contexts
from services.generator.adapters.wan.state import Lead, WanState, no_past
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Conditioning
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix


class Told(NamedTuple):
    """What the passes of a chunk have in common besides the window: see `WanModel.forward`.

    given    [B, F, mask and channels, height, width], no channels where the model takes no picture
    context  of each layer's cross-attention, keys and values [B, T, H, K]
    """

    given: Tensor
    context: list[Pair]
    camera: list[Sight] | None
    acts: Acts | None
    past: ActionPast | None


class Teller:
    """Turns what sessions know of their chunks into what a model is told.

    grid  rows and columns of latent cells

    Raises InvalidInput for a grid that does not divide into tokens.
    """

    def __init__(self, variant: Variant, model: WanModel, prompts: Prompts, grid: tuple[int, int]) -> None:
        c = model.config
        if any(side % c.patch for side in grid):
            raise InvalidInput(f"a grid of latent cells divides by {c.patch}, got {grid}")
        self.variant, self.model, self.prompts, self.grid = variant, model, prompts, grid
        self.device = model.patch_embedding.weight.device
        self._phase = window_phase(c.actions, self.device) if c.actions else None

    def no_past(self) -> ActionPast:
        """Empty caches of the action modules, of one session."""
        c = self.model.config
        return no_past(c, self.grid[0] * self.grid[1] // c.patch**2, self.device, self.model.dtype)

    def tell(self, conditions: Sequence[Conditioning]) -> Told:
        """Raises InvalidInput if a condition does not say what led to its chunk, NotFound if what it is about was not
        heard here."""
        c, variant = self.model.config, self.variant
        leads = [self._lead(condition) for condition in conditions]
        states = [cast(WanState | None, condition.state) for condition in conditions]
        heard = [self._heard(lead, state) for lead, state in zip(leads, states, strict=True)]
        walked = [np.concatenate([lead.before, each.poses]) for lead, each in zip(leads, conditions, strict=True)]
        given = torch.stack([self._picture(each, lead.begin) for each, lead in zip(heard, leads, strict=True)])
        camera = self._camera(c.camera, walked) if c.camera else None
        if c.actions is None or variant.controls is None:
            return Told(given, contexts(heard), camera, None, None)
        # A chunk that is made again outside a walk is told what was done, and has no past to remember it by.
        pasts = [state.past if state else self.no_past() for state in states]
        past = ActionPast(*(torch.stack(part, 2) for part in zip(*pasts, strict=True)))
        known = [state.known if state else 0 for state in states]
        acts = self._acts(c.actions, variant.controls, leads, walked, known)
        return Told(given, contexts(heard), camera, acts, past)

    def _lead(self, condition: Conditioning) -> Lead:
        if not condition.extra:
            raise InvalidInput(f"a chunk of {self.variant.name} is drawn from what led to it, and nothing was given")
        return Lead.from_bytes(condition.extra)

    def _heard(self, lead: Lead, state: WanState | None) -> Heard:
        """A walk's own prompt; outside one, that of the same subject."""
        return state.heard if state and state.heard else self.prompts.find(lead.subject)

    def _picture(self, heard: Heard, begin: int) -> Tensor:
        """Mask and latents of the given picture for the chunk that begins at a frame."""
        frames, given = self.model.config.frames, heard.prompt.given
        if given is None:
            return torch.empty(frames, 0, *self.grid, device=self.device)
        at = torch.arange(begin, begin + frames, device=self.device)
        mask = (at == 0).float()[:, None, None, None].expand(-1, MASK_CHANNELS, *self.grid)
        return torch.cat([mask, given[at.clamp(max=len(given) - 1)]], 1)

    def _camera(self, config: CameraConfig, walked: Sequence[Matrix]) -> list[Sight]:
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
