"""The face for browsers: HTTP and WebSocket, on a port of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiohttp import web

from services.gateway.answers import by_name_of_this_host, caller, from_pages_of, in_words, refused, told, with_headers
from services.gateway.config import GatewayConfig
from services.gateway.downloads import Downloads
from services.gateway.fleet_view import FleetView
from services.gateway.pages import Pages
from services.gateway.reading import worlds
from services.gateway.routing import Router
from services.gateway.sharing import Sharing
from services.gateway.web_auth import authenticated
from services.gateway.websocket import Conversation, Socket
from worldkv import rpc
from worldkv.auth import Authority, Bearer
from worldkv.errors import Forbidden, InvalidConfig, Unavailable
from worldkv.service import host_port, is_loopback
from worldkv.v1 import sessions_pb2 as pb

PAGE = Path(__file__).parent / "page"
"""What is shown if nothing else is to be."""
QUIET_SECONDS = 30.0
"""That a connection may be quiet, or take to say what it asks for."""
LINGER_SECONDS = 1.0
"""That is read on of a request which was refused, so that its sender hears why."""
PROTOCOL = 1
"""Number of what is said here; it rises when older pages would not understand it any more."""
LOOPBACK = ("127.0.0.1", "::1")


@asynccontextmanager
async def serving_web(
    config: GatewayConfig, router: Router, ending: asyncio.Event, authority: Authority | None
) -> AsyncIterator[str]:
    """Serve browsers until the block ends, and be ready until `ending` is set; gives the address.

    authority  reads and signs tokens; None: nobody has to show one

    Raises Unavailable if it cannot be had, InvalidConfig for certificates that cannot be read.
    """
    async with AsyncExitStack() as stack:
        fleet = FleetView(config.web.supervisor, router, config.tls, Bearer(config.token, config.service.auth.secret))
        stack.push_async_callback(fleet.close)
        face = Face(config, router, ending, authority, fleet)
        patience: dict[str, Any] = {
            "keepalive_timeout": QUIET_SECONDS,
            "lingering_time": LINGER_SECONDS,
            "shutdown_timeout": 5.0,
        }
        runner = web.AppRunner(face.app(), access_log=None, handle_signals=False, **patience)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = host_port(config.web.address)
        try:
            await web.TCPSite(runner, host, port, ssl_context=_tls(config.web.tls)).start()
        except OSError as error:
            raise Unavailable(f"cannot show web pages on {config.web.address}: {error.strerror}") from error
        yield f"{host}:{runner.addresses[0][1]}"


class Face:
    """What is served to browsers, by its routes."""

    def __init__(
        self,
        config: GatewayConfig,
        router: Router,
        ending: asyncio.Event,
        authority: Authority | None,
        fleet: FleetView,
    ) -> None:
        self.config, self.router, self.ending, self.authority, self.fleet = config.web, router, ending, authority, fleet

    def app(self) -> web.Application:
        origins = self.config.origins
        named = self.authority is None and is_loopback(self.config.address)
        before = [in_words, *([by_name_of_this_host(origins)] if named else [])]
        app = web.Application(middlewares=[*before, from_pages_of(origins), authenticated(self.authority)])
        app.on_response_prepare.append(with_headers)
        downloads = Downloads(self.router, self.config.films)
        sharing = Sharing(self.router, self.authority, self.config.link_seconds)
        pages = Pages(self.config.folder or PAGE)
        app.add_routes(  # what is sent piece by piece has no head alone: the pieces would follow it
            [
                web.get("/healthz", self._healthy),
                web.get("/readyz", self._ready),
                web.get("/v1/about", self._about),
                web.get("/v1/walk", self._walk, allow_head=False),
                web.get("/v1/worlds", self._worlds),
                web.get("/v1/sessions", self._sessions),
                web.get("/v1/look", downloads.look, allow_head=False),
                web.get("/v1/film", downloads.film, allow_head=False),
                web.get("/v1/export", downloads.export, allow_head=False),
                web.post("/v1/share", sharing.share),
                web.get("/v1/fleet", self._fleet),
                web.get("/{name:.*}", pages.show),
            ]
        )
        return app

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="this process lives\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self.ending.is_set():
            return web.Response(status=503, text="this gateway ends\n")
        count = len(self.router.generators.answering())
        return web.Response(status=200 if count else 503, text=f"{count} generators answer\n")

    async def _about(self, request: web.Request) -> web.Response:
        stats = [each.stats for each in self.router.generators.answering()]
        scenes = {scene: None for each in stats if each is not None for scene in each.scenes}
        return web.json_response(
            {
                "version": version("worldkv"),
                "protocol": PROTOCOL,
                "auth": self.authority is not None,
                "scenes": [*scenes],
                "pictures": any(each is not None and each.pictures for each in stats),
                "fleet": self._may_see_fleet(request),
            },
            headers={"Cache-Control": "no-store"},
        )

    async def _worlds(self, request: web.Request) -> web.Response:
        claims = caller(request)
        claims.check_call("/worldkv.v1.Sessions/Worlds")
        page = pb.WorldsRequest(page_token=request.query.get("page_token", ""))
        return told(await worlds(self.router, claims.tenant, page, self.router.deadline()))

    async def _sessions(self, request: web.Request) -> web.Response:
        claims = caller(request)
        claims.check_call("/worldkv.v1.Sessions/List")
        page = pb.ListRequest(page_token=request.query.get("page_token", ""))
        return told(await self.router.page(claims.tenant, page, self.router.deadline()))

    async def _fleet(self, request: web.Request) -> web.Response:
        if not self._may_see_fleet(request):
            who = "an operator's token" if self.authority else "whoever asks from the gateway's own host"
            raise Forbidden(f"the service as a whole is shown to {who}")
        return web.json_response(await self.fleet.told(), headers={"Cache-Control": "no-store"})

    def _may_see_fleet(self, request: web.Request) -> bool:
        """Where tokens are looked at it takes an operator's, else one has to be on this host."""
        if self.authority is not None:
            return caller(request).role in ("operator", "service")
        return request.remote in LOOPBACK

    async def _walk(self, request: web.Request) -> web.StreamResponse:
        claims = caller(request)
        if self.router.ended.is_set():
            return refused(503, "UNAVAILABLE", "this gateway ends")
        socket = Socket(self.config)
        await socket.prepare(request)
        with self.router.metrics.sockets.track_inprogress():
            await Conversation(socket, self.router, claims, self.config).run()
        return socket


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
