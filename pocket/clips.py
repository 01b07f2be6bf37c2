"""Clips of training worlds: pictures and poses of random walks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pocket.model import PocketConfig
from pocket.rooms import TEST_SEEDS, Renderer, build
from pocket.walks import moves, walk


def clips(rng: np.random.Generator, batch: int, frames: int, config: PocketConfig) -> tuple[Tensor, Tensor]:
    """Pictures [batch, frames, 3, height, width] in -1..1 and poses [batch, frames, 4, 4] of unseen walks."""
    worlds = [build(int(seed)) for seed in rng.integers(0, TEST_SEEDS.start, batch)]
    poses = torch.from_numpy(np.stack([walk(w, moves(frames, rng), rng) for w in worlds])).float()
    renderer = Renderer(worlds, config.height, config.width, config.fov)
    pictures, _ = renderer(torch.arange(batch).repeat_interleave(frames), poses.flatten(0, 1))
    return pictures.unflatten(0, (batch, frames)) * 2 - 1, poses
