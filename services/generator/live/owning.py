"""Whether a world is still one session's, or another one has taken it over: who may be taken for dead asks for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from worldkv.catalog import Catalog, World
from worldkv.chunk import Branch
from worldkv.errors import Conflict, DeadlineExceeded, NotFound, Unavailable

CONFIRM_SECONDS = 3.0
"""For which whoever joins, and what was kept, waits to hear whether a world is still a session's."""

_log = logging.getLogger(__name__)


class Owner:
    """A session, as the one whose a world is.

    worlds   gives the records
    doubted  whether another generator may have taken the world over: this one was silent
    gone     why nothing that the session draws counts as kept any more: its world has been taken over. None: it has not
    """

    def __init__(self, session: str, worlds: Callable[[], Catalog]) -> None:
        self.session, self._worlds = session, worlds
        self.doubted = False
        self.gone: Unavailable | None = None

    def stands(self) -> None:
        """The world is this session's, on a branch of its own."""
        self.doubted, self.gone = False, None

    async def confirm(self, name: str, heads: Collection[Branch]) -> None:
        """Look whether a world of this name has one of these branches for a head.

        Raises Conflict if it has not. If nobody can say so just now it is taken for granted, but for a session that is
        doubted: then raises Unavailable.
        """
        if self.gone is not None:
            raise Conflict(str(self.gone))
        now = await self._read(name)
        if now is not None and now.lineage.head not in heads:
            raise Conflict(f"world {name!r} has been taken over: its head is {now.lineage.head.hex()}")
        self.doubted = self.doubted and now is None

    async def ours(self, own: World) -> None:
        """Raises Conflict if somebody has taken a world over since its record was this one, or is just doing so: he
        looks for its last chunk after he changed the record (`worlds.fork`). Raises Unavailable as `confirm` does.

        While Redis is away an older record may be all that is known of it.
        """
        now = await self._read(own.name)
        if now is None or now.version < own.version or (now.version, now.lineage) == (own.version, own.lineage):
            return
        self.gone = Unavailable(f"session {self.session} has gone on elsewhere: join it again")
        raise Conflict(f"world {own.name!r} has been taken over: it has version {now.version}, not {own.version}")

    async def _read(self, name: str) -> World | None:
        """The record of a world; None if it is gone, or if nobody can say."""
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                return (await self._worlds().read(name)).world
        except NotFound:
            return None
        except (Unavailable, DeadlineExceeded, TimeoutError) as error:
            words = f"nobody can say whether world {name!r} is still that of session {self.session}: {error!r}"
            if self.doubted:
                raise Unavailable(words) from error
            _log.info("%s", words)
            return None
