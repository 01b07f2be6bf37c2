"""The newest chunks as they were told, at hand for whoever lost his connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from services.generator.live.outbox import bare
from worldkv.chunk import ChunkKey
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire import chunk_of


class Sent:
    """At most `most_bytes` of messages about chunks that were drawn, the newest."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._messages: deque[pb.WalkResponse] = deque()

    def add(self, message: pb.WalkResponse) -> None:
        """A chunk was told."""
        self._messages.append(message)
        nbytes = sum(each.ByteSize() for each in self._messages)
        while self._messages and nbytes > self.most_bytes:
            nbytes -= self._messages.popleft().ByteSize()

    def since(self, chunk: int) -> list[pb.WalkResponse]:
        """Those of this number and after it."""
        return [each for each in self._messages if each.drawn.key.index >= chunk]

    def keep(self, covers: Callable[[ChunkKey], bool]) -> None:
        """Drop those of chunks that are none of the session's any more."""
        self._messages = deque(each for each in self._messages if covers(chunk_of(each.drawn.key)))

    def rest(self) -> None:
        """Keep them without their pictures, which can be looked at again."""
        self._messages = deque(map(bare, self._messages))
