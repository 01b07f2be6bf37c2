"""Run a scenario in one way of remembering, and record it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocket.rooms import FIELD_OF_VIEW, Renderer, Rooms, build, slide
from services.generator.config import MemorySettings
from services.generator.recording import ChunkLog, Recording
from services.generator.scenarios import Scenario
from services.generator.session import Context, Mode, Session, SessionConfig
from services.generator.truth import baseline_gap
from services.generator.truth import to_bytes as to_bytes
from services.generator.world_model import WorldModel
from worldkv.actions import Walker
from worldkv.chunk import Lineage, Part
from worldkv.coding import DTYPES, KV, Coding, coded_bytes
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Device, Memory, MemoryConfig, Order, Recalled, Reencode
from worldkv.memory.keeping import alone
from worldkv.prune import Pruning, Similarity
from worldkv.select import Query, make_selector
from worldkv.store import RamStore
from worldkv.window import Placement, WindowConfig

ELSEWHERE = 500_000
"""Added to a world's seed to get another world, for the control that recalls foreign chunks."""
STORE_BYTES = 8 << 30
DEPTH_MAP = (6, 8)
"""Rows and columns of a chunk's depth maps."""


@dataclass(frozen=True)
class Variant:
    """One way of remembering; the defaults are the service's.

    selector   name of a selector
    keep       share of tokens kept of every frame but a chunk's first
    similarity, pooled  how they are chosen
    codec      of keys and values
    context    what the clean pass attends to, see `SessionConfig`
    placement  of the window in time
    recalled   frame-equivalents of recalled tokens
    order      of recalled chunks in the window
    budget_chunks  whole chunks' worth of coded bytes a world may keep beside its first chunk, which is kept raw; 0 for
               no limit
    foreign    recall the chunks of another world in place of one's own: a control
    """

    name: str
    mode: Mode = "worldkv"
    selector: str = MemorySettings.selector
    keep: float = MemorySettings.keep
    similarity: Similarity = "anchor_mean"
    pooled: bool = False
    codec: str = MemorySettings.codec
    context: Context = MemorySettings.context
    placement: Placement = WindowConfig.placement
    recalled: int = WindowConfig.recalled
    order: Order = "time"
    budget_chunks: int = 0
    described: bool = False
    foreign: bool = False

    def coding(self, model: WorldModel) -> Coding:
        """What is done to a chunk that is stored: `codec` is looked for among the model's own codecs first."""
        pruning = Pruning(self.keep, self.similarity, self.pooled)
        return replace(MemorySettings(codec=self.codec).coding(model), pruning=pruning)

    @property
    def window(self) -> WindowConfig:
        return WindowConfig(recalled=self.recalled, placement=self.placement)


WINDOW = Variant("window", mode="window", context="window")
FULL = Variant("full", mode="full", context="window")
DEFAULT = Variant("worldkv")
PAPER = Variant("paper", selector="pose", keep=0.25, codec="raw", context="window", placement="original")
"""The paper's setting: recall by pose, a quarter of the other frames' tokens, a clean pass in the window, original
positions."""

VARIANTS = {v.name: v for v in (WINDOW, FULL, DEFAULT, PAPER)}

BASELINE_GAP = baseline_gap(WindowConfig(), 3)
"""Latent frames after which a view counts as out of the baseline's window: the window and one chunk more."""


class Swapped(Memory):
    """A memory whose chunks hold another world's keys and values: worse than forgetting, if memory works."""

    def __init__(self, *args: Any, other: dict[int, KV]) -> None:
        super().__init__(*args)
        self._other = other

    async def remember(self, part: Part, kv: KV) -> None:
        await super().remember(part, self._other[part.meta.key.index])


