"""Opens what a shard is made of, in order, and closes it again: memory, Redis, tiers, servicer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from services.kvstore.config import KVStoreConfig
from services.kvstore.lower import Lower
from services.kvstore.membership import Membership
from services.kvstore.metrics import Metrics
from services.kvstore.ram import RamTier
from services.kvstore.records import TieredCatalog, TieredSnapshots
from services.kvstore.redis_config import RedisConfig
from services.kvstore.segments import Segments
from services.kvstore.servicer import Records, Shard, add
from services.kvstore.tiered import Tiered
from worldkv.catalog import RamCatalog, RamSnapshots
from worldkv.errors import InvalidConfig, Unavailable
from worldkv.service import Host, Servicers

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Between looks at what only time brings: metrics, records that wait, segments of writers that are gone."""


class Tenants:
    """Records of every tenant, made when they are first asked for.

    lower  gives a tenant's records in Redis; None where there is no Redis
    """

    def __init__(self, config: KVStoreConfig, lower: Callable[[str], Records] | None) -> None:
        self._config, self._lower = config, lower
        self._records: dict[str, Records] = {}

    def __call__(self, tenant: str) -> Records:
        if tenant not in self._records:
            self._records[tenant] = self._open(tenant)
        return self._records[tenant]

    def lost(self) -> None:
        """Redis has lost what it had."""
        for worlds, _ in self._records.values():
            if isinstance(worlds, TieredCatalog):
                worlds.lost()

    async def settle(self) -> None:
        """Write to Redis what it has not got; Unavailable if it does not answer."""
        for records in [*self._records.values()]:
            for each in records:
                if isinstance(each, TieredCatalog | TieredSnapshots):
                    await each.settle()

    def _open(self, tenant: str) -> Records:
        snapshots = RamSnapshots(self._config.serving.snapshots_bytes)
        if self._lower is None:
            return Records(RamCatalog(), snapshots)
        lower = self._lower(tenant)
        return Records(TieredCatalog(lower.worlds), TieredSnapshots(snapshots, lower.snapshots))


def servicers(config: KVStoreConfig) -> Servicers:
    """What `worldkv.service` serves for a shard of this configuration."""
    return partial(shard, config)


@asynccontextmanager
async def shard(config: KVStoreConfig, host: Host) -> AsyncIterator[Sequence[str]]:
    """A shard on this host. Its memory is reserved and touched before it serves; what waits is written at its end.

    Raises Unavailable if the host has not so much shared memory, InvalidConfig if Redis cannot promise what is asked.
    """
    async with AsyncExitStack() as stack:
        ram = await asyncio.to_thread(RamTier, config.ram)
        stack.callback(ram.close)
        losses: list[Callable[[], None]] = []

        def lost() -> None:
            for each in losses:
                each()

        tier, records = await _redis(stack, config.redis, lost)
        tiers, tenants = Tiered(ram, tier, config.tiers), Tenants(config, records)
        stack.push_async_callback(tiers.close)
        losses += [tiers.lost, tenants.lost]
        segments = Segments(config.serving.staging_prefix)
        stack.callback(segments.close)
        made = Shard(config, tiers, Metrics(host.registry), segments, Membership(), tenants)
        stack.callback(asyncio.create_task(_tick(made, tenants)).cancel)
        yield [add(made, host.server)]


async def _redis(
    stack: AsyncExitStack, config: RedisConfig | None, on_lost: Callable[[], None]
) -> tuple[Lower | None, Callable[[str], Records] | None]:
    """The tier in Redis, and what gives a tenant's records there; None for both without Redis."""
    if config is None:
        return None, None
    try:  # a shard without Redis runs without its libraries
        from services.kvstore.redis_catalog import RedisCatalog, RedisSnapshots
        from services.kvstore.redis_server import connect
        from services.kvstore.redis_tier import RedisTier
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"redis is configured, but {error.name} is missing: pip install worldkv[kvstore]"
        ) from error
    server = await stack.enter_async_context(connect(config, on_lost))
    return RedisTier(server), lambda tenant: Records(RedisCatalog(server, tenant), RedisSnapshots(server, tenant))


async def _tick(made: Shard, tenants: Tenants) -> None:
    while True:
        made.metrics.refresh(made.tiers, made.tiers.ram.stats())
        await made.segments.sweep()
        try:
            await tenants.settle()
        except Unavailable as error:
            _log.debug("records wait: %s", error)
        await asyncio.sleep(TICK_SECONDS)
