"""What waits for a client that is too slow: bounded in bytes by leaving out pictures, in messages by waiting."""

from __future__ import annotations

import asyncio
from collections import deque

from worldkv.v1 import sessions_pb2 as pb

Answer = pb.WalkResponse | bytes
"""What a client is told: an answer of its walk, or a frame that is ready to be sent."""


class Waiting:
    """Answers on their way to one client, in order.

    most_bytes  of pictures that wait; beyond that the oldest waiting ones are left out, and said to be. The newest
                stay whatever their size
    most        answers that wait; then `put` does
    dropped     chunks whose pictures were left out
    """

    def __init__(self, most_bytes: int, most: int) -> None:
        self.dropped = 0
        self._most_bytes, self._most, self._bytes = most_bytes, most, 0
        self._answers: deque[tuple[Answer, int]] = deque()
        self._changed = asyncio.Condition()
        self._ended = False

    async def put(self, answer: Answer) -> None:
        """Let an answer wait, once there is room for it."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._answers) < self._most)
            size = 0 if isinstance(answer, bytes) else sum(len(picture.data) for picture in answer.drawn.pictures)
            self._bytes += size
            if self._bytes > self._most_bytes:
                self._leave_out()
            self._answers.append((answer, size))
            self._changed.notify_all()

    async def end(self) -> None:
        """No more will come."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def take(self) -> Answer | None:
        """The next answer, None after the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._answers) or self._ended)
            if not self._answers:
                return None
            answer, size = self._answers.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return answer

    def _leave_out(self) -> None:
        """Drop pictures of those that wait, until the newest fit or nothing else is left."""
        for place, (answer, size) in enumerate(self._answers):
            if size and self._bytes > self._most_bytes and isinstance(answer, pb.WalkResponse):
                answer.drawn.ClearField("pictures")
                answer.drawn.pictures_dropped = True
                self._answers[place] = answer, 0
                self._bytes -= size
                self.dropped += 1
