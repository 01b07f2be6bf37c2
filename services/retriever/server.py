"""Opens what a replica is made of, in order, and closes it again: store, index, servicer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial

from services.retriever.config import RetrieverConfig
from services.retriever.holding import Holding
from services.retriever.lookups import Lookups
from services.retriever.metrics import Metrics
from services.retriever.reading import Reading
from services.retriever.servicer import Replica, add
from services.retriever.shards import Shards
from services.retriever.source import Sources
from worldkv.service import Host, Servicers
from worldkv.tasks import kept_up

TICK_SECONDS = 1.0
"""Between looks at what only time brings: metrics, and what is not worth remembering any more."""


def servicers(config: RetrieverConfig) -> Servicers:
    """What `worldkv.service` serves for a replica of this configuration."""
    return partial(replica, config)


@asynccontextmanager
async def replica(config: RetrieverConfig, host: Host) -> AsyncIterator[Sequence[str]]:
    """A replica on this host. Raises InvalidConfig for a store that cannot be."""
    async with AsyncExitStack() as stack:
        sources = None
        if config.store is not None:
            sources = await stack.enter_async_context(aclosing(Shards(config.store, config.service.auth.secret)))
        made = await stack.enter_async_context(assembled(config, host, sources))
        if sources is not None:
            stack.callback(asyncio.create_task(kept_up(partial(sources.keep_few, made.reading.tenants))).cancel)
        yield [add(made, host.server)]


@asynccontextmanager
async def assembled(config: RetrieverConfig, host: Host, sources: Sources | None = None) -> AsyncIterator[Replica]:
    """A replica over these sources; leaves them open."""
    metrics = Metrics(host.registry)
    holding = Holding(config.index.max_chunks, config.index.gap_seconds, sources is not None)
    reading = Reading(holding, sources, metrics)
    lookups = Lookups(holding, reading, metrics, config.serving)
    made = Replica(config, holding, reading, lookups, metrics, sources)
    ticking = asyncio.create_task(kept_up(partial(_tick, made)))
    try:
        yield made
    finally:
        ticking.cancel()
        await reading.close()
        lookups.close()


async def _tick(made: Replica) -> None:
    holding = made.holding
    while True:
        made.metrics.held(holding.chunks, holding.branches, holding.nbytes, holding.forgotten)
        await asyncio.sleep(TICK_SECONDS)
        holding.tidy()
