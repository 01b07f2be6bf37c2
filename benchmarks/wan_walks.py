"""Walks of the small Wan models: through a session with its memory, and the same as one clip, told frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.wan_clip import Clip, WanClip
from benchmarks.wan_small import GIVEN, GRID, random_adapter
from services.generator.adapters.wan.adapter import WanWorldModel, more_noise
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import MASK_CHANNELS, ActionConfig
from services.generator.adapters.wan.moves import motion, since_before, wasd
from services.generator.adapters.wan.vae import Features, LatentsOnly
from services.generator.adapters.wan.variants import Variant
from services.generator.session import Mode, Session, SessionConfig
from services.generator.world_model import Subject
from worldkv.actions import Action, Walker, follow
from worldkv.chunk import Lineage
from worldkv.coding import Coding
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.pose import Matrix
from worldkv.select import make_selector
from worldkv.store import RamStore
from worldkv.window import WindowConfig

START = Walker(1.0, -2.0, 30.0)
STORE_BYTES = 1 << 30


class Recorder(LatentsOnly):
    """Also keeps the latents that it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.latents: list[Tensor] = []

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[list[Tensor], list[Features]]:
        self.latents += list(latents)
        return super().decode(latents, features)


def recorded_adapter(variant: Variant, seed: int = 2) -> WanWorldModel:
    """A small random model whose latents are kept as they are decoded."""
    return random_adapter(variant, seed, Recorder(variant.backbone.out_channels))


def action_of(variant: Variant, chunk: int) -> Action:
    """Something else in every chunk."""
    return Action(forward=variant.step * (-1) ** chunk, strafe=variant.step * (chunk % 2), turn=9.0 - 4 * chunk)


def session_of(adapter: WanWorldModel, mode: Mode = "worldkv", recalled: int = 10) -> Session:
    """A session that prunes and codes nothing, and recalls the newest chunks, in their order and at their own times.

    recalled  chunks that it has room for
    """
    frames, lineage = adapter.spec.frames, Lineage.begin()
    window = WindowConfig(frames, recalled * frames, frames, placement="original")
    finder, raw = LocalFinder(ScanIndex(), make_selector("latest", 0), lineage), MemoryConfig(Coding("raw", "raw"))
    memory = Memory(adapter.spec, window, raw, RamStore(STORE_BYTES), finder, lineage)
    config = SessionConfig(mode, window, seed=4, context="window")
    return Session(adapter, config, START, memory if mode == "worldkv" else None)


async def walk(session: Session, chunks: range) -> list[Tensor]:
    """Latents of the chunks, as they were decoded."""
    adapter = session.model
    assert isinstance(adapter, WanWorldModel), "a walk of another model"
    assert isinstance(adapter.vae, Recorder), "nobody keeps the latents"
    for chunk in chunks:
        await session.step(action_of(adapter.variant, chunk))
    return adapter.vae.latents[-len(chunks) :]


def walk_as_clip(adapter: WanWorldModel, chunks: int) -> list[Tensor]:
    """The same walk without a cache."""
    clip, frames, session = ClipWalk(adapter), adapter.spec.frames, session_of(adapter, "full")
    told = [action_of(adapter.variant, i).only(adapter.axes) for i in range(chunks)]
    actions = [each for each in told for _ in range(frames)]
    poses = np.stack([walker.pose for walker in follow(START, actions)[1:]])
    return [clip.draw(poses[: (i + 1) * frames], session.noise(i)) for i in range(chunks)]


def errors(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """Of each chunk, relative."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True)]


class ClipWalk:
    """A walk drawn by one pass over the whole clip for every denoise step: nothing is ever evicted, or even cached."""

    def __init__(self, adapter: WanWorldModel) -> None:
        self.variant, self.config, self.prompt = adapter.variant, adapter.model.config, adapter.imagine(Subject())()
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
