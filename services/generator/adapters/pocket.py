"""The pocket world model behind the `WorldModel` seam."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pocket.model import PocketConfig, PocketModel
from services.generator.world_model import Conditioning, State
from worldkv.chunk import ModelSpec
from worldkv.errors import WeightsMismatch, WeightsMissing
from worldkv.rope import Rope
from worldkv.window import KV, Window

WEIGHTS = Path(__file__).parents[3] / "pocket" / "weights" / "pocket.safetensors"
"""Where the shipped weights lie."""
LEVELS = (1.0, 0.85, 0.6, 0.3)
"""Noise levels of the denoise passes, from pure noise down; the last one's prediction is kept."""
VIEW_RANGE = 8.0
"""How far a view is taken to reach, units."""


class NoState:
    """The pocket model carries nothing but KV."""

    def to_bytes(self) -> bytes:
        return b""

    def from_bytes(self, data: bytes) -> None:
        if data:
            raise WeightsMismatch(f"the pocket model keeps no state, got {len(data)} bytes")


class PocketWorldModel:
    """Adapter of `PocketModel`; see `WorldModel` for the methods.

    levels  noise levels of the denoise passes, falling from 1
    """

    def __init__(self, model: PocketModel, digest: str, levels: Sequence[float] = LEVELS) -> None:
        self.model, self.levels = model.eval().requires_grad_(False), tuple(levels)
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
    def load(cls, path: Path = WEIGHTS, levels: Sequence[float] = LEVELS) -> PocketWorldModel:
        """Read fp16 or fp32 safetensors with the model's config in their metadata.

        Raises WeightsMissing if there is no file and WeightsMismatch if it is not a pocket model's.
        """
        if not path.is_file():
            raise WeightsMissing(f"no weights at {path}: train them with `python -m pocket.train`")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsMismatch(f"{path} is not a whole safetensors file: {error}") from error
        if "config" not in about:
            raise WeightsMismatch(f"{path} says nothing of a pocket config in its metadata")
        fields = json.loads(about["config"])
        fields["rope"] = Rope(**fields["rope"])
        fields["ray_centre"] = tuple(fields["ray_centre"])
        model = PocketModel(PocketConfig(**fields))
        wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if wanted != found:
            wrong = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))[:3]
            raise WeightsMismatch(f"{path}: wrong tensors {', '.join(f'{n} {found.get(n)} != {wanted.get(n)}' for n in wrong)}")
        model.load_state_dict(tensors)
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        return cls(model, digest, levels)

    def start(self) -> State:
        return NoState()

    def generate(self, window: Window, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        x, rays = noise, self._rays(conditions)
        for level, after in zip(self.levels, (*self.levels[1:], 0.0), strict=True):
            clean, _ = self._pass(x, level, window, rays)
            # A straight line from the noise to the clean picture, walked to the next level.
            x = clean + (x - clean) * (after / level)
        return x.clamp(-1, 1)

    def see(self, pictures: Tensor) -> Tensor:
        return pictures * 2 - 1

    def encode(self, latents: Tensor, window: Window, conditions: Sequence[Conditioning]) -> list[KV]:
        _, (keys, values) = self._pass(latents, 0.0, window, self._rays(conditions))
        return [KV(keys[:, b], values[:, b]) for b in range(len(latents))]

    def decode(self, states: Sequence[State], latents: Tensor) -> Tensor:
        return (latents + 1) / 2

    def _rays(self, conditions: Sequence[Conditioning]) -> Tensor:
        poses = torch.from_numpy(np.stack([c.poses for c in conditions])).float()
        with torch.inference_mode():
            return self.model.embed_rays(poses.to(self.model.head.weight.device))

    def _pass(self, x: Tensor, level: float, window: Window, rays: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        levels = x.new_full(x.shape[:2], level)
        valid = None if window.whole else window.valid
        with torch.inference_mode():
            return self.model.chunk(x, levels, rays, window.position, (window.keys, window.values), valid)


def config_metadata(config: PocketConfig) -> str:
    """The metadata entry that `load` reads."""
    return json.dumps(asdict(config))
