"""Opens what a shard is made of, in order, and closes it again: memory, Redis, tiers, servicer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from services.kvstore.config import KVStoreConfig
from services.kvstore.lower import Lower
from services.kvstore.machine import check_room
from services.kvstore.membership import Membership
from services.kvstore.metrics import Metrics
from services.kvstore.ram import RamTier
from services.kvstore.records import Records, Tenants
from services.kvstore.redis_config import RedisConfig
from services.kvstore.segments import Segments
from services.kvstore.servicer import Shard, add
from services.kvstore.tiered import Tiered
from worldkv.errors import InvalidConfig, Unavailable, WorldKVError
from worldkv.heap import give_back
from worldkv.service import Host, Servicers
from worldkv.tasks import kept_up

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Between looks at what only time brings: metrics, records that wait, segments of writers that are gone."""
GIVE_BACK_SECONDS = 5.0
"""Between two returns of what calls have freed: large messages come and go, beside an arena that stays."""


def servicers(config: KVStoreConfig) -> Servicers:
    """What `worldkv.service` serves for a shard of this configuration."""
    return partial(shard, config)


@asynccontextmanager
async def shard(config: KVStoreConfig, host: Host) -> AsyncIterator[Sequence[str]]:
    """A shard on this host. Its memory is reserved and touched before it serves; what waits is written at its end.

    Raises Unavailable if the host has not so much shared memory free, InvalidConfig if it has not so much memory at
    all, or if Redis cannot promise what is asked.
    """
    check_room(config.ram.budget_bytes)
    async with AsyncExitStack() as stack:
        ram = await asyncio.to_thread(RamTier, config.ram)
        stack.callback(ram.close)
        losses: list[Callable[[], None]] = []

        def lost() -> None:
            for each in losses:
                each()

        tier, records = await _redis(stack, config.redis, host, lost)
        made = await stack.enter_async_context(assembled(config, host, ram, tier, records))
        losses += [made.tiers.lost, made.records.lost]
        if config.members is not None:
            from services.kvstore.leaving import handing_over  # the client is for shards that have others

            following = handing_over(config, config.members, ram, made.records, made.membership, host)
            await stack.enter_async_context(following)
        yield [add(made, host.server)]


@asynccontextmanager
async def assembled(
    config: KVStoreConfig,
    host: Host,
    ram: RamTier,
    tier: Lower | None = None,
    records: Callable[[str], Records] | None = None,
) -> AsyncIterator[Shard]:
    """A shard of these tiers, and of what gives a tenant's records in Redis; leaves the tiers open."""
    tiers, segments = Tiered(ram, tier, config.tiers), Segments(config.serving.staging_prefix)
    made = Shard(
        config, tiers, Metrics(host.registry), segments, Membership(), Tenants(config.serving.snapshots_bytes, records)
    )
    async with AsyncExitStack() as stack:
        stack.callback(segments.close)
        stack.push_async_callback(tiers.close)
        stack.push_async_callback(_last_settle, made.records)
        for chore in (partial(_tick, made), partial(_give_back, made)):
            stack.callback(asyncio.create_task(kept_up(chore)).cancel)
        yield made


async def _redis(
    stack: AsyncExitStack, config: RedisConfig | None, host: Host, on_lost: Callable[[], None]
) -> tuple[Lower | None, Callable[[str], Records] | None]:
    """The tier in Redis, and what gives a tenant's records there; None for both without Redis."""
    if config is None:
        return None, None
    try:  # a shard without Redis runs without its libraries
        from services.kvstore.redis_catalog import RedisCatalog, RedisSnapshots
        from services.kvstore.redis_metrics import RedisMetrics
        from services.kvstore.redis_server import connect
        from services.kvstore.redis_tier import RedisTier
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"redis is configured, but {error.name} is missing: pip install worldkv[kvstore]"
        ) from error
    server = await stack.enter_async_context(connect(config, on_lost))
    tier = RedisTier(server)
    host.registry.register(RedisMetrics(tier, server.breaker))
    stack.callback(asyncio.create_task(tier.keep_swept()).cancel)
    return tier, lambda tenant: Records(RedisCatalog(server, tenant), RedisSnapshots(server, tenant))


async def _tick(made: Shard) -> None:
    while True:
        made.metrics.refresh(made.tiers, made.tiers.ram.stats())
        try:
            await made.segments.sweep()
            await made.records.settle()
        except Unavailable as error:
            _log.debug("records wait: %s", error)
        except (WorldKVError, OSError, RuntimeError) as error:
            # Want of threads or of files may pass.
            _log.warning("a look at what waits failed: %r", error)
        await asyncio.sleep(TICK_SECONDS)


async def _give_back(made: Shard) -> None:
    """Garbage is looked for while nobody asks for parts: it takes the longer the more there are."""
    while True:
        asked = made.metrics.asked
        await asyncio.sleep(GIVE_BACK_SECONDS)
        await asyncio.to_thread(give_back, garbage=made.metrics.asked == asked)


async def _last_settle(records: Tenants) -> None:
    try:
        await records.settle()
    except Unavailable as error:
        _log.warning("records are not in Redis at the end: %s", error)
