"""The service of walks as its users see it.

async with WalkClient("127.0.0.1:8470") as client:
    async with client.open(scene="rooms:7", tour="R360") as walk:
        async for drawn in walk.path("R90_L90"):
            look_at(drawn.pictures)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from worldkv import rpc, wire
from worldkv.actions import Walker
from worldkv.catalog import World
from worldkv.client.looking import Seen, exported, looked
from worldkv.client.walk import Walk
from worldkv.client.walk_events import opened_of
from worldkv.client.walk_line import Link, WalkClientConfig
from worldkv.client.watching import Watched
from worldkv.errors import InvalidInput
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import (
    FORMATS,
    MAX_PICTURE_BYTES,
    MODES,
    NO_CHANGE,
    Format,
    MemoryChange,
    Mode,
    change_message,
    counted,
    walker_message,
)

ADDRESS = "127.0.0.1:8470"
"""Where the service is if nobody says."""


@dataclass(frozen=True)
class SessionSummary:
    """A live session.

    session    its id, for `join`
    world      name of its world
    next       number of the next chunk to be drawn
    kept       chunks before this number are kept
    joined     a client is joined
    idle_seconds  since its last chunk, or since it was opened
    suspended  it holds no memory of a generator until somebody walks on
    """

    session: str
    world: str
    next: int
    kept: int
    joined: bool
    idle_seconds: float
    suspended: bool


class WalkClient:
    """A connection to the service, for one tenant; used as an async context manager.

    Every method raises what the service raises, and Unavailable if it does not answer.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        tenant: str | None = None,
        tls: rpc.TLS | None = None,
        token: str = "",
        config: WalkClientConfig | None = None,
    ) -> None:
        given: dict[str, Any] = {"tenant": tenant, "tls": tls, "token": token}
        self.config = replace(config or WalkClientConfig(), **{name: each for name, each in given.items() if each})
        self._link = Link(address, self.config)

    async def __aenter__(self) -> WalkClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. Walks that were not closed live on."""
        await self._link.channel.close()

    @asynccontextmanager
    async def open(
        self,
        scene: str = "",
        *,
        world: str = "",
        at: int | None = None,
        tour: str = "",
        start: Walker | None = None,
        seed: int = 0,
        mode: Mode = "worldkv",
        lockstep: bool = False,
        pictures: Format = "jpeg",
        memory: MemoryChange = NO_CHANGE,
        judged: bool = False,
        fork: bool = False,
        picture: bytes = b"",
    ) -> AsyncIterator[Walk]:
        """A walk in a new world, or on from a chunk of an old one; closed at the end of the block, unless it was left.

        scene     what a new world begins as, in the model's own words; empty: its default
        world     name; empty: chosen by the service
        at        chunk of an old world to begin before; None: after the last that is kept
        tour      path through a new world that is shown from its true pictures first
        start     where a new world is entered; None: where its scene begins
        seed      of the noise
        mode      what stands in the window besides the newest chunks
        lockstep  wait for memory instead of leaving out what is late: a walk that can be repeated exactly
        pictures  how they travel: "jpeg", "rgb8", or "rgb32f", exactly what the model drew
        memory    how it is to remember, where that is not as the service does; `mode` says what stands in the window
        judged    compare what is drawn with the true pictures, where there are any: told by `Judged`
        fork      walk in a new world, forked from `world` and named by the service, instead of in that one
        picture   image file of what is seen first in a new world, for a model that begins from one; empty: none

        Raises InvalidInput for what makes no sense, NotFound for a chunk, or a world to fork, that is not there,
        OverBudget if there is no room.
        """
        if mode not in MODES or pictures not in FORMATS:
            raise InvalidInput(f"mode is one of {[*MODES]} and pictures of {[*FORMATS]}, got {mode!r} and {pictures!r}")
        if len(picture) > MAX_PICTURE_BYTES:
            raise InvalidInput(f"a picture has at most {MAX_PICTURE_BYTES} bytes, got {len(picture)}")
        request = pb.OpenRequest(
            world=world,
            at=None if at is None else counted("at", at),
            scene=scene,
            seed=counted("seed", seed),
            start=walker_message(start) if start else None,
            mode=MODES[mode],
            lockstep=lockstep,
            format=FORMATS[pictures],
            tour=tour,
            settings=change_message(memory),
            judged=judged,
            fork=fork,
            picture=picture,
        )
        opened = opened_of(await self._link.ask(self._link.stub.Open(request, metadata=self._link.metadata)))
        async with Walk(self._link, opened.session, owned=True) as walk:
            walk.begin(opened)
            yield walk

    @asynccontextmanager
    async def join(self, session: str) -> AsyncIterator[Walk]:
        """Take up a live session, from whichever client has it; it lives on at the end of the block.

        Raises NotFound for a session that is gone.
        """
        async with Walk(self._link, session, owned=False) as walk:
            await walk.take_over()
            yield walk

    @asynccontextmanager
    async def watch(self, watch: str) -> AsyncIterator[Watched]:
        """Watch somebody's walk, by its id for watching (`Opened.watch`): its events, and no effect on it.

        Raises NotFound for a session that nobody knows, OverBudget if as many watch it as may.
        """
        async with Watched(self._link, watch) as watched:
            yield watched

    def look(
        self, session: str, at: int = 0, count: int = 0, *, height: int = 0, pictures: int | None = 1
    ) -> AsyncGenerator[Seen, None]:
        """Chunks of a session's world, seen again; `session` is either of its ids. See `Walk.look`."""
        return looked(self._link, session, at, count, height, pictures)

    async def worlds(self) -> list[World]:
        """The tenant's worlds, by name."""
        found, token = list[World](), ""
        while True:
            request = pb.WorldsRequest(page_size=1000, page_token=token)
            page = await self._link.ask(self._link.stub.Worlds(request, metadata=self._link.metadata))
            found += map(wire.world_of, page.worlds)
            if not (token := page.next_page_token):
                return found

    def export(self, world: str) -> AsyncGenerator[bytes, None]:
        """A world as a file, in pieces: what `worldkv world export` writes, and `worldkv world import` takes.

        Raises NotFound if there is none; what was given before an error is no file.
        """
        return exported(self._link, world)

    async def sessions(self) -> list[SessionSummary]:
        """The tenant's live sessions, by id."""
        found, token = list[SessionSummary](), ""
        while True:
            request = pb.ListRequest(page_size=1000, page_token=token)
            page = await self._link.ask(self._link.stub.List(request, metadata=self._link.metadata))
            found += [
                SessionSummary(s.session, s.world, s.next, s.kept, s.joined, s.idle_seconds, s.suspended)
                for s in page.sessions
            ]
            if not (token := page.next_page_token):
                return found
