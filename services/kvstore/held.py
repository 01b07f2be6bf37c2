"""A part in the arena, and room for one that is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from services.kvstore.arena import Arena
from worldkv.errors import Conflict, NotFound
from worldkv.shared import Extent
from worldkv.store import PartKey


class Held:
    """A part that is held. Its owner alone writes to it.

    tenant, key     whose it is, and its name
    size, checksum  bytes, and xxh3-64 of all of them
    extents         where they lie in the arena
    safe            whether a copy exists elsewhere
    below           whether the tier below has one
    used            when it was last used: a number that rises
    pins, dropped   how many read it, and whether it is no longer held otherwise
    """

    def __init__(
        self, arena: Arena, tenant: str, key: PartKey, extents: tuple[Extent, ...], let_go: Callable[[Held], None]
    ) -> None:
        self.tenant, self.key, self.extents = tenant, key, extents
        self.size = sum(extent.length for extent in extents)
        self.checksum = self.used = self.pins = 0
        self.safe = self.below = self.dropped = False
        self._arena, self._let_go = arena, let_go

    @property
    def views(self) -> tuple[memoryview, ...]:
        """The bytes, read-only, for this process. Pin the part to look at them beyond the next `await`."""
        return tuple(view.toreadonly() for view in self._arena.views(self.extents))

    @contextmanager
    def pin(self) -> Iterator[None]:
        """Within it the bytes stay as they are, also if the part is dropped meanwhile.

        A part that is pinned is not chosen to make room; if it is deleted, its room comes back with the last pin.
        Raises NotFound if the part was dropped before.
        """
        if self.dropped and not self.pins:
            raise NotFound(f"{self.key} was dropped meanwhile")
        self.pins += 1
        try:
            yield
        finally:
            self.pins -= 1
            if self.dropped and not self.pins:
                self._let_go(self)


class Reservation:
    """Room for a part that nobody sees yet: fill `views`, then `commit` or `abort`, once.

    size   bytes asked for
    views  writable, in order, together `size` bytes. Nobody may write there after commit or abort
    """

    def __init__(self, arena: Arena, part: Held, commit: Callable[[Held], Held], abort: Callable[[Held], None]) -> None:
        self.size, self.views = part.size, arena.views(part.extents)
        self._part, self._commit, self._abort, self._open = part, commit, abort, True

    def commit(self, checksum: int) -> Held:
        """The part is held from now on; if somebody else was faster, what they put is.

        Raises Conflict, and gives the room back, if the chunk was deleted meanwhile or the room was given back.
        """
        if not self._open:
            raise Conflict(f"room for {self._part.key} was given back before all of it was written")
        self._close()
        self._part.checksum = checksum
        return self._commit(self._part)

    def abort(self) -> None:
        """Give the room back. Harmless after either."""
        if self._open:
            self._close()
            self._abort(self._part)

    def _close(self) -> None:
        self._open = False
        for view in self.views:
            with suppress(BufferError):  # somebody made an array of it
                view.release()
