"""Tries every call and every route of a service with tokens that are not for them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from time import time
from typing import Any, NamedTuple, cast

import aiohttp
import jwt
from grpc import StatusCode, aio

from services.gateway.config import GatewayConfig
from services.gateway.web import Face
from services.gateway.web_auth import CLOSED, PROTOCOL, TOKEN
from worldkv import rpc
from worldkv.auth import OF_LINKS, REFLECTION, SCHEME, SESSIONS, TENANT_KEY, TOKEN_KEY, Authority, Claims, Role
from worldkv.v1 import fleet_pb2, generator_pb2, kvstore_pb2, retriever_pb2, sessions_pb2

PROTOS = (fleet_pb2, generator_pb2, kvstore_pb2, retriever_pb2, sessions_pb2)
REFLECTED = REFLECTION[1]
TENANT, FOREIGN = "acme", "foreign"
SECONDS = 20.0
"""That one try may take."""
REFUSED = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)
REFUSED_HTTP = (401, 403)
REQUESTS = {
    "Walk": sessions_pb2.WalkRequest(join=sessions_pb2.Join(session="somebody's")),
    "Look": sessions_pb2.LookRequest(session="somebody's"),
    "Open": sessions_pb2.OpenRequest(world="somebody's"),
}
"""What is asked with; of other calls nothing."""


STREAMING = {
    f"/{service.full_name}/{method.name}"
    for proto in PROTOS
    for service in proto.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.client_streaming
} | {f"/{REFLECTED}/ServerReflectionInfo"}
"""Calls whose requests are streams."""


class Where(NamedTuple):
    """Where a service is: `host:port` of each gRPC server, by the full names of what it serves, and of the web face."""

    servers: Mapping[str, str]
    web: str
    tls: rpc.TLS | None = None


class Shown(NamedTuple):
    """What somebody shows who should not be let in; `role` is empty if nobody is to be let in with it."""

    what: str
    header: str
    tenant: str = ""
    role: Role | None = None


def calls() -> Iterator[str]:
    """Every call of every service of ours, and reflection, as `/package.Service/Method`."""
    for proto in PROTOS:
        for service in proto.DESCRIPTOR.services_by_name.values():
            yield from (f"/{service.full_name}/{method.name}" for method in service.methods)
    yield f"/{REFLECTED}/ServerReflectionInfo"


def routes() -> list[tuple[str, str]]:
    """Every route of the web face: method and path."""
    nobody = cast(Any, None)
    app = Face(GatewayConfig(), nobody, asyncio.Event(), None, nobody).app()
    return [(each.method, each.resource.canonical) for each in app.router.routes() if each.resource is not None]


def shown(secret: Path) -> list[Shown]:
    """All that should let nobody in, at a service that has this file of secrets."""
    key, soon = secret.read_text().split()[0], int(time()) + 600
    good = {"sub": TENANT, "role": "service", "exp": soon}

    def signed(by: str = key, algorithm: str = "HS256", **changed: object) -> str:
        return SCHEME + jwt.encode({**good, **changed}, by, algorithm)

    nobody = [
        Shown("nothing", ""),
        Shown("a password", "Basic YWNtZTphY21l"),
        Shown("no token", SCHEME + "acme"),
        Shown("an unsigned token", signed("", "none")),
        Shown("a token that somebody else signed", signed("x" * 32)),
        Shown("an expired token", signed(exp=int(time()) - 1)),
        Shown("a token for another tenant", signed(sub=FOREIGN, role="tenant"), TENANT),
        Shown("an operator's token for another tenant", signed(sub=FOREIGN, role="operator"), TENANT),
    ]
    authority = Authority(secret)
    own = (Claims(TENANT), Claims(TENANT, "watch", session="w1"), Claims(TENANT, "world", world="hall", at=3))
    return nobody + [
        Shown(f"a token of role {each.role}", SCHEME + authority.sign(each, 600), role=each.role) for each in own
    ]


def is_for(role: Role | None, method: str) -> bool:
    """Whether a role may make a call, with what is asked here; apart from `worldkv.auth`, which is tried."""
    service, name = method[1:].split("/")
    if role == "tenant":
        return service == SESSIONS or service in REFLECTION
    return role == "world" and service == SESSIONS and name in OF_LINKS and name != "Open"


async def status(channel: aio.Channel, method: str, metadata: Mapping[str, str]) -> StatusCode:
    """What a call is answered."""
    asked = REQUESTS.get(method.rpartition("/")[2])
    request, limits = asked.SerializeToString() if asked else b"", {"timeout": SECONDS}
    ways: Any = channel.stream_stream(method) if method in STREAMING else channel.unary_stream(method)
    said = iter([request]) if method in STREAMING else request
    call = ways(said, metadata=tuple(metadata.items()), **limits)
    try:
        async for _ in call:
            call.cancel()
            return StatusCode.OK
    except aio.AioRpcError as error:
        return error.code()
    return cast(StatusCode, await call.code())


async def open_calls(where: Where, secret: Path) -> list[str]:
    """Calls that are answered though they should not be, in words."""
    found = []
    async with AsyncExitStack() as stack:
        for name, address in where.servers.items():
            channel = await stack.enter_async_context(rpc.channel(address, where.tls))
            for method in [each for each in calls() if each.startswith(f"/{name}/")]:
                for one in [each for each in shown(secret) if not is_for(each.role, method)]:
                    said = {TOKEN_KEY: one.header, TENANT_KEY: one.tenant}
                    code = await status(channel, method, {key: value for key, value in said.items() if value})
                    if code not in REFUSED:
                        found.append(f"{method} on {address} with {one.what}: {code.name}")
    return found


async def open_routes(where: Where, secret: Path) -> list[str]:
    """Routes of the web face that are answered though they should not be, in words; of pages that anybody may have
    nothing is expected."""
    found = []
    base = f"http://{where.web}"
    secured: ssl.SSLContext | bool = True
    if where.tls:
        base, secured = f"https://{where.web}", ssl.create_default_context(cafile=where.tls.authority)
    connector = aiohttp.TCPConnector(ssl=secured)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(SECONDS)) as session:
        for method, path in [each for each in routes() if each[1].startswith(CLOSED)]:
            for one in [each for each in shown(secret) if each.role not in _let_into(path)]:
                token = one.header.removeprefix(SCHEME)
                ways = [{"Authorization": one.header}, {"Sec-WebSocket-Protocol": f"{PROTOCOL}, {TOKEN}{token}"}]
                for headers in ways if one.header else [{}]:
                    if path == "/v1/walk":
                        headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
                        headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
                    query = {"session": "somebody's", **({"tenant": one.tenant} if one.tenant else {})}
                    async with session.request(method, base + path, headers=headers, params=query) as answer:
                        if answer.status not in REFUSED_HTTP:
                            found.append(f"{method} {path} with {one.what}: {answer.status}")
    return found


def _let_into(path: str) -> tuple[str, ...]:
    """Roles that a route answers, if only to say that they ask for too much."""
    if path == "/v1/fleet":
        return ()
    links = ("watch", "world") if path in ("/v1/walk", "/v1/about") else ()
    return ("tenant", *links, *(("world",) if path in ("/v1/look", "/v1/film") else ()))
