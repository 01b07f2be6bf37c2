"""Shared memory that this process puts frames into for shards of its host to take them from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from worldkv.errors import Unavailable
from worldkv.format import Frame
from worldkv.shared import Staged, Staging, copy_checked

_LEAST = 32 << 20
"""Bytes of the smallest segment worth having."""
_THREAD = 1 << 20
"""Bytes from which copying is left to a thread, so that the event loop goes on."""


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
        self._freed, self._growing = asyncio.Event(), asyncio.Lock()

    @asynccontextmanager
    async def filled(self, frame: Frame) -> AsyncIterator[Filled | None]:
        """The frame's bytes in shared memory until the block ends; None if they are more than may ever be there.

        Waits for room, which comes when other items are answered. Whoever leaves by an exception leaves early, which
        is safe: a shard that still reads looks twice, and finds that the checksum is wrong.
        """
        found = await self._reserve(frame.nbytes)
        if found is None:
            yield None
            return
        staging, staged = found
        answered = False
        try:
            if frame.nbytes < _THREAD:
                checksum = copy_checked(frame.buffers, staged.views)
            else:
                checksum = await asyncio.to_thread(copy_checked, frame.buffers, staged.views, steady=True)
            yield Filled(staging, staged, checksum)
            answered = True
        finally:
            staging.release(staged, answered)
            self._freed.set()

    def close(self) -> None:
        """Remove all segments."""
        segments, self._segments = self._segments, []
        for staging in segments:
            staging.close()

    async def _reserve(self, size: int) -> tuple[Staging, Staged] | None:
        while size <= self.limit:
            if (found := self._room(size)) or (found := await self._grow(size)):
                return found
            if not any(size <= staging.room for staging in self._segments):
                return None
            self._freed.clear()
            if found := self._room(size):  # given back while others grew
                return found
            await self._freed.wait()
        return None

    def _room(self, size: int) -> tuple[Staging, Staged] | None:
        for staging in self._segments:
            if (staged := staging.reserve(size)) is not None:
                return staging, staged
        return None

    async def _grow(self, size: int) -> tuple[Staging, Staged] | None:
        """Room in one more segment, if the limit and the host allow it."""
        async with self._growing:
            taken = sum(staging.room for staging in self._segments)
            if (found := self._room(size)) or size > self.limit - taken:  # somebody else grew meanwhile
                return found
            try:
                made = await asyncio.to_thread(Staging, min(max(size + size // 8, _LEAST), self.limit - taken))
            except Unavailable:
                self.limit = taken
                return None
            self._segments.append(made)
            return self._room(size)
