"""The memory tier as a generator sees it: stores, world records, session states and an index, a tenant at a time.

`Shards` reaches the store's shards and the index's replicas, with one client each a tenant; `Inside` keeps everything
in this process' memory, and it goes with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Protocol

from services.generator.config import LEAST_BYTES, IndexConfig, StoreConfig, room
from worldkv.auth import Bearer
from worldkv.catalog import Catalog, RamCatalog, RamSnapshots, Snapshots
from worldkv.chunk import Lineage
from worldkv.client import (
    ClientConfig,
    KVClient,
    Members,
    MembershipFile,
    RetrieverClient,
    RetrieverClientConfig,
    Standby,
    fixed,
)
from worldkv.finder import Finder, LocalFinder
from worldkv.index import ScanIndex
from worldkv.select import make_selector
from worldkv.store import RamStore, Store

IDLE_SECONDS = 300.0
"""For which a tenant's connections are kept that it does not use."""
TICK_SECONDS = 5.0
"""Between looks for tenants that do not use theirs."""


class Finding(Protocol):
    """Makes the index as one session sees it."""

    def __call__(self, lineage: Lineage, selector: str, spec: str, published: int, patient: bool) -> Finder:
        """The index of a world.

        selector   its name
        spec       digest of the model
        published  chunks of the lineage that are kept already
        patient    whether one waits for answers, rather than go on without
        """
        ...


@dataclass(frozen=True)
class Tier:
    """What one tenant's sessions are remembered by."""

    store: Store
    worlds: Catalog
    snapshots: Snapshots
    finder: Finding


class Tiers(Protocol):
    """Gives tenants' tiers."""

    def __call__(self, tenant: str) -> Tier: ...

    async def keep_few(self, busy: Callable[[], Collection[str]]) -> None:
        """Let go of what tenants hold that have not asked for long and are not among the busy, and of memory that is
        kept warm for any who is not; may not end."""

    async def aclose(self) -> None:
        """End all connections."""


@dataclass
class Inside:
    """Tiers in this process' memory: `store_bytes` and `snapshot_bytes` a tenant."""

    store_bytes: int
    snapshot_bytes: int
    _known: dict[str, Tier] = field(default_factory=dict)

    def __call__(self, tenant: str) -> Tier:
        if tenant not in self._known:
            index = ScanIndex()

            def finder(lineage: Lineage, selector: str, spec: str, published: int, patient: bool) -> Finder:
                return LocalFinder(index, make_selector(selector), lineage)

            store, states = RamStore(self.store_bytes), RamSnapshots(self.snapshot_bytes)
            self._known[tenant] = Tier(store, RamCatalog(), states, finder)
        return self._known[tenant]

    async def keep_few(self, busy: Callable[[], Collection[str]]) -> None:
        """Nothing can be let go of: it is nowhere else."""

    async def aclose(self) -> None:
        """Nothing is open."""


class _Clients(NamedTuple):
    shards: KVClient
    replicas: RetrieverClient
    tier: Tier


class Shards:
    """Tiers over the shards of a store and the replicas of an index: a client of each for every tenant.

    secret       file of secrets to sign tokens with, where no token is given
    chunk_bytes  of a chunk's keys and values as they are coded: what room follows that is not configured

    Raises InvalidConfig for members that cannot be, or a file that cannot be read.
    """

    def __init__(
        self, store: StoreConfig, index: IndexConfig, secret: Path | None = None, chunk_bytes: int = 0
    ) -> None:
        self._store, self._index = store, index
        self._landing_bytes = room(store.landing_bytes, 2 * chunk_bytes)
        self._staging_bytes = room(store.staging_bytes, chunk_bytes + LEAST_BYTES)
        self._bearers = Bearer(store.token, secret), Bearer(index.token, secret)
        self._shards: Members = fixed(*store.shards) if store.members is None else MembershipFile(store.members)
        self._replicas: Members = fixed(*index.replicas) if index.members is None else MembershipFile(index.members)
        self._shards(), self._replicas()
        self._known: dict[str, _Clients] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, tenant: str) -> Tier:
        self._asked[tenant] = monotonic()
        if tenant not in self._known:
            self._known[tenant] = self._connected(tenant)
        return self._known[tenant].tier

    async def keep_few(self, busy: Callable[[], Collection[str]]) -> None:
        """See `Tiers.keep_few`."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            walked = busy()
            for tenant in self._known.keys() - walked:
                self._known[tenant].shards.rest()
            idle = [tenant for tenant, when in self._asked.items() if when + IDLE_SECONDS < monotonic()]
            for tenant in set(idle).difference(walked):
                del self._asked[tenant]
                await _close(self._known.pop(tenant))

    async def aclose(self) -> None:
        """See `Tiers.aclose`."""
        for clients in self._known.values():
            await _close(clients)

    def _connected(self, tenant: str) -> _Clients:
        store, index = self._store, self._index
        shards = KVClient(
            self._shards,
            ClientConfig(
                tenant=tenant,
                deadline_seconds=store.deadline_seconds,
                stall_seconds=store.stall_seconds,
                landing_bytes=self._landing_bytes,
                staging_bytes=self._staging_bytes,
                tls=store.tls,
                bearer=self._bearers[0],
            ),
        )
        replicas = RetrieverClient(
            self._replicas,
            RetrieverClientConfig(
                tenant=tenant, failover_seconds=index.failover_seconds, tls=index.tls, bearer=self._bearers[1]
            ),
        )

        def finder(lineage: Lineage, selector: str, spec: str, published: int, patient: bool) -> Finder:
            seconds = index.patient_seconds if patient else index.deadline_seconds
            found = replicas.finder(lineage, selector, spec=spec, deadline_seconds=seconds, published=published)
            return Standby(found, shards.batches)

        return _Clients(shards, replicas, Tier(shards, shards.worlds, shards.sessions, finder))


async def _close(clients: _Clients) -> None:
    await clients.replicas.close()
    await clients.shards.close()
