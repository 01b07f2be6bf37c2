"""Somebody else's walk, as one who watches sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

from worldkv.client.walk_events import (
    Event,
    Notice,
    NoticeKind,
    Opened,
    applied_of,
    drawn_of,
    judged_of,
    notice_of,
    opened_of,
    refused_of,
    remembered_of,
)
from worldkv.client.walk_line import Link, WalkLine
from worldkv.errors import NotFound
from worldkv.v1 import sessions_pb2 as pb
from worldkv.worlds import shared

WAITING = 16
"""Events that wait for their reader; then the stream is held up, and pictures are left out."""


class Watched(AsyncIterator[Event]):
    """What happens in a session that one watches, from what is still at hand on; see `WalkClient.watch`.

    opened  the session as it was when it was joined; its id is the one for watching
    next    number of the next chunk to come

    Ends when the session is gone. Raises NotFound for one that nobody knows, OverBudget if too many watch it,
    Unavailable if it could not be reached for too long.
    """

    opened: Opened

    def __init__(self, link: Link, watch: str) -> None:
        self.next = 0
        self._line = WalkLine(link, watch, self._take, self._told, watch=True)
        self._events: asyncio.Queue[Event] = asyncio.Queue(WAITING)
        self._more = asyncio.Event()  # something came, or nothing comes any more
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self._line.run())
        self._task.add_done_callback(lambda _: self._more.set())
        try:
            await asyncio.wait([self._task, self._joined], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self._joined.done():  # it ended before it began, or whoever waits for it was cancelled
                await self._leave()
        if not self._joined.done():
            self._task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def __anext__(self) -> Event:
        assert self._task is not None, "a session is watched within `async with`"
        while self._events.empty():  # nothing is taken before it can be given: who waits may be cancelled
            if self._task.done():
                if not self._task.cancelled() and not isinstance(self._task.exception(), NotFound):
                    self._task.result()
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._events.get_nowait()

    async def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _take(self, answer: pb.WalkResponse) -> None:
        """Hand on what the session says."""
        match answer.WhichOneof("message"):
            case "joined":
                self._become(opened_of(answer.joined))
            case "drawn":
                size = self.opened.height, self.opened.width
                drawn = await asyncio.to_thread(drawn_of, answer.drawn, *size)
                self.next = self._line.seen = drawn.key.index + 1
                await self._put(drawn)
            case "remembered":
                await self._put(remembered_of(answer.remembered))
            case "notice":
                notice = notice_of(answer.notice)
                if notice.kind is NoticeKind.MOVED:
                    self.next = self._line.seen = min(self._line.seen, notice.chunk)
                await self._put(notice)
            case "applied":
                await self._put(applied_of(answer.applied))
            case "refused":
                await self._put(refused_of(answer.refused))
            case "judged":
                await self._put(judged_of(answer.judged))

    async def _put(self, event: Event) -> None:
        await self._events.put(event)
        self._more.set()

    def _become(self, opened: Opened) -> None:
        if not self._joined.done():
            self.opened, self.next = opened, opened.next
            self._joined.set_result(None)
            return
        common = shared(self.opened.world.lineage, opened.world.lineage)
        self.opened = opened
        if common is not None and common < self._line.seen:
            self.next = self._line.seen = common
            self._line.join_again()

    def _told(self, up: bool, why: str) -> None:
        kind = NoticeKind.RECONNECTED if up else NoticeKind.DISCONNECTED
        if not self._events.full():
            self._events.put_nowait(Notice(kind, self._line.seen, why))
            self._more.set()
