"""A real replica on a real port over a store in this process, and worlds for it to know."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.retriever.config import IndexConfig, RetrieverConfig, ServingConfig
from services.retriever.server import assembled
from services.retriever.servicer import Replica, add
from services.retriever.source import StoreSource
from worldkv import rpc
from worldkv.chunk import Branch, ChunkKey, Lineage, Meta, Part
from worldkv.client import RetrieverClient, RetrieverClientConfig, Retry, fixed
from worldkv.errors import Unavailable
from worldkv.format import Frame, Kind, encode_part
from worldkv.index import Hit, ScanIndex
from worldkv.pose import Matrix, camera
from worldkv.select import Query, make_selector
from worldkv.service import Host, ServiceConfig, serve
from worldkv.store import Miss, PartKey, RamStore
from worldkv.wire_retriever import Lookup

SPEC = "0" * 32
CLIENT = RetrieverClientConfig(deadline_seconds=60, retry=Retry(first_seconds=0.001, rest_seconds=0.05))


def frames(rng: np.random.Generator, count: int = 3) -> Matrix:
    """A camera that turns and walks, anywhere in a world of 10 units."""
    (x, y, z), yaw, pitch = rng.uniform(-5, 5, 3), rng.uniform(0, 360), rng.uniform(-15, 15)
    return np.stack([camera(x + 0.2 * i, y, z, yaw + 8 * i, pitch) for i in range(count)])


@cache
def meta(key: ChunkKey, seed: int = 0, spec: str = SPEC) -> Meta:
    rng = np.random.default_rng([seed, key.index, *key.branch])
    return Meta(key, spec, 3 * key.index, frames(rng), float(rng.uniform(0.8, 1.5)), 0.75)


def metas(lineage: Lineage, length: int, begin: int = 0) -> list[Meta]:
    return [meta(lineage.key(n)) for n in range(begin, length)]


def query(seed: int = 0) -> Query:
    rng = np.random.default_rng(seed)
    return Query(frames(rng, 2), 1.1, 0.75, 8.0)


def frame(each: Meta, size: int = 2) -> Frame:
    """The immutable part of a chunk, with latents of about `size` squared numbers a frame."""
    return encode_part(Part(each, np.ones((len(each.poses), 1, size, size), np.float16)))


async def keep(store: Any, some: Sequence[Meta], size: int = 2) -> None:
    await store.put({PartKey(each.key, "part"): frame(each, size) for each in some})


def oracle(known: Sequence[Meta], lookup: Lookup) -> list[Hit]:
    """What an index in this process says that has seen these chunks, and nothing else."""
    index = ScanIndex()
    for each in known:
        index.add(each)
    selector = make_selector(lookup.selector, lookup.seed)
    return index.nearest(
        lookup.query, selector, lookup.count, lookup.lineage, lookup.exclude, lookup.spares, lookup.pending
    )


@dataclass
class Watched:
    """A store whose calls are counted, and which may be down, slow or silent about some.

    down   raises Unavailable
    gate   calls wait for it
    calls  scans and gets so far
    misses answered for these chunks, whatever is held
    """

    store: RamStore = field(default_factory=lambda: RamStore(1 << 30))
    down: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[Branch, int, int | None]] = field(default_factory=list)
    misses: dict[ChunkKey, Miss] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate.set()

    async def _begin(self, name: str) -> None:
        self.calls[name] += 1
        await self.gate.wait()
        if self.down:
            raise Unavailable("the store is down")

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        await self._begin("get")
        found = await self.store.get(keys)
        return {key: self.misses.get(key.chunk, each) for key, each in found.items()}

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        self.ranges.append((branch, begin, end))
        await self._begin("scan")
        async for key in self.store.scan(branch, begin, end, kind):
            yield key

    async def put(self, items: Any) -> Any:
        return await self.store.put(items)

    async def delete(self, keys: Collection[PartKey]) -> int:
        return await self.store.delete(keys)


@dataclass
class Setting:
    """A replica that serves, a client of it, and the store of each tenant."""

    client: RetrieverClient
    replica: Replica
    address: str
    registry: CollectorRegistry
    stores: dict[str, Watched]

    @property
    def store(self) -> Watched:
        return self.stores[rpc.DEFAULT_TENANT]

    def figure(self, name: str, **labels: str) -> float:
        """A figure of the page of metrics."""
        return self.registry.get_sample_value(f"worldkv_retriever_{name}", labels) or 0.0

    @asynccontextmanager
    async def tenant(self, name: str) -> AsyncIterator[RetrieverClient]:
        async with RetrieverClient(fixed(self.address), RetrieverClientConfig(tenant=name)) as client:
            yield client


@asynccontextmanager
async def retriever(
    stored: bool = True,
    address: str = "127.0.0.1:0",
    stores: dict[str, Watched] | None = None,
    serving: ServingConfig | None = None,
    **index: Any,
) -> AsyncIterator[Setting]:
    """A replica over stores in this process, or over none."""
    stores = defaultdict(Watched) if stores is None else stores
    config = RetrieverConfig(
        "r", ServiceConfig(address, drain_seconds=0), serving or ServingConfig(), IndexConfig(**index)
    )
    made: list[Replica] = []

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        sources = (lambda tenant: StoreSource(stores[tenant])) if stored else None
        async with assembled(config, host, sources) as replica:
            made.append(replica)
            yield [add(replica, host.server)]

    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serve(config.service, servicers))
        client = await stack.enter_async_context(RetrieverClient(fixed(running.address), CLIENT))
        yield Setting(client, made[0], running.address, running.registry, stores)
