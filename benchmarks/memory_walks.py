"""Walks through memory without a model: poses as they were recorded, keys and values of the pocket model's size.

What is recalled follows from poses alone, so that nothing has to be drawn to see what a memory fetches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.idx_replica import replica
from benchmarks.judged import model
from benchmarks.kv_shard import shard
from benchmarks.select_sim import ASPECT, FOV, FRAMES, RANGE
from services.generator.walks import DEFAULT
from worldkv.actions import Action
from worldkv.chunk import ChunkKey, Lineage, Meta, ModelSpec, Part
from worldkv.client import ClientConfig, KVClient, RetrieverClient, RetrieverClientConfig, fixed
from worldkv.coding import KV
from worldkv.finder import Finder
from worldkv.memory import Memory, MemoryConfig, Recalled
from worldkv.pose import Matrix
from worldkv.select import Query
from worldkv.store import Store
from worldkv.window import Entry, WindowConfig

TIER_BYTES = 1 << 30
"""Memory of a shard."""


class Tier(NamedTuple):
    """A shard and a replica of the index in processes of their own, as a generator sees them."""

    store: KVClient
    finders: RetrieverClient

    def finder(self, lineage: Lineage, spec: ModelSpec) -> Finder:
        return self.finders.finder(lineage, DEFAULT.selector, spec=spec.digest)


@asynccontextmanager
async def tier() -> AsyncIterator[Tier]:
    """Ready to be used."""
    async with shard(TIER_BYTES) as address, replica(address, "services.retriever") as found:
        async with (
            KVClient(fixed(address), ClientConfig(staging_bytes=64 << 20)) as store,
            RetrieverClient(fixed(found), RetrieverClientConfig()) as finders,
        ):
            yield Tier(store, finders)


@dataclass(frozen=True)
class Paced:
    """How a recorded walk is walked.

    poses    [frames, 4, 4]
    actions  that led to each
    first    chunk from which on what is recalled counts
    seconds  that drawing a chunk is taken to last
    """

    poses: Matrix
    actions: Sequence[Action]
    first: int
    seconds: float

    @property
    def chunks(self) -> Matrix:
        """[chunks, frames, 4, 4]: whole ones."""
        return self.poses[: len(self.poses) // FRAMES * FRAMES].reshape(-1, FRAMES, 4, 4)


def memory_for(
    store: Store,
    finder: Finder,
    lineage: Lineage,
    slots: int,
    hot: int,
    kind: type[Memory] = Memory,
    prefetch: bool = False,
) -> Memory:
    """A memory that recalls so many chunks and has `hot` of them at hand."""
    spec = model().spec
    config = MemoryConfig(DEFAULT.coding(model()), hot_bytes=hot * spec.raw_bytes, prefetch=prefetch)
    return kind(spec, WindowConfig(recalled=slots * FRAMES), config, store, finder, lineage)


async def walk(memory: Memory, paced: Paced) -> list[list[ChunkKey]]:
    """What each step recalls, from the first that counts on; statistics are of these steps alone."""
    spec, kv = memory.spec, some_kv(memory.spec)
    recalled: list[list[ChunkKey]] = []
    for index, poses in enumerate(paced.chunks):
        if index == paced.first:
            memory.stats.fetched_bytes = 0
        found: list[Recalled] = []
        if index >= paced.first - 1:
            found = await _step(memory, index, paced)
            recalled.append([each.hit.key for each in found])
        meta = Meta(memory.lineage.key(index), spec.digest, index * FRAMES, poses, FOV, ASPECT)
        await memory.remember(Part(meta, np.zeros((FRAMES, *spec.latent), np.float16)), kv)
    await memory.settle()
    await memory.close()
    return recalled[1:]


async def _step(memory: Memory, index: int, paced: Paced) -> list[Recalled]:
    chunks = paced.chunks
    visible = np.concatenate([chunks[0], chunks[index - 1]])
    found = await memory.recall(Query(chunks[index], FOV, ASPECT, RANGE, visible), {0, index - 1}, _never)
    held, stay = paced.actions[index * FRAMES + FRAMES - 1], np.concatenate([chunks[0], chunks[index]])
    await memory.ahead(index, chunks[index], held, found, stay, {0, index})
    await asyncio.sleep(paced.seconds)
    return found


def some_kv(spec: ModelSpec) -> KV:
    """Keys and values of a chunk; which ones does not matter."""
    shape = (spec.layers, spec.frames * spec.frame_tokens, spec.heads, spec.head_dim)
    return KV(*torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))


def _never(part: Part, before: Collection[Entry]) -> KV:
    raise AssertionError(f"the store has all of chunk {part.meta.key}")
