"""An oracle: a rolling cache that never evicts, with nothing of the window, the memory, codecs or placing in it.

Keys are cached already rotated to the time they were made at, as the causal video models do, and every pass
attends to all of them. What a memory that recalls everything draws must equal this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pocket.model import PocketModel
from worldkv.rope import Rope, frequencies


class RollingCache:
    """Draws chunk after chunk with a cache of everything drawn before.

    levels  noise levels of the denoise passes, falling from 1
    """

    def __init__(self, model: PocketModel, levels: tuple[float, ...]) -> None:
        self.model, self.levels = model, levels
        self._keys: list[list[Tensor]] = [[] for _ in model.blocks]
        self._values: list[list[Tensor]] = [[] for _ in model.blocks]
        self._frames = 0

    @torch.inference_mode()
    def draw(self, poses: Tensor, noise: Tensor) -> Tensor:
        """The next chunk from noise [frames, 3, height, width] at poses [frames, 4, 4]; it is then remembered."""
        x = noise
        for level, after in zip(self.levels, (*self.levels[1:], 0.0), strict=True):
            clean = self._run(x, level, poses, keep=False)
            x = clean + (x - clean) * (after / level)
        x = x.clamp(-1, 1)
        self.add(poses, x)
        return x

    @torch.inference_mode()
    def add(self, poses: Tensor, latents: Tensor) -> None:
        """Remember a given chunk by its clean pass."""
        self._run(latents, 0.0, poses, keep=True)
        self._frames += len(latents)

    def _run(self, frames: Tensor, level: float, poses: Tensor, keep: bool) -> Tensor:
        model, c = self.model, self.model.config
        x, time = model.embed(frames[None], frames.new_full((1, len(frames)), level))
        time_6 = model.project(time)
        rays = model.embed_rays(poses[None])
        turn = _turns(c.rope, self._frames, len(frames), c.rows, c.columns)
        for i, block in enumerate(model.layers):
            mod = block.modulate(time_6)
            q, k, v = block.queries(x, mod[0], mod[1], rays)
            q, k = _turned(q, turn), _turned(k, turn)
            keys, values = torch.cat([*self._keys[i], k], 1), torch.cat([*self._values[i], v], 1)
            if keep:
                self._keys[i].append(k)
                self._values[i].append(v)
            weight = (torch.einsum("bqhd,bkhd->bhqk", q, keys) / c.head_dim**0.5).softmax(-1)
            x = block.finish(x, torch.einsum("bhqk,bkhd->bqhd", weight, values), mod)
        return model.predict(x, time)[0]


def _turns(rope: Rope, first: int, frames: int, rows: int, columns: int) -> Tensor:
    """Angle of every channel pair of every token [frames * rows * columns, 1, pairs] float64."""
    angles = [
        torch.cat(
            [
                t * frequencies(rope.time, rope.theta),
                r * frequencies(rope.height, rope.theta),
                c * frequencies(rope.width, rope.theta),
            ]
        )
        for t in range(first, first + frames)
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(angles)[:, None]


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
