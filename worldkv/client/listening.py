"""What waits for somebody who listens to a walk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from worldkv.client.walk_events import Event
from worldkv.errors import WorldKVError

EVENTS = 64
"""Events that wait for their reader before the stream is held up."""


class Events(AsyncIterator[Event]):
    """What happens in a walk from the moment of asking, in order; ends with the walk, and raises what ended it.

    taken  is called whenever one was read, and when nobody reads any more
    """

    def __init__(self, taken: Callable[[], None]) -> None:
        self._waiting: deque[Event] = deque()
        self._more, self._taken = asyncio.Event(), taken
        self._failed: WorldKVError | None = None
        self.over = False

    def __del__(self) -> None:
        self._taken()

    @property
    def full(self) -> bool:
        return not self.over and len(self._waiting) >= EVENTS

    def put(self, event: Event) -> None:
        self._waiting.append(event)
        self._more.set()

    def end(self, failed: WorldKVError | None = None) -> None:
        """No more come; those that wait can still be read."""
        self.over, self._failed = True, failed
        self._more.set()
        self._taken()

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._failed is not None:
                raise self._failed
            if self.over:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        event = self._waiting.popleft()
        self._taken()
        return event
