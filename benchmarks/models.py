"""The real models' transformers: their sizes, and parity with two implementations that share nothing with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from benchmarks.registry import Case, bench
from benchmarks.wan_diffusers import flow_of_diffusers
from benchmarks.wan_small import GRID, random_adapter, random_model, small
from benchmarks.wan_walks import ClipWalk, errors, recorded_adapter, session_of, walk, walk_as_clip
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.rotation import Rotation
from services.generator.adapters.wan.variants import LINGBOT_CAM, SELF_FORCING, VARIANTS, Variant
from services.generator.world_model import Conditioning, Subject
from worldkv.actions import Action, Walker, follow
from worldkv.errors import Unavailable
from worldkv.pose import Matrix
from worldkv.window import Entry, Window

PARAMETERS = {
    "lingbot-world-fast-cam": 18_544_332_864,
    "lingbot-world-v2-1.3b": 1_709_502_016,
    "matrix-game-2.0-universal": 1_619_242_304,
    "matrix-game-2.0-gta": 1_619_238_464,
    "matrix-game-2.0-templerun": 1_508_715_584,
    "self-forcing": 1_418_996_800,
}
"""What the published models have; nothing is published of LingBot's act variant."""
SEEDS = range(3)
CHUNKS = 5
"""Of a clip under one mask."""
EXACT_CHUNKS = 12
"""Of a walk through a session."""
STARTS = (0, 37, 5000)
"""Latent frames at which a chunk begins; the published tables of phases end at 1024."""


@bench("model.params", bar="== 0", about="adapters whose number of parameters is not the published model's")
def params() -> Iterator[Case]:
    off = [abs(_size(name) - known) for name, known in PARAMETERS.items()]
    yield Case("all", sum(each > 0 for each in off), "adapters", None, off)


def _size(name: str) -> int:
    with torch.device("meta"):
        model = WanModel(VARIANTS[name].backbone)
    return sum(each.numel() for each in model.parameters())


@bench("model.oracle", bar="<= 1e-4", about="transformer against Diffusers' with the same weights, relative error")
def oracle() -> Iterator[Case]:
    if find_spec("diffusers") is None:
        raise Unavailable("skipped: diffusers is not installed; this benchmark needs worldkv[wan]")
    for variant in (SELF_FORCING, LINGBOT_CAM):
        for start in STARTS:
            runs = [against_diffusers(variant, start, seed) for seed in SEEDS]
            yield Case(f"{variant.name}, start {start}", max(runs), "relative error", None, runs)


def against_diffusers(variant: Variant, start: int, seed: int) -> float:
    """Chunks of two sessions that begin at a frame, with nothing in the window: so it must not matter at which.

    Diffusers' transformer knows no camera: a model that does is told of none here.
    """
    config = small(variant.backbone)
    model = random_model(config, seed)
    latents, time = torch.randn(2, config.frames, config.in_channels, *GRID), torch.tensor([937.5, 0.0])
    tokens = torch.randn(2, config.context.tokens, config.context.width)
    rotation = Rotation(config.rope, config.frames, GRID[0] // config.patch, GRID[1] // config.patch)
    nothing = torch.empty(config.layers, 2, 0, config.heads, config.head_dim)
    with torch.inference_mode():
        got = model(
            latents,
            time[:, None].expand(-1, config.frames),
            rotation.at(torch.full((2,), start)),
            (nothing, nothing),
            None,
            model.hear(tokens),
        ).flow
    return _relative(got, flow_of_diffusers(model, latents, time, tokens))


@bench("model.chunked", bar="<= 1e-4", about="chunk by chunk with a cache against one masked pass, relative error")
def chunked() -> Iterator[Case]:
    for name in VARIANTS:
        runs = [against_clip(name, seed) for seed in SEEDS]
        yield Case(name, max(runs), "relative error", None, runs)


def against_clip(name: str, seed: int) -> float:
    """Relative error of a small random model of a variant."""
    adapter = random_adapter(VARIANTS[name], seed)
    return against_clip_of(adapter, adapter)


def against_clip_of(adapter: WanWorldModel, other: WanWorldModel) -> float:
    """The flow of clean chunks behind each other, the last one noisy: by one, and by the masked pass of the other."""
    variant, frames = adapter.variant, adapter.spec.frames
    window, state = Window(adapter.spec, [frames * adapter.spec.frame_tokens] * (CHUNKS - 1)), adapter.start(Subject())
    latents, poses = torch.randn(CHUNKS * frames, *adapter.spec.latent), _poses(adapter)
    entries: list[Entry] = []
    flows = []
    for i in range(CHUNKS):
        begin, part = i * frames, slice(i * frames, (i + 1) * frames)
        window.fill(0, entries, begin, [entry.begin for entry in entries])
        condition = [Conditioning(poses[part], state.conditioning(poses[part]), state)]
        time = variant.levels[1].time if i == CHUNKS - 1 else 0.0
        told = adapter.teller.tell(condition)
        flows.append(adapter.run(latents[None, part], time, window.view([0]), told, keep=False).flow[0])
        (kv,) = adapter.encode(latents[None, part], window.view([0]), condition)
        entries.append(Entry(i, begin, frames, kv))
    wanted = ClipWalk(other).flow(poses, latents, variant.levels[1].time)
    return _relative(torch.cat(flows), wanted)


def _poses(adapter: WanWorldModel) -> Matrix:
    """Of a clip that walks, turns and looks up: [frames, 4, 4]."""
    action = Action(forward=0.8 * adapter.variant.step, turn=5.0, look=2.0)
    walked = follow(Walker(0.0, 0.0), [action] * (CHUNKS * adapter.spec.frames))
    return np.stack([walker.pose for walker in walked[1:]])


@bench("model.exact", bar="<= 1e-4", about="recalling everything uncoded against a walk that evicts nothing, relative")
def exact() -> Iterator[Case]:
    for variant in VARIANTS.values():
        adapter = recorded_adapter(variant)
        drawn = asyncio.run(walk(session_of(adapter, recalled=EXACT_CHUNKS), range(EXACT_CHUNKS)))
        forgetful = asyncio.run(walk(session_of(adapter, "window", recalled=1), range(EXACT_CHUNKS)))
        wanted = walk_as_clip(adapter, EXACT_CHUNKS)
        runs = errors(drawn, wanted)
        yield Case(variant.name, max(runs), "relative error", max(errors(forgetful, wanted)), runs)


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.norm(got.double() - wanted.double()) / torch.linalg.norm(wanted.double()))