class Copied(Memory):
    """A memory that also keeps every chunk's keys and values as they came, by chunk number."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.copies: dict[int, KV] = {}

    async def remember(self, part: Part, kv: KV) -> None:
        self.copies[part.meta.key.index] = kv
        await super().remember(part, kv)


class Described(Memory):
    """A memory whose chunks also carry what selectors beyond poses look at.

    Depth is an oracle's: the true renderer's, at the centres of `DEPTH_MAP` fields of each frame. Descriptors are the
    model's own: the keys of a chunk's clean pass, the mean over its tokens, all layers and heads side by side. Nobody
    knows what the coming chunk looks like before it is drawn: its query carries the descriptor of the chunk before it.
    """

    def __init__(self, *args: Any, rooms: Rooms) -> None:
        super().__init__(*args)
        self._renderer = Renderer([rooms], *DEPTH_MAP, FIELD_OF_VIEW, supersample=1)
        self._latest = np.empty(0, np.float32)

    async def recall(self, query: Query, exclude: Collection[int], reencode: Reencode) -> list[Recalled]:
        return await super().recall(replace(query, descriptor=self._latest), exclude, reencode)

    async def remember(self, part: Part, kv: KV) -> None:
        poses = torch.from_numpy(part.meta.poses.copy())
        _, depth = self._renderer(torch.zeros(len(poses), dtype=torch.int64), poses)
        self._latest = kv.keys.float().mean(1).flatten().numpy()
        meta = replace(part.meta, depth=depth.numpy(), descriptor=self._latest)
        await super().remember(replace(part, meta=meta), kv)


def run_walk(
    model: WorldModel,
    scenario: Scenario,
    variant: Variant,
    progress: Callable[[Tensor], object] = lambda pictures: None,
) -> Recording:
    """Walk a scenario from end to end.

    progress  is called after each chunk with its pictures [pictures, 3, height, width] float32 in 0..1
    """
    if variant.mode != "worldkv":
        return asyncio.run(walk_with(model, scenario, variant, None, progress))
    parts = _memory_parts(model, variant, scenario.seed)
    if not variant.foreign:
        memory = Described(*parts, rooms=scenario.rooms) if variant.described else Memory(*parts)
        return asyncio.run(walk_with(model, scenario, variant, memory, progress))
    elsewhere = Copied(*_memory_parts(model, variant, scenario.seed))
    other = replace(scenario, rooms=build(scenario.rooms.seed + ELSEWHERE))
    asyncio.run(walk_with(model, other, variant, elsewhere, lambda pictures: None))
    return asyncio.run(walk_with(model, scenario, variant, Swapped(*parts, other=elsewhere.copies), progress))


def make_memory(model: WorldModel, variant: Variant, seed: int) -> Memory:
    """A memory in this process, as a variant says; the seed is for controls that choose at random."""
    return Memory(*_memory_parts(model, variant, seed))


def _memory_parts(model: WorldModel, variant: Variant, seed: int) -> tuple[Any, ...]:
    window = variant.window
    coding = variant.coding(model)
    budget = variant.budget_chunks * coded_bytes(coding, model.spec)
    budget += model.spec.raw_bytes if budget and coding.raw_first else 0
    config = MemoryConfig(coding, variant.order, budget_bytes=budget)
    lineage = Lineage.begin()
    finder = LocalFinder(ScanIndex(), make_selector(variant.selector, seed), lineage)
    return model.spec, window, config, RamStore(STORE_BYTES), finder, lineage, None, alone, Device(model.device)


async def walk_with(
    model: WorldModel,
    scenario: Scenario,
    variant: Variant,
    memory: Memory | None,
    progress: Callable[[Tensor], object] = lambda pictures: None,
) -> Recording:
    """The same with a memory of one's own, which goes with mode `worldkv` and no other."""
    walkers, frames = scenario.walkers, model.spec.frames
    truth = render(model, scenario, walkers)
    config = SessionConfig(variant.mode, variant.window, seed=scenario.seed, context=variant.context)
    session = Session(model, config, scenario.start, memory, partial(slide, scenario.rooms))
    drawn: list[Tensor] = []
    log: list[ChunkLog] = []
    for begin in range(0, len(walkers), frames):
        fetched = memory.stats.fetched_bytes if memory else 0
        if begin < scenario.shown:
            step = await session.show(truth[begin : begin + frames], walkers[begin : begin + frames])
        else:
            step = await session.step(scenario.actions[begin - 1 : begin - 1 + frames])
        drawn.append(step.pictures)
        log.append(
            ChunkLog(
                index=step.index,
                recalled=tuple(r.hit.key.index for r in step.recalled),
                seconds=sum(step.seconds),
                memory_seconds=step.seconds.memory,
                recalled_bytes=memory.stats.fetched_bytes - fetched if memory else 0,
                kv_bytes=_counted(model, memory, session),
            )
        )
        progress(step.pictures)
    return recorded(scenario, variant, truth, torch.cat(drawn), log)


def recorded(scenario: Scenario, variant: Variant, truth: Tensor, drawn: Tensor, log: Sequence[ChunkLog]) -> Recording:
    """A walk that was drawn: truth and drawn [frames, 3, height, width] float32 in 0..1, a line of log a chunk."""
    return Recording(
        scenario=scenario.name,
        seed=scenario.seed,
        mode=variant.name,
        rooms=scenario.rooms,
        truth=to_bytes(truth),
        pictures=to_bytes(drawn),
        poses=np.stack([w.pose for w in scenario.walkers]),
        shown=scenario.shown,
        chunks=tuple(log),
        rule=scenario.rule,
    )


def _counted(model: WorldModel, memory: Memory | None, session: Session) -> int:
    """Bytes of KV kept for a world; what is uncoded is counted as bfloat16, the big models' type, two bytes a value."""
    kept, coded = (memory.kv_bytes, memory.config.coding.keys != "raw") if memory else (session.raw_bytes, False)
    return kept if coded else kept * 2 // DTYPES[model.spec.dtype].itemsize


def kept_bytes(model: WorldModel, variant: Variant, chunks: int) -> int:
    """What `ChunkLog.kv_bytes` says after so many chunks of a walk in a world without a budget."""
    spec, coding = model.spec, variant.coding(model)
    counted = spec.raw_bytes * 2 // DTYPES[spec.dtype].itemsize
    if variant.mode == "worldkv":
        coded, first = coded_bytes(coding, spec), spec.raw_bytes if coding.raw_first else coded_bytes(coding, spec)
        return first + (chunks - 1) * coded if coding.keys != "raw" else chunks * counted
    held = chunks if variant.mode == "full" else variant.window.frames(spec.frames) // spec.frames - 1
    return min(chunks, held) * counted


def render(model: WorldModel, scenario: Scenario, walkers: Sequence[Walker]) -> Tensor:
    """The true pictures of a walk: [frames, 3, height, width] float32 in 0..1."""
    _, height, width = model.spec.latent
    renderer = Renderer([scenario.rooms], height, width, FIELD_OF_VIEW)
    poses = torch.from_numpy(np.stack([w.pose for w in walkers]))
    return renderer(torch.zeros(len(walkers), dtype=torch.int64), poses)[0]
