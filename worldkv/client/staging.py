"""Shared memory that this process puts frames into for shards of its host to take them from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from worldkv.errors import Unavailable
from worldkv.format import Frame
from worldkv.shared import Staged, Staging, copy_checked

_LEAST = 32 << 20
"""Bytes of the smallest segment worth having."""
_THREAD = 1 << 20
"""Bytes from which copying is left to a thread, so that the event loop goes on."""


Busy = Callable[[], AbstractContextManager[None]]
"""Around work during which nobody is waited for."""


class Filled(NamedTuple):
    """A frame in shared memory: which segment, where in it, and the xxh3-64 of its bytes."""

    staging: Staging
    staged: Staged
    checksum: int


class Stages:
    """Segments as they are needed, together at most `limit` bytes; all shards of a client share them.

    A segment is touched when it is made, which costs about a second for a GB, and is kept until `close`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._segments: list[Staging] = []
        self._freed = asyncio.Event()
        self._growing: asyncio.Future[Staging | None] | None = None

    @asynccontextmanager
    async def filled(self, frame: Frame, busy: Busy = nullcontext) -> AsyncIterator[Filled | None]:
        """The frame's bytes in shared memory until the block ends; None if they are more than may ever be there.

        busy  is around what this process does itself, that is all but waiting for room

        Waits for room, which comes when other items are answered. Whoever leaves by an exception leaves early, which
        is safe: a shard that still reads looks twice, and finds that the checksum is wrong. Who leaves while a thread
        copies gives the room back when that has ended.
        """
        found = await self._reserve(frame.nbytes, busy)
        if found is None:
            yield None
            return
        staging, staged = found
        copying: asyncio.Future[int] | None = None
        answered = False
        try:
            with busy():
                if frame.nbytes < _THREAD:
                    checksum = copy_checked(frame.buffers, staged.views)
                else:
                    work = partial(copy_checked, frame.buffers, staged.views, steady=True)
                    copying = asyncio.get_running_loop().run_in_executor(None, work)
                    await asyncio.wait({copying})
                    checksum = copying.result()
            yield Filled(staging, staged, checksum)
            answered = True
        finally:
            if copying is None or copying.done():
                self._give_back(staging, staged, answered)
            else:
                copying.add_done_callback(lambda _: self._give_back(staging, staged, answered=False))

    async def close(self) -> None:
        """Remove all segments, also one that is being made."""
        self.limit = 0  # nobody gets another
        if self._growing is not None:
            await asyncio.wait({self._growing})
        segments, self._segments = self._segments, []
        for staging in segments:
            staging.close()

    def _give_back(self, staging: Staging, staged: Staged, answered: bool) -> None:
        if staging in self._segments:  # else it is closed
            staging.release(staged, answered)
            self._freed.set()

    async def _reserve(self, size: int, busy: Busy) -> tuple[Staging, Staged] | None:
        while size <= self.limit:
            if found := self._room(size):
                return found
            if growing := self._grow(size):
                with busy():
                    await asyncio.wait({growing})  # which whoever is cancelled leaves running
                growing.result()
            elif any(size <= staging.room for staging in self._segments):
                self._freed.clear()
                await self._freed.wait()
            else:
                return None
        return None

    def _room(self, size: int) -> tuple[Staging, Staged] | None:
        for staging in self._segments:
            if (staged := staging.reserve(size)) is not None:
                return staging, staged
        return None

    def _grow(self, size: int) -> asyncio.Future[Staging | None] | None:
        """The segment that is being made, or one more with room for `size` bytes; None if there is to be no other."""
        if self._growing is None:
            taken = sum(staging.room for staging in self._segments)
            if size <= self.limit - taken:
                room = min(max(size + size // 8, _LEAST), self.limit - taken)
                self._growing = asyncio.get_running_loop().run_in_executor(None, _made, room)
                self._growing.add_done_callback(self._grown)
        return self._growing

    def _grown(self, growing: asyncio.Future[Staging | None]) -> None:
        """Whoever wanted the segment may have left."""
        self._growing = None
        made = growing.result()
        if made is None:
            self.limit = sum(staging.room for staging in self._segments)
        else:
            self._segments.append(made)
        self._freed.set()


def _made(room: int) -> Staging | None:
    """A segment; None if the host has no memory for it."""
    try:
        return Staging(room)
    except Unavailable:
        return None
