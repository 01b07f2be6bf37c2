"""The shards of a store as sources: a client a tenant, as long as the tenant uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from time import monotonic

from services.retriever.config import StoreConfig
from services.retriever.source import ShardsSource, Source
from worldkv.auth import Bearer
from worldkv.client import ClientConfig, KVClient, MembershipFile, fixed

LANDING_BYTES = 32 << 20
"""Memory for a tenant's parts to land in, while no part is there."""
IDLE_SECONDS = 300.0
"""For which a tenant's connections are kept that it does not use; at least two calls' deadlines."""
TICK_SECONDS = 1.0
"""Between looks for tenants that do not use theirs."""


class Shards:
    """Gives tenants' sources over the shards of a store: a client each, made when it is first asked for.

    secret  file of secrets to sign tokens with, where no token is given

    Raises InvalidConfig for shards that cannot be, or a file that cannot be read.
    """

    def __init__(self, config: StoreConfig, secret: Path | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        self.config, self.idle_seconds = config, max(idle_seconds, 2 * config.deadline_seconds)
        self._members = fixed(*config.shards) if config.members is None else MembershipFile(config.members)
        self._members()
        self._bearer = Bearer(config.token, secret)
        self._known: dict[str, tuple[KVClient, Source]] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, tenant: str) -> Source:
        self._asked[tenant] = monotonic()
        if tenant not in self._known:
            settings = ClientConfig(
                tenant=tenant,
                deadline_seconds=self.config.deadline_seconds,
                stall_seconds=self.config.stall_seconds,
                landing_bytes=LANDING_BYTES,
                tls=self.config.tls,
                bearer=self._bearer,
            )
            client = KVClient(self._members, settings)
            self._known[tenant] = client, ShardsSource(client)
        return self._known[tenant][1]

    async def keep_few(self, busy: Callable[[], Collection[str]]) -> None:
        """End the connections of tenants that have not asked for long and are not among the busy; does not end."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for tenant in [each for each, when in self._asked.items() if when + self.idle_seconds < monotonic()]:
                if tenant not in busy():
                    client, _ = self._known.pop(tenant)
                    del self._asked[tenant]
                    await client.close()

    async def aclose(self) -> None:
        """End all connections."""
        for client, _ in self._known.values():
            await client.close()
