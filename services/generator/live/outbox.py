"""What waits for the client of one connection: bounded, so that a slow one costs pictures and nobody's steps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from worldkv.errors import WorldKVError
from worldkv.v1 import sessions_pb2 as pb

MOST = 16
"""Times as many messages as make it full may wait, then nobody seems to read them."""


class Outbox:
    """Messages to one client, in order.

    behind_bytes  of pictures that may wait; beyond that the oldest are dropped, and said to be. Those of the newest
                  chunk may wait however large they are
    behind        messages that may wait before it counts as full
    emptied       is called when it is full no more
    dropped       chunks whose pictures were dropped
    closing       the client says nothing more: what it is still owed is sent, and that is all
    """

    def __init__(self, behind_bytes: int, behind: int, emptied: Callable[[], None]) -> None:
        self.behind_bytes, self.behind, self.emptied = behind_bytes, behind, emptied
        self.dropped, self.closing = 0, False
        self._waiting: deque[pb.WalkResponse] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._ended = False
        self._error: WorldKVError | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing should be drawn unasked."""
        return len(self._waiting) >= self.behind

    @property
    def unread(self) -> bool:
        """Whether so much waits that it is not to go on: what a client asks for is answered even if it is full."""
        return len(self._waiting) >= MOST * self.behind

    def put(self, message: pb.WalkResponse) -> None:
        """Send this next."""
        if self._ended:
            return
        self._waiting.append(message)
        self._bytes += _picture_bytes(message)
        if self._bytes > self.behind_bytes:
            self._drop()
        self._wake.set()

    def end(self, error: WorldKVError | None = None, at_once: bool = False) -> None:
        """End the connection, with an error or well, after what waits or at once; what ended it first counts."""
        if not self._ended:
            self._ended, self._error = True, error
            if at_once:
                self._waiting.clear()
            self._wake.set()

    async def messages(self) -> AsyncGenerator[pb.WalkResponse, None]:
        """All messages as they come. Raises the error that the connection is ended with."""
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                self._bytes -= _picture_bytes(message)
                if len(self._waiting) == self.behind - 1:
                    self.emptied()
                yield message
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            self._wake.clear()
            await self._wake.wait()

    def _drop(self) -> None:
        """Drop pictures, the oldest first and never the newest, until what is left is within bounds."""
        newest = max(n for n, message in enumerate(self._waiting) if _picture_bytes(message))
        for n, message in enumerate([*self._waiting][:newest]):
            if self._bytes <= self.behind_bytes:
                return
            if nbytes := _picture_bytes(message):
                self._waiting[n] = bare(message)
                self._bytes -= nbytes
                self.dropped += 1


def bare(message: pb.WalkResponse) -> pb.WalkResponse:
    """What a message says of a chunk, without its pictures; the message itself may be sent to somebody else, later."""
    made = pb.WalkResponse()
    made.CopyFrom(message)
    if made.drawn.pictures:
        made.drawn.ClearField("pictures")
        made.drawn.pictures_dropped = True
    return pb.WalkResponse.FromString(made.SerializeToString())  # what is cleared takes its room as long as it lives


def _picture_bytes(message: pb.WalkResponse) -> int:
    return sum(len(each.data) for each in message.drawn.pictures) if message.HasField("drawn") else 0
