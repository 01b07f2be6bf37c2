"""The face for browsers: HTTP and WebSocket, on a port of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from services.gateway.config import WebConfig
from services.gateway.routing import Router
from services.gateway.websocket import Conversation, Socket
from worldkv import rpc
from worldkv.errors import InvalidConfig, InvalidInput, Unavailable
from worldkv.service import host_port

PAGE = Path(__file__).parent / "page"
"""What is shown if nothing else is to be."""


@asynccontextmanager
async def serving_web(config: WebConfig, router: Router, ending: asyncio.Event) -> AsyncIterator[str]:
    """Serve browsers until the block ends, and be ready until `ending` is set; gives the address.

    Raises Unavailable if it cannot be had, InvalidConfig for certificates that cannot be read.
    """
    face = _Face(config, router, ending)
    runner = web.AppRunner(face.app(), access_log=None, handle_signals=False, shutdown_timeout=5.0)
    await runner.setup()
    try:
        host, port = host_port(config.address)
        try:
            await web.TCPSite(runner, host, port, ssl_context=_tls(config.tls)).start()
        except OSError as error:
            raise Unavailable(f"cannot show web pages on {config.address}: {error.strerror}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class _Face:
    def __init__(self, config: WebConfig, router: Router, ending: asyncio.Event) -> None:
        self.config, self.router, self.ending = config, router, ending

    def app(self) -> web.Application:
        app = web.Application()
        folder = self.config.folder or PAGE
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/v1/walk", self._walk)
        app.router.add_get("/", _showing(folder / "index.html"))
        app.router.add_static("/", folder)
        return app

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="this process lives\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self.ending.is_set():
            return web.Response(status=503, text="this gateway ends\n")
        count = len(self.router.generators.answering())
        return web.Response(status=200 if count else 503, text=f"{count} generators answer\n")

    async def _walk(self, request: web.Request) -> web.StreamResponse:
        if not self._may(request):
            raise web.HTTPForbidden(text=f"pages of {request.headers['Origin'][:200]} may not walk here\n")
        given = request.query.get("tenant") or request.headers.get(rpc.TENANT_KEY) or rpc.DEFAULT_TENANT
        try:
            tenant = rpc.tenant_named(given)
        except InvalidInput as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        if self.router.ended.is_set():
            raise web.HTTPServiceUnavailable(text="this gateway ends\n")
        socket = Socket(self.config)
        await socket.prepare(request)
        with self.router.metrics.sockets.track_inprogress():
            await Conversation(socket, self.router, tenant, self.config).run()
        return socket

    def _may(self, request: web.Request) -> bool:
        """Whether the page that asks, if it is one, may."""
        origin = request.headers.get("Origin")
        if origin is None or "*" in self.config.origins or origin in self.config.origins:
            return True
        return urlsplit(origin).netloc == request.host


def _showing(file: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def show(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(file)

    return show


def _tls(tls: rpc.TLS) -> ssl.SSLContext | None:
    """Transport security of a server. Raises InvalidConfig for files that cannot be read."""
    if not tls:
        return None
    if tls.certificate is None:
        raise InvalidConfig("web.tls.authority needs web.tls.certificate and web.tls.key too")
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.authority)
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise InvalidConfig(f"web.tls: its files cannot be read: {error}") from error
    if tls.authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
