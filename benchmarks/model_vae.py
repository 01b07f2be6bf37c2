"""The real models' VAE: decoding chunk by chunk, against the definition over a whole clip."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.registry import Case, bench
from benchmarks.wan_vae_clip import VAEClip
from benchmarks.wan_vae_small import WIDTH, random_vae
from services.generator.adapters.wan.vae import Features, WanVAE
from worldkv.errors import Unavailable

SEEDS = range(3)
FRAMES = (3, 4, 1)
"""Latent frames of a chunk: the models' own, and the fewest there can be."""
CLIP = 12
"""Latent frames of a clip."""
SMALL, SMALL_GRID = 8, (4, 6)
FULL_CLIP, FULL_GRID = 6, (3, 4)
"""At the published width."""


@bench("model.vae", bar="<= 1e-4", about="streaming decode against the definition over a whole clip, relative error")
def vae() -> Iterator[Case]:
    if find_spec("diffusers") is None:
        raise Unavailable("skipped: diffusers is not installed; this benchmark needs worldkv[wan]")
    for frames in FRAMES:
        yield _case(f"chunks of {frames}", SMALL, SMALL_GRID, CLIP, frames, SEEDS)
    yield _case(f"chunks of {FRAMES[0]}, published width", WIDTH, FULL_GRID, FULL_CLIP, FRAMES[0], SEEDS[:1])


def _case(name: str, width: int, grid: tuple[int, int], clip: int, frames: int, seeds: range) -> Case:
    """Baseline: the same with features dropped between chunks."""
    runs, forgetful = zip(*(errors(width, grid, clip, frames, seed) for seed in seeds), strict=True)
    return Case(name, max(runs), "relative error", min(forgetful), runs)


def errors(width: int, grid: tuple[int, int], clip: int, frames: int, seed: int) -> tuple[float, float]:
    """Relative errors of a clip's pictures: decoded in chunks, and in chunks that know of none before them."""
    adapter, weights = random_vae(width, seed)
    latents = torch.randn(clip, adapter.sizes.channels, *grid)
    wanted = VAEClip(weights).decode(latents)
    pictures = streamed(adapter, latents, frames)
    own = [adapter.decode(chunk[None], [{}])[0][0] for chunk in latents.split(frames)]
    # A chunk that is taken for the first of its clip has fewer pictures: they are its last ones.
    parts = wanted.split([len(each) for each in pictures])
    again = torch.cat([part[-len(each) :] for part, each in zip(parts, own, strict=True)])
    return _relative(torch.cat(pictures), wanted), _relative(torch.cat(own), again)


def streamed(adapter: WanVAE, latents: Tensor, frames: int) -> list[Tensor]:
    """Pictures of each chunk of a clip of latents [frames, channels, height, width]."""
    features: list[Features] = [{}]
    pictures = []
    for chunk in latents.split(frames):
        (shown,), features = adapter.decode(chunk[None], features)
        pictures.append(shown)
    return pictures


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.norm(got.double() - wanted) / torch.linalg.norm(wanted))
