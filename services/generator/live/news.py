"""What changes of how a session's world is kept and recalled, told as it does."""

from __future__ import annotations

from collections.abc import Callable

from services.generator.live import messages
from services.generator.live.resident import Resident
from worldkv.v1 import sessions_pb2 as pb

Emit = Callable[[pb.WalkResponse], None]


class News:
    """Listens to the memory of one session, and tells what is new.

    emit  takes messages to whoever is joined

    Nobody hears that a chunk is kept before he was told of it: until then he may hold another one of its number, that
    was drawn on a branch which is none of his world's any more.
    """

    def __init__(self, resident: Resident, emit: Emit) -> None:
        self.resident, self.emit = resident, emit
        self._told = resident.next
        self._kept, self._dropped, self._recall_down = resident.kept, 0, False

    def follow(self) -> None:
        """Listen to the memory that the session has now."""
        self._told, self._dropped, self._recall_down = self.resident.next, 0, False
        self.resident.listener = self.tell
        if self.resident.memory is not None:
            self.resident.memory.listener = self.tell
        self.tell()

    def remembered(self) -> pb.WalkResponse:
        """How far the world was safe when it was told last."""
        return pb.WalkResponse(remembered=messages.remembered(self._kept))

    def recall(self, down: bool, chunk: int) -> None:
        """Tell when recall stops to answer, and when it answers again."""
        if down != self._recall_down:
            self._recall_down = down
            kind = pb.NOTICE_KIND_RECALL_DOWN if down else pb.NOTICE_KIND_RECALL_UP
            self.emit(messages.notice(kind, chunk))

    def drawn(self, index: int) -> None:
        """Whoever is joined was told of a chunk."""
        self._told = index + 1
        self.tell()

    def tell(self) -> None:
        """Tell what has changed."""
        kept, following, memory = self.resident.kept, self.resident.next, self.resident.memory
        kept = kept._replace(end=min(kept.end, self._told))
        before, self._kept = self._kept, kept
        if kept != before:
            self.emit(self.remembered())
        if kept.level != before.level and before.end and kept.end:
            words = f"new chunks are kept at level {kept.level.name.lower()}"
            self.emit(messages.notice(pb.NOTICE_KIND_LEVEL_CHANGED, kept.end, words))
        if memory is not None and memory.stats.dropped > self._dropped:
            self._dropped = memory.stats.dropped
            words = "keys and values were dropped; they are made again from latents where they are missed"
            self.emit(messages.notice(pb.NOTICE_KIND_KV_DROPPED, max(following - 1, 0), words))
