"""Opens what a gateway is made of, in order, and closes it again: lines to generators, gRPC face, web face."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from services.gateway.config import GatewayConfig
from services.gateway.generators import Generators
from services.gateway.metrics import Metrics
from services.gateway.routing import Router
from services.gateway.servicer import add
from services.gateway.web import serving_web
from worldkv.auth import Bearer
from worldkv.client import MembershipFile, fixed
from worldkv.service import Host, Servicers
from worldkv.tasks import kept_up

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Between looks at what metrics show."""


def servicers(config: GatewayConfig) -> Servicers:
    """What `worldkv.service` serves for a gateway of this configuration."""
    return partial(gateway, config)


@asynccontextmanager
async def gateway(config: GatewayConfig, host: Host) -> AsyncIterator[Sequence[str]]:
    """A gateway on this host. Raises InvalidConfig for generators that cannot be, Unavailable if the address of its web
    face cannot be had."""
    async with assembled(config, host) as (name, web):
        if web:
            _log.info("gateway shows its web face on %s", web)
        yield [name]


@asynccontextmanager
async def assembled(config: GatewayConfig, host: Host) -> AsyncIterator[tuple[str, str]]:
    """A gateway on this host: the name of its service, and the address of its web face, empty if it has none."""
    members = fixed(*config.generators) if config.members is None else MembershipFile(config.members)
    metrics = Metrics(host.registry)
    async with AsyncExitStack() as stack:
        bearer = Bearer(config.token, config.service.auth.secret)
        generators = Generators(members, config.routing, config.tls, bearer)
        stack.push_async_callback(generators.close)
        for chore in (generators.keep_looking, partial(_tick, generators, metrics)):
            stack.callback(asyncio.create_task(kept_up(chore)).cancel)
        router = Router(generators, config.routing, metrics, config.quota)
        stack.callback(asyncio.create_task(_end(host, config, router)).cancel)
        web = ""
        if config.web.address:
            authority = config.service.auth.authority()
            web = await stack.enter_async_context(serving_web(config, router, host.ending, authority))
        stack.callback(router.ended.set)
        yield add(router, host.server), web


async def _end(host: Host, config: GatewayConfig, router: Router) -> None:
    """End all walks once no new ones are taken: they go on through another gateway."""
    await host.ending.wait()
    await asyncio.sleep(config.service.notice_seconds)
    router.ended.set()


async def _tick(generators: Generators, metrics: Metrics) -> None:
    while True:
        metrics.generators(generators.states())
        await asyncio.sleep(TICK_SECONDS)
