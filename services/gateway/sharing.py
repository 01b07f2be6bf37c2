"""Links that are given away: to watch a session, or to begin an own one where another stands."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from services.gateway.answers import caller
from services.gateway.routing import Router
from worldkv.auth import Authority, Claims
from worldkv.errors import DeadlineExceeded, Forbidden, InvalidInput
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import watch_id

SECONDS = 7 * 86_400.0
"""That a link is good for if nobody says."""
BODY_SECONDS = 10.0
"""That what is asked may take to come."""
MOST = (1 << 63) - 1


class Sharing:
    """Makes links. Where tokens are looked at each holds one, which lets its holder do this and nothing else.

    authority  signs them; None: nobody looks at tokens
    longest    seconds that one may be good for
    """

    def __init__(self, router: Router, authority: Authority | None, longest: float) -> None:
        self.router, self.authority, self.longest = router, authority, longest

    async def share(self, request: web.Request) -> web.Response:
        """The part of an address behind `#`, and when it expires: seconds since 1970, null for never.

        Raises NotFound for a session that is gone, Forbidden for who came by a link, InvalidInput.
        """
        claims = caller(request)
        if claims.role in ("watch", "world"):
            raise Forbidden("who came by a link makes no other links")
        wanted = await _asked(request)
        session, seconds = wanted["session"], wanted["seconds"] or min(SECONDS, self.longest)
        if seconds > self.longest:
            raise InvalidInput(f"seconds: a link is good for at most {self.longest:g} s, got {seconds:g}")
        if wanted["kind"] == "watch":
            await self.router.settle(claims.tenant, session, self.router.deadline())  # raises for one that is gone
            link = {"watch": watch_id(session)}
            shared = Claims(claims.tenant, "watch", session=link["watch"])
        else:
            fork = pb.ForkRequest(session=session, at=wanted["at"])
            world = (await self.router.fork(claims.tenant, fork, self.router.deadline())).world
            link = {"world": world.name, "at": str(world.chunks)}
            shared = Claims(claims.tenant, "world", world=world.name, at=world.chunks)
        expires: float | None = None
        if self.authority is not None:
            link["token"] = self.authority.sign(shared, seconds)
            expires = self.authority.read(link["token"]).expires
        return web.json_response(
            {"fragment": urlencode(link), "expires": expires}, headers={"Cache-Control": "no-store"}
        )


async def _asked(request: web.Request) -> dict[str, Any]:
    """What is to be shared: session, kind, at and seconds. Raises InvalidInput."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            said = await request.json()
    except TimeoutError as error:
        raise DeadlineExceeded(f"what is to be shared did not come within {BODY_SECONDS:g} s") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"expected JSON: {error}") from error
    if not isinstance(said, dict) or not set(said) <= {"session", "kind", "at", "seconds"}:
        raise InvalidInput(f"expected an object with session, kind, at and seconds, got {str(said)[:200]}")
    session, kind, at, seconds = (said.get(each) for each in ("session", "kind", "at", "seconds"))
    if not isinstance(session, str) or not session:
        raise InvalidInput(f"session: expected the id of a session, got {str(session)[:80]!r}")
    if kind not in ("watch", "world"):
        raise InvalidInput(f"kind: expected watch or world, got {str(kind)[:80]!r}")
    if at is not None and (type(at) is not int or not 0 <= at <= MOST):
        raise InvalidInput(f"at: expected the number of a chunk, got {str(at)[:80]!r}")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 < seconds < float("inf")):
        raise InvalidInput(f"seconds: expected a number above 0, got {str(seconds)[:80]!r}")
    return {"session": session, "kind": kind, "at": at, "seconds": seconds}
