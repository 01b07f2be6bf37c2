"""What a walk's client has sent and what has had no effect yet: what has to be sent again when a generator dies.

    taken from the client ──► [ was sent | waits to be sent ] ──► gone, once drawn

An entry leaves when the chunk that it asked for is drawn, or a later one is: generators take them in order. A hold
stays until something later has an effect, because it has to be said again elsewhere. A change of how the session
remembers leaves when it is answered: a session keeps it.

Generators pass over numbers that they have taken already, so what has no number gets one, which no client can use and
which means "none" on the way back, for any gateway: nothing has to be remembered for that.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from worldkv.errors import InvalidInput
from worldkv.v1 import sessions_pb2 as pb

OURS = 1 << 63
"""Numbers from here on are a gateway's."""


@dataclass(eq=False)
class Entry:
    """A move, show, hold or change, numbered.

    chunk  first that it has an effect on, as the generator said; None: it has not yet
    """

    request: pb.WalkRequest
    kind: Literal["move", "show", "hold", "configure"]
    number: int
    size: int
    chunk: int | None = None


class Missed(NamedTuple):
    """A chunk that was drawn and kept, and not delivered: its number in the world, and the move or show it answers."""

    chunk: int
    entry: Entry | None


class Unanswered:
    """What of one walk has no answer yet, in order.

    next  number of the first chunk that was not delivered
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.next = 0
        self._most, self._most_bytes = most, most_bytes
        self._entries: deque[Entry] = deque()
        self._sent, self._bytes = 0, 0
        self._ours = OURS + (random.getrandbits(31) << 32)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether no more should be taken until something was answered."""
        return bool(self._entries) and (len(self._entries) >= self._most or self._bytes >= self._most_bytes)

    def take(self, request: pb.WalkRequest) -> None:
        """Take what a client sent. Raises InvalidInput for what is none of these, or has a gateway's number."""
        kind = request.WhichOneof("message")
        if kind is None or kind == "join":
            told = "no message" if kind is None else "a second join"
            raise InvalidInput(f"a walk goes on with moves, shows, holds and changes, got {told}")
        message: pb.Move | pb.Show | pb.Hold | pb.Configure = getattr(request, kind)
        if message.number >= OURS:
            raise InvalidInput(f"{kind}.number = {message.number}: expected less than 2^63")
        if not message.number:
            self._ours += 1
            message.number = self._ours
        if kind == "hold" and self._sent == len(self._entries) and self._entries and self._entries[-1].kind == "hold":
            self._drop(len(self._entries) - 1)  # of several holds the last one wins
        entry = Entry(request, kind, message.number, request.ByteSize())
        self._entries.append(entry)
        self._bytes += entry.size

    def send(self) -> pb.WalkRequest | None:
        """What is to be sent next, and counts as sent from now on; None: all of it was."""
        if self._sent == len(self._entries):
            return None
        self._sent += 1
        return self._entries[self._sent - 1].request

    def answered(self, response: pb.WalkResponse) -> None:
        """Take note of what a generator said, and make it what the client is told."""
        match response.WhichOneof("message"):
            case "drawn":
                self._drawn(response.drawn)
                response.drawn.number = theirs(response.drawn.number)
            case "applied":
                self._applied(response.applied)
                response.applied.number = theirs(response.applied.number)
            case "refused":
                self._refused(response.refused)
                response.refused.number = theirs(response.refused.number)

    def again(self) -> None:
        """All of it is to be sent again, to a session that knows what it has taken."""
        self._sent = 0

    def taken_back(self, next: int) -> None:
        """The session stands before chunk `next` again: what was sent is dropped there, unless it had its effect.

        Changes are the session's, wherever it stands, and are sent again.
        """
        for place in reversed(range(self._sent)):
            if self._entries[place].kind != "configure":
                self._drop(place)
        self.next = next

    def moved(self, next: int) -> list[Missed]:
        """All of it is to be sent again, to a world that was read back from its kept chunks, those before `next`.

        Answers the chunks among these that were not delivered. What they answer is not sent again: a move that
        had an effect is known by what the generator said, and of what it did not come to say, moves are taken to have
        been drawn as early as they can have been, for no move may have an effect twice.
        """
        missed: dict[int, Entry | None] = dict.fromkeys(range(self.next, next))
        earliest, done = self.next, 0
        for count, entry in enumerate(islice(self._entries, self._sent), 1):
            chunk = earliest if entry.chunk is None else entry.chunk
            if entry.kind in ("move", "show"):
                if chunk >= next:
                    break
                missed[chunk], done = entry, count
            elif entry.chunk is None:
                continue
            earliest = max(earliest, chunk + 1)
        self._drop_first(done)
        for entry in self._entries:
            entry.chunk = None
        self._sent, self.next = 0, next
        return [Missed(chunk, missed[chunk]) for chunk in sorted(missed)]

    def _drawn(self, drawn: pb.Drawn) -> None:
        self.next = max(self.next, drawn.key.index + 1)
        for place, entry in enumerate(self._entries):
            if entry.number == drawn.number and entry.kind in ("move", "show"):
                self._drop_first(place + 1)
                return

    def _applied(self, applied: pb.Applied) -> None:
        for place, entry in enumerate(self._entries):
            if entry.number == applied.number:
                entry.chunk = applied.chunk
                self.next = min(self.next, applied.chunk)  # less: the session was taken back
                if entry.kind == "configure":
                    self._drop(place)
                elif entry.kind == "hold":
                    for before in reversed(range(place)):
                        if self._entries[before].kind == "hold":
                            self._drop(before)
                return

    def _refused(self, refused: pb.Refused) -> None:
        for place, entry in enumerate(self._entries):
            if entry.number == refused.number:
                self._drop(place)
                return

    def _drop_first(self, count: int) -> None:
        """These had their effect. A hold that no move has ended goes on; a change has it when that is answered."""
        moved = False
        for place in reversed(range(count)):
            kind = self._entries[place].kind
            moved = moved or kind == "move"
            if kind in ("move", "show") or (kind == "hold" and moved):
                self._drop(place)

    def _drop(self, place: int) -> None:
        self._bytes -= self._entries[place].size
        del self._entries[place]
        self._sent -= place < self._sent


def theirs(number: int) -> int:
    """A number as its client gave it; 0: it gave none."""
    return 0 if number >= OURS else number
