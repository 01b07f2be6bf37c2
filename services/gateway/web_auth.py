"""Who asks over HTTP: a token in the header, or, of browsers' WebSockets, which send none of ours, as a subprotocol."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from services.gateway.answers import CLAIMS
from worldkv.auth import SCHEME, SHARED, TENANT_KEY, Authority
from worldkv.errors import Forbidden

PROTOCOL = "worldkv.v1"
"""What a WebSocket is answered as its protocol."""
TOKEN = "worldkv.token."
"""Begins the other subprotocol that a browser offers; its token follows."""
CLOSED = "/v1/"
"""Begins the routes that need a token: others show pages that anybody may have, and whether the gateway lives."""
FOR_LINKS = ("/v1/walk", "/v1/look", "/v1/film", "/v1/about")
"""Routes that are open to who came by a link; each looks for itself at what the link is for."""


def authenticated(authority: Authority | None) -> Middleware:
    """Lets those into the closed routes who show a token, and says in the request what they may; all if None.

    Raises Unauthenticated without a good token, Forbidden for a tenant or a route that it is not for.
    """

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = request.path if resource is None else resource.canonical
        if authority is None or not route.startswith(CLOSED) or request.method == hdrs.METH_OPTIONS:
            return await handler(_without_token(request))
        tenant = str(request.query.get("tenant") or request.headers.get(TENANT_KEY, ""))
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        claims = authority.caller(header or _offered(request), tenant)
        if claims.role in SHARED and route not in FOR_LINKS:
            raise Forbidden(f"a token of role {claims.role} is not for {route}")
        request[CLAIMS] = claims
        return await handler(_without_token(request))

    return look


def _protocols(request: web.Request) -> list[str]:
    return [each.strip() for each in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]


def _offered(request: web.Request) -> str:
    """The token among the subprotocols, as a header would show it; empty for none."""
    return next((SCHEME + each.removeprefix(TOKEN) for each in _protocols(request) if each.startswith(TOKEN)), "")


def _without_token(request: web.Request) -> web.Request:
    """The request without a token among its subprotocols: what nobody chooses is logged."""
    offered = _protocols(request)
    kept = [each for each in offered if not each.startswith(TOKEN)]
    if kept == offered:
        return request
    headers = request.headers.copy()
    headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = ", ".join(kept) or PROTOCOL
    return request.clone(headers=headers)
