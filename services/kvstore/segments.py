"""Writers' staging segments that this shard has mapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from worldkv.shared import StagingReader, remove_stale

MOST = 64
"""Segments that are mapped at the same time; the one unused for longest goes first."""
_FOLDER = Path("/dev/shm")


class Segments:
    """Maps segments when they are first named, and lets go of those whose writers are gone.

    prefix  begin of their names; segments of killed writers are removed
    """

    def __init__(self, prefix: str, reader: Callable[[str, bytes], StagingReader] = StagingReader) -> None:
        self._prefix, self._reader = prefix, reader
        self._mapped: dict[tuple[str, bytes], StagingReader] = {}  # longest unused first

    def __len__(self) -> int:
        return len(self._mapped)

    async def open(self, name: str, nonce: bytes) -> StagingReader:
        """A segment. Raises Unavailable if it is not on this host or another one, InvalidInput for an odd name."""
        found = self._mapped.pop((name, nonce), None)
        if found is None:
            found = await asyncio.to_thread(self._reader, name, nonce)
            other = self._mapped.pop((name, nonce), None)  # mapped by another call meanwhile
            if other is not None:
                found.close()
                found = other
        self._mapped[name, nonce] = found
        if len(self._mapped) > MOST:
            self._mapped.pop(next(iter(self._mapped))).close()
        return found

    async def sweep(self) -> None:
        """Let go of segments whose files are gone."""
        gone = await asyncio.to_thread(self._gone, [*self._mapped])
        for each in gone:
            if each in self._mapped:
                self._mapped.pop(each).close()

    def close(self) -> None:
        """Unmap all; views that are still used stay."""
        for each in self._mapped.values():
            each.close()
        self._mapped.clear()

    def _gone(self, mapped: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        remove_stale(self._prefix)
        return [each for each in mapped if not (_FOLDER / each[0]).exists()]
