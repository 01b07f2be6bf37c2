"""The pocket world model behind the `WorldModel` seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from pocket.model import PocketModel
from pocket.weights_file import CODECS, SHIPPED, load, load_codecs
from services.generator.world_model import Conditioning, State, Subject
from worldkv.actions import AXES
from worldkv.chunk import ModelSpec
from worldkv.codec import Codec
from worldkv.coding import KV
from worldkv.errors import ChunkCorrupt, InvalidInput
from worldkv.format import Frame
from worldkv.pose import Matrix
from worldkv.window import View

LEVELS = (1.0, 0.85, 0.6, 0.3)
"""Noise levels of the denoise passes, from pure noise down; the last one's prediction is kept."""
VIEW_RANGE = 8.0
"""How far a view is taken to reach, units."""


class NoState:
    """The pocket model carries nothing but KV."""

    def conditioning(self, poses: Matrix) -> bytes:
        return b""

    def to_bytes(self) -> Frame:
        return Frame(())

    def from_bytes(self, data: Frame) -> None:
        if data.nbytes:
            raise ChunkCorrupt(f"the pocket model keeps no state, got {data.nbytes} bytes")


class PocketWorldModel:
    """Adapter of `PocketModel`; see `WorldModel` for the methods.

    levels  noise levels of the denoise passes, falling from 1
    """

    state_bytes = 0

    def __init__(
        self,
        model: PocketModel,
        digest: str,
        levels: Sequence[float] = LEVELS,
        codecs: Mapping[str, tuple[Codec, Codec]] = MappingProxyType({}),
    ) -> None:
        self.codecs, self.axes = codecs, AXES
        self.model, self.levels = model.eval().requires_grad_(False), tuple(levels)
        self.device = model.head.weight.device
        c = model.config
        self.spec = ModelSpec(
            model="pocket",
            weights=digest,
            vae="",
            layers=c.layers,
            heads=c.heads,
            head_dim=c.head_dim,
            dtype="float32",
            frame_tokens=c.tokens,
            latent=(3, c.height, c.width),
            frames=c.frames,
            rope=(c.rope.time, c.rope.height, c.rope.width),
            theta=c.rope.theta,
            kv_sets=1,
            view_range=VIEW_RANGE,
            camera_in_keys="world",
        )

    @classmethod
    def load(cls, path: Path = SHIPPED, levels: Sequence[float] = LEVELS) -> PocketWorldModel:
        """The model of a weights file, with the codecs that lie beside it; raises WeightsMissing or WeightsMismatch."""
        return cls(*load(path), levels, load_codecs(path.with_name(CODECS.name)))

    def drawing_bytes(self, sessions: int) -> int:
        return 0  # a chunk of its is too small to count

    def hear(self, subject: Subject) -> Callable[[], object]:
        state = self.start(subject)
        return lambda: state

    def start(self, subject: Subject | None = None, begin: int = 0, before: Matrix | None = None) -> State:
        """Words are those of a scene, and told by what is shown; pictures from elsewhere cannot be told."""
        if subject and subject.picture:
            raise InvalidInput(f"pocket begins in rooms, not from a picture; got one of {len(subject.picture)} bytes")
        return NoState()

    def generate(self, window: View, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        x, rays = noise, self._rays(conditions)
        for level, after in zip(self.levels, (*self.levels[1:], 0.0), strict=True):
            clean, _ = self._pass(x, level, window, rays)
            # A straight line from the noise to the clean picture, walked to the next level.
            x = clean + (x - clean) * (after / level)
        return x.clamp(-1, 1)

    def see(self, pictures: Tensor) -> Tensor:
        return pictures * 2 - 1

    def encode(self, latents: Tensor, window: View, conditions: Sequence[Conditioning]) -> list[KV]:
        _, (keys, values) = self._pass(latents, 0.0, window, self._rays(conditions))
        return [KV(keys[:, b], values[:, b]) for b in range(len(latents))]

    def decode(self, states: Sequence[State], latents: Tensor) -> list[Tensor]:
        return list((latents + 1) / 2)

    def _rays(self, conditions: Sequence[Conditioning]) -> Tensor:
        poses = torch.from_numpy(np.stack([c.poses for c in conditions])).float()
        with torch.inference_mode():
            return self.model.embed_rays(poses.to(self.device))

    def _pass(self, x: Tensor, level: float, window: View, rays: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        levels = x.new_full(x.shape[:2], level)
        valid = None if window.whole else window.valid
        with torch.inference_mode():
            return self.model.chunk(x, levels, rays, window.position, (window.keys, window.values), valid)
