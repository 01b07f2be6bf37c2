"""Calls that change nothing: a tenant's worlds, chunks seen again, worlds as files. Streams are handed on as they are
taken: nothing is read from a generator while the client has not taken what was read before."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from services.gateway.generators import Generator
from services.gateway.routing import Router
from worldkv.client.policy import Deadline
from worldkv.errors import NotFound, Unavailable, WorldKVError
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import is_watch_id

_log = logging.getLogger(__name__)


async def worlds(router: Router, tenant: str, request: pb.WorldsRequest, deadline: Deadline) -> pb.WorldsResponse:
    """A page of a tenant's worlds, as any generator lists them. Raises Unavailable if none answers."""
    for generator in await router.generators.known():
        try:
            page: pb.WorldsResponse = await generator.call(generator.sessions.Worlds, request, tenant, deadline)
        except Unavailable as error:
            _log.warning("worlds are not listed by generator %s: %s", generator.name, error)
        else:
            return page
    raise router.nowhere("worlds cannot be listed")


async def look(router: Router, tenant: str, request: pb.LookRequest) -> AsyncGenerator[pb.LookResponse, None]:
    """Chunks of a session's world. Raises NotFound for a session that nobody knows, Unavailable if nobody answers."""
    homes = await whereabouts(router, tenant, request.session)
    calls = ((each, each.sessions.Look) for each in homes)
    async with aclosing(_first(router, calls, request, tenant, "chunks are looked at")) as chunks:
        async for chunk in chunks:
            yield chunk


async def export(router: Router, tenant: str, request: pb.ExportRequest) -> AsyncGenerator[pb.ExportResponse, None]:
    """A world as a file. Raises NotFound for a world that nobody knows, Unavailable if nobody answers."""
    calls = ((each, each.sessions.Export) for each in await router.generators.known())
    async with aclosing(_first(router, calls, request, tenant, "a world is exported")) as pieces:
        async for piece in pieces:
            yield piece


async def whereabouts(router: Router, tenant: str, session: str) -> list[Generator]:
    """Generators that may know a session, by either of its ids, most likely first.

    One that lives nowhere is resumed, if its own id is given; who watches wakes nobody.
    """
    if not is_watch_id(session):
        return [(await router.settle(tenant, session, router.deadline())).generator]
    if (home := router.watched(tenant, session)) is None:
        await router.generators.look()
        home = router.watched(tenant, session)
    return [home] if home else await router.generators.known()


async def _first(
    router: Router, calls: Iterable[tuple[Generator, Any]], request: Any, tenant: str, what: str
) -> AsyncGenerator[Any, None]:
    """What the first generator says that knows what is asked for."""
    failed: WorldKVError | None = None
    for generator, method in calls:
        began = False
        try:
            async with aclosing(generator.stream(method, request, tenant)) as answers:
                async for answer in answers:
                    began = True
                    yield answer
                return
        except (NotFound, Unavailable) as error:
            if began:
                raise
            _log.info("%s, not by generator %s: %s", what, generator.name, error)
            if failed is None or isinstance(error, NotFound):
                failed = error
    raise failed or router.nowhere(f"{what} by nobody")
