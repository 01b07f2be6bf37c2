"""Walks without an end: the times at which the keys and queries stand that the models' attention is really given.

No window and no session is asked. Before they are turned all keys and queries of these models are alike, so that their
time is read off themselves, where they enter the attention kernel: by the slowest of the channels that turn with time,
which does not come round once in all these frames.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmarks.registry import Case, bench
from benchmarks.wan_small import random_adapter
from services.generator.adapters.wan.actions import ActionModule, Acts
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.layers import SelfAttention
from services.generator.adapters.wan.variants import VARIANTS
from services.generator.session import Session, SessionConfig
from worldkv.actions import Walker, parse_path
from worldkv.chunk import Lineage
from worldkv.coding import Coding
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.prune import Pruning
from worldkv.rope import Rope, frequencies
from worldkv.select import make_selector
from worldkv.store import RamStore
from worldkv.window import Placement, WindowConfig

FRAMES, BASELINE_FRAMES = 1_100, 220
"""Latent frames of a walk: beyond the 1,024 at which the published tables of phases end; a fifth where it grows."""
PATH = "R90_3L180_3R180_3L90_3"
RECALLED = 3
"""Whole chunks' worth of tokens that are recalled: with sink, recent and current chunk the paper's 18 frames."""
KEEP = 0.25
"""Share of tokens that the paper keeps of every frame but a chunk's first."""
STORE_BYTES = 1 << 30
NEAR = 0.01
"""Frames by which a time that is read may be off a whole number."""


@bench("model.endless", bar="<= 1", about="latest time in attention over window; baseline: original, a fifth as long")
def endless() -> Iterator[Case]:
    """1,100 latent frames of all models, with everything that they recall whole; action caches count beside."""
    for name in VARIANTS:
        runs = measured(name, "rebased", 1.0)
        yield Case(name, max(runs), "ratio", max(measured(name, "original", 1.0, BASELINE_FRAMES)), runs)


@bench(
    "model.endless.pruned", bar="", about="the same where recalled chunks are pruned: as many tokens, of more frames"
)
def pruned() -> Iterator[Case]:
    name = "self-forcing"
    runs = measured(name, "rebased", KEEP)
    yield Case(f"{name}, keep {KEEP}", max(runs), "ratio", max(measured(name, "rebased", 1.0, BASELINE_FRAMES)), runs)


def measured(name: str, placement: Placement, keep: float, frames: int = FRAMES) -> list[float]:
    """Frames that a walk's attention spans over those of its window, and that its action modules span over theirs."""
    adapter = alike(random_adapter(VARIANTS[name], seed=7))
    chunk = adapter.spec.frames
    window = WindowConfig(chunk, RECALLED * chunk, chunk, placement)
    with Times(adapter) as times:
        asyncio.run(walk(adapter, window, Coding("raw", "raw", Pruning(keep)), frames // chunk))
    actions = adapter.model.config.actions
    spans = [(1 + times.latest) / window.frames(chunk)]
    return spans if actions is None else [*spans, (1 + times.latest_act) / actions.window]


def alike(adapter: WanWorldModel) -> WanWorldModel:
    """The adapter with all keys and queries of self-attention the same, and only real, before they are turned."""
    for block in adapter.model.layers:
        for linear, norm in (
            (block.self_attn.q, block.self_attn.norm_q),
            (block.self_attn.k, block.self_attn.norm_k),
        ):
            linear.weight.zero_()
            linear.bias.view(-1, 2).copy_(torch.tensor([1.0, 0.0]))
            norm.weight.fill_(1)
    return adapter


async def walk(adapter: WanWorldModel, window: WindowConfig, coding: Coding, chunks: int) -> None:
    """Walk to and fro with a memory that recalls what was seen there."""
    lineage, frames = Lineage.begin(), adapter.spec.frames
    finder = LocalFinder(ScanIndex(), make_selector("pose"), lineage)
    memory = Memory(adapter.spec, window, MemoryConfig(coding), RamStore(STORE_BYTES), finder, lineage)
    session = Session(adapter, SessionConfig(window=window), Walker(0, 0), memory)
    actions = cycle(parse_path(PATH))
    for _ in range(chunks):
        step = await session.step(list(islice(actions, frames)))
    assert len(step.recalled) == memory.slots, "recalls as many chunks as the window has room for"


class Times(TorchFunctionMode):
    """Reads the time of every key and query that enters self-attention, and of the action modules' frames.

    latest, latest_act  the latest of each, latent frames
    """

    def __init__(self, adapter: WanWorldModel) -> None:
        super().__init__()
        self.config = adapter.model.config
        self.latest = self.latest_act = 0
        self._inside = False
        for each in adapter.model.modules():
            if isinstance(each, SelfAttention):
                each.register_forward_pre_hook(self._enter)
                each.register_forward_hook(self._leave)
            elif isinstance(each, ActionModule):
                each.register_forward_pre_hook(self._act)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside and func is functional.scaled_dot_product_attention:
            self._read(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _read(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> None:
        """q [B, H, N, K], k [B, H, M, K], mask [B, 1, 1, M]"""
        rope = self.config.rope
        keys = k[:, 0] if attn_mask is None else k[:, 0][attn_mask[:, 0, 0]]
        for turned in (q[:, 0], keys):
            pair = turned.unflatten(-1, (-1, 2))[..., rope.time - 1, :]
            self.latest = max(self.latest, _latest(pair[..., 1].atan2(pair[..., 0]), rope))

    def _act(self, module: nn.Module, args: tuple[Tensor, Acts, Any]) -> None:
        """All that an action module turns it turns by these phases."""
        assert self.config.actions, "there are action modules"
        rope = self.config.actions.rope
        self.latest_act = max(self.latest_act, _latest(args[1].phase[..., rope.time - 1].angle(), rope))

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside = True

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside = False


def _latest(angle: Tensor, rope: Rope) -> int:
    """The latest frame by the angles of the slowest channel that turns with time."""
    frames = angle.double() / frequencies(rope.time, rope.theta)[-1]
    assert float((frames - frames.round()).abs().max()) < NEAR, "times are whole frames"
    assert float(angle.abs().max()) < math.pi / 2, "and far from coming round"
    return int(frames.abs().max().round())
