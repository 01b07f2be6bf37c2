"""Where chunks are kept that are not in the window: on the device, or in a store and an index of this host."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.idx_replica import replica
from benchmarks.kv_shard import shard
from benchmarks.shape.plan import Plan
from worldkv.chunk import ChunkKey, KVPart, Lineage, ModelSpec
from worldkv.client import ClientConfig, KVClient, RetrieverClient, RetrieverClientConfig, fixed
from worldkv.coding import KV, coded_bytes, pruned, stored_tokens
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Device, Memory, MemoryConfig
from worldkv.select import make_selector
from worldkv.store import RamStore

SELECTOR = "pose"
"""The paper's, which fills all slots as soon as there is something to fill them with."""
PART_BYTES = 16 << 20
"""For a chunk's immutable part and what a shard rounds up, beside its keys and values."""
WAITING = 3
"""Uncoded chunks that may wait for the store: one that is put, one that is coded, and the one just drawn."""
SPARE = 2
"""Decoded chunks at hand beyond those that a step recalls: what is fetched ahead."""
SECONDS = 120.0
"""For a call to the store: chunks of gigabytes come over one connection."""


class OnDevice(Memory):
    """Keeps chunks pruned and uncoded where they were made; the store has their latents alone."""

    async def _keep(self, key: ChunkKey, kv: KV | KVPart) -> None:
        assert isinstance(kv, KV), "nothing that is kept here is made again"
        kept = pruned(kv, self.config.coding.pruning, self.spec.frames)
        self._hot.keep(key, self._coder.place(key, reencoded=False, kv=kept))


@asynccontextmanager
async def memory_of(plan: Plan, spec: ModelSpec) -> AsyncIterator[Memory]:
    """A memory of one walk with the plan's bank; what it holds, and its processes, go with the block.

    spec  of the model that walks

    Raises Unavailable if the host has no room for the bank.
    """
    async with AsyncExitStack() as stack:
        memory = _on_device(plan, spec) if plan.bank == "device" else await _on_host(plan, spec, stack)
        stack.push_async_callback(memory.close)
        yield memory


def _on_device(plan: Plan, spec: ModelSpec) -> Memory:
    lineage = Lineage.begin()
    finder = LocalFinder(ScanIndex(), make_selector(SELECTOR), lineage)
    config = MemoryConfig(plan.coding, hot_bytes=sys.maxsize, reencode=False)
    return OnDevice(
        spec, plan.window, config, RamStore(plan.chunks * PART_BYTES), finder, lineage, device=Device(plan.device)
    )


async def _on_host(plan: Plan, spec: ModelSpec, stack: AsyncExitStack) -> Memory:
    """Room everywhere is by the size of a chunk as it is stored, and at hand."""
    coding, lineage = plan.coding, Lineage.begin()
    coded, kept = coded_bytes(coding, spec), stored_tokens(coding, spec)
    decoded = spec.raw_bytes * kept // (spec.frames * spec.frame_tokens)
    room = ClientConfig(deadline_seconds=SECONDS, staging_bytes=coded + PART_BYTES, landing_bytes=2 * coded)
    address = await stack.enter_async_context(shard((plan.chunks + 1) * (coded + PART_BYTES)))
    found = await stack.enter_async_context(replica(address, "services.retriever"))
    store = await stack.enter_async_context(KVClient(fixed(address), room))
    index = await stack.enter_async_context(RetrieverClient(fixed(found), RetrieverClientConfig()))
    config = MemoryConfig(
        coding,
        hot_bytes=(plan.window.recalled * spec.frame_tokens // kept + SPARE) * decoded,
        queue_bytes=WAITING * spec.raw_bytes,
        prefetch=True,
        reencode=False,
    )
    finder = index.finder(lineage, SELECTOR, spec=spec.digest)
    return Memory(spec, plan.window, config, store, finder, lineage, device=Device(plan.device))
