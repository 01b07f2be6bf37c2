"""Bulk bytes on a connection that redis-py made: values leave from, and arrive in, the caller's own buffers.

redis-py joins a value before it sends it and copies it two or three times when it reads it. Here the kernel gathers
and scatters, one or two system calls a piece, during which other threads run. Used by one thread at a time.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

from redis import Connection
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

WINDOW = 3
"""Pieces asked for, or sent, before the first is answered: the server never queues more than these for a link."""
MAX_VECTORS = 512
"""Buffers of one system call."""
MAX_ERROR = 4096
"""Characters of a server's error, at most."""


class Missing(Exception):
    """A piece that should be there is not."""


class Misfit(Exception):
    """A piece has another length than it was written with."""


class Piece(NamedTuple):
    """A value: its name, its buffers in order, and their bytes together."""

    name: bytes
    views: list[memoryview]
    size: int


Take = Callable[[], Piece | None]
"""Gives the next piece to move, None when there is no more; called by several threads at once."""


class Span:
    """Buffers as one run of bytes, of which pieces are cut without copying."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self._views = [view.cast("B") for view in views if view.nbytes]
        self._ends = list(accumulate(view.nbytes for view in self._views))

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return self._ends[-1] if self._ends else 0

    def cut(self, begin: int, end: int) -> list[memoryview]:
        """The buffers of bytes `begin` up to `end`."""
        found, at = [], bisect_right(self._ends, begin)
        while begin < end:
            start = self._ends[at] - self._views[at].nbytes
            stop = min(end, self._ends[at])
            found.append(self._views[at][begin - start : stop - start])
            begin, at = stop, at + 1
        return found


class Link:
    """One connection for bulk bytes.

    make             gives a connection of redis-py that is not connected yet
    timeout_seconds  without a byte until the server counts as gone

    Any error but those of this module's and redis-py's is OSError; the link is useless after any of them.
    """

    def __init__(self, make: Callable[[], Connection], timeout_seconds: float) -> None:
        self._connection = make()
        self._connection.connect()
        found = self._connection._get_socket()
        assert found is not None, "a connection that connected has a socket"
        self._socket: socket.socket = found
        # The kernel watches the clock, so that one call may wait for the whole of a piece.
        self._socket.settimeout(None)
        whole = int(timeout_seconds)
        spell = struct.pack("ll", whole, int((timeout_seconds - whole) * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, spell)
        self._plain = not isinstance(self._socket, ssl.SSLSocket)

    def send(self, take: Take, keep_seconds: float) -> None:
        """Store pieces, each to vanish after `keep_seconds` unless somebody makes it stay."""
        milliseconds = b"%d" % max(1, int(keep_seconds * 1000))
        tail = memoryview(b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(milliseconds), milliseconds))
        waiting = 0
        while (piece := take()) is not None:
            head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(piece.name), piece.name, piece.size)
            self._write([memoryview(head), *piece.views, tail])
            waiting += 1
            if waiting > WINDOW:
                self._expect_ok()
                waiting -= 1
        for _ in range(waiting):
            self._expect_ok()

    def fetch(self, take: Take, done: Callable[[Piece], None]) -> None:
        """Read pieces into their buffers. Raises Missing and Misfit."""
        waiting: deque[Piece] = deque()
        more = True
        while more or waiting:
            while more and len(waiting) < WINDOW:
                piece = take()
                if piece is None:
                    more = False
                    break
                self._write([memoryview(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(piece.name), piece.name))])
                waiting.append(piece)
            if waiting:
                piece = waiting.popleft()
                self._read_value(piece)
                done(piece)

    def stale(self) -> bool:
        """Whether the server closed it while it lay idle."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Make whoever uses it fail at once; from any thread."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; harmless twice."""
        self._connection.disconnect()

    def _write(self, views: list[memoryview]) -> None:
        if not self._plain:
            for view in views:
                self._socket.sendall(view)
            return
        while views:
            try:
                views = _after(views, self._socket.sendmsg(views[:MAX_VECTORS]))
            except BlockingIOError as error:
                raise TimedOut("the server takes no more bytes") from error

    def _some(self, views: list[memoryview], all_of_it: bool) -> int:
        """Read into these buffers: what there is, or, asked for, all of it unless it takes too long."""
        try:
            if self._plain:
                flags = socket.MSG_WAITALL if all_of_it else 0
                count = self._socket.recvmsg_into(views[:MAX_VECTORS], 0, flags)[0]
            else:
                count = self._socket.recv_into(views[0])
        except BlockingIOError as error:
            raise TimedOut("the server sends nothing") from error
        if not count:
            raise Disconnected("the server closed the connection")
        return count

    def _expect_ok(self) -> None:
        answer = self._read_head(b"+OK\r\n")
        if answer:
            raise self._error_of(answer)

    def _read_value(self, piece: Piece) -> None:
        expected = b"$%d\r\n" % piece.size
        answer = self._read_head(expected)
        if answer.startswith(b"$-1"):
            raise Missing(piece.name)
        if answer.startswith(b"$"):
            raise Misfit(piece.name)
        if answer:
            raise self._error_of(answer)
        end = bytearray(2)
        views = [*piece.views, memoryview(end)]
        while views:
            views = _after(views, self._some(views, True))
        if end != b"\r\n":
            raise Misfit(piece.name)

    def _read_head(self, expected: bytes) -> bytes:
        """Read as many bytes as `expected`, or up to the end of a line; answers what came instead of `expected`."""
        head = bytearray(len(expected))
        view, got = memoryview(head), 0
        while got < len(expected) and head.find(b"\n", 0, got) < 0:
            got += self._some([view[got:]], False)
        return b"" if head == expected else bytes(head[:got])

    def _error_of(self, begin: bytes) -> Exception:
        """The error that an answer beginning like this is."""
        answer = bytearray(begin)
        while b"\n" not in answer and len(answer) < MAX_ERROR:
            more = bytearray(256)
            answer += more[: self._some([memoryview(more)], False)]
        line = bytes(answer).partition(b"\r\n")[0].decode(errors="replace")
        if not line.startswith("-"):
            return Disconnected(f"the server does not speak its protocol: {line[:80]!r}")
        found: Exception = BaseParser.parse_error(line[1:])
        return found


class Links:
    """Idle links by address, to be used again."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds, self._lock = timeout_seconds, Lock()
        self._idle: dict[str, list[Link]] = {}

    def take(self, address: str, make: Callable[[], Connection]) -> Link:
        """A link that is connected; blocks while it connects a new one."""
        while True:
            with self._lock:
                idle = self._idle.get(address)
                link = idle.pop() if idle else None
            if link is None:
                return Link(make, self._timeout_seconds)
            if not link.stale():
                return link
            link.close()

    def give_back(self, address: str, link: Link) -> None:
        """Keep a link whose every question was answered."""
        with self._lock:
            self._idle.setdefault(address, []).append(link)

    def clear(self) -> None:
        """Close all that are idle."""
        with self._lock:
            links = [link for idle in self._idle.values() for link in idle]
            self._idle.clear()
        for link in links:
            link.close()


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of these buffers after their first `count` bytes."""
    for at, view in enumerate(views):
        if count < view.nbytes:
            return [view[count:], *views[at + 1 :]]
        count -= view.nbytes
    return []
