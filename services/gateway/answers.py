"""What all answers over HTTP have in common: who may ask, what is told when something fails, and their headers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import StatusCode

from worldkv import rpc
from worldkv.auth import Claims
from worldkv.errors import DeadlineExceeded, InvalidInput, NotFound, WorldKVError
from worldkv.service import is_loopback

STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""Of HTTP, by status of gRPC; of others 500."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Of all answers: a page runs what comes from here, and is shown in nobody else's."""
TAKEN_SECONDS = 30.0
"""After which an answer breaks off of which nothing is taken."""
AT_ONCE = 64 << 10
"""Bytes of an answer that have to be taken before there are more."""
MOST = (1 << 63) - 1
"""A number in an address, at most."""
CLAIMS = web.RequestKey("claims", Claims)
"""What a request's caller may."""
_ORIGIN = web.RequestKey("origin", str)

_log = logging.getLogger(__name__)


def caller(request: web.Request) -> Claims:
    """Who asks, and what they may. Raises InvalidInput for a tenant that is none."""
    known: Claims | None = request.get(CLAIMS)
    if known is not None:
        return known
    return Claims(request.query.get("tenant") or request.headers.get(rpc.TENANT_KEY) or rpc.DEFAULT_TENANT)


def number(request: web.Request, name: str, default: int = 0) -> int:
    """A number of the address. Raises InvalidInput for one that is none."""
    text = request.query.get(name, "")
    if text and not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MOST):
        raise InvalidInput(f"{name}={text[:40]!r}: expected a number from 0")
    return int(text) if text else default


def told(message: Message) -> web.Response:
    """A message as JSON."""
    return web.json_response(json_format.MessageToDict(message), headers={"Cache-Control": "no-store"})


def refused(status: int, name: str, words: str) -> web.Response:
    """Why there is no answer."""
    return web.json_response({"status": name, "words": words}, status=status, headers={"Cache-Control": "no-store"})


def refusal(error: WorldKVError) -> web.Response:
    """What is told of an error."""
    code = rpc.status_of(error)
    return refused(STATUS.get(code, 500), code.name, str(error)[: rpc.MAX_DETAILS])


@web.middleware
async def in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells errors as JSON. What is not ours is a bug: logged by the server, and not told to strangers."""
    try:
        return await handler(request)
    except WorldKVError as error:
        return refusal(error)
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith("/v1/"):
            raise
        name = "NOT_FOUND" if error.status == 404 else "INVALID_ARGUMENT"
        return refused(error.status, name, f"{request.path}: {error.reason}")


def from_pages_of(origins: tuple[str, ...]) -> Middleware:
    """Lets in who is no page, or a page of ours, or of one of these origins, whose browsers are told so."""

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or _place(origin) == request.host or not request.path.startswith("/v1/"):
            return await handler(request)
        if "*" not in origins and origin not in origins:
            return refused(403, "PERMISSION_DENIED", f"pages of {origin[:200]} may not walk here")
        request[_ORIGIN] = origin
        if request.method == "OPTIONS":
            allowed = {"Access-Control-Allow-Headers": "authorization, content-type", "Access-Control-Max-Age": "600"}
            return web.Response(status=204, headers={**allowed, "Access-Control-Allow-Methods": "GET, POST"})
        return await handler(request)

    return look


def by_name_of_this_host(origins: tuple[str, ...]) -> Middleware:
    """Lets in who asks for this host, or for one of these origins, by name.

    For a face that this host alone can reach and that asks for no token: there a stranger's page would be let in whose
    name is made to mean this host, for to a browser it then is a page of ours.
    """
    names = {_place(origin) for origin in origins}

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.host
        known = "*" in origins or host in names or _is_here(host) or not request.path.startswith("/v1/")
        if known:
            return await handler(request)
        words = f"nobody walks here as on {host[:200]}: name it in web.origins, or ask for tokens"
        return refused(403, "PERMISSION_DENIED", words)

    return look


def _place(origin: str) -> str:
    """Host and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_here(host: str) -> bool:
    """Whether `host` or `host:port` can only mean this host."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name.endswith(".localhost") or (name != "" and is_loopback(f"{name}:0"))


async def with_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what all answers say in their headers."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if (origin := request.get(_ORIGIN)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Content-Disposition"
        response.headers["Vary"] = "Origin"


async def streamed(
    request: web.Request, pieces: AsyncGenerator[bytes, None], kind: str, name: str = ""
) -> web.StreamResponse:
    """An answer that is sent as it comes, and no faster than it is taken; `name` makes it a file to keep.

    What fails before anything was sent is raised; what fails later breaks the connection, so that half a file is not
    taken for a whole one. So does whoever takes nothing for `TAKEN_SECONDS`.
    """
    async with aclosing(pieces):
        first = await anext(pieces, None)
        if first is None:
            raise NotFound("there is nothing to send")
        response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-store"})
        if name:
            response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        await response.prepare(request)
        try:
            await _sent(response, first)
            async for piece in pieces:
                await _sent(response, piece)
            await _taken(response.write_eof())
        except ConnectionResetError:
            _log.info("%s: nobody takes it any more", request.path)
        except WorldKVError as error:
            _log.warning("%s breaks off: %s", request.path, error)
            if request.transport is not None:
                request.transport.abort()
    return response


async def _sent(response: web.StreamResponse, piece: bytes) -> None:
    for begin in range(0, len(piece), AT_ONCE):
        await _taken(response.write(piece[begin : begin + AT_ONCE]))


async def _taken(writing: Awaitable[None]) -> None:
    """Wait until there is room for more. Raises DeadlineExceeded for whoever takes nothing."""
    try:
        async with asyncio.timeout(TAKEN_SECONDS):
            await writing
    except TimeoutError as error:
        raise DeadlineExceeded(f"nothing was taken for {TAKEN_SECONDS:g} s") from error


def file_name(words: str, ending: str) -> str:
    """A name for a file that any system takes."""
    return (re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.")[:80] or "world") + ending
