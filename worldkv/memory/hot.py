"""Chunks at hand: decoded keys and values within a bound of bytes, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator

from worldkv.chunk import ChunkKey
from worldkv.window import Entry


class HotSet:
    """Decoded chunks by key, never more than `room_bytes` of them.

    needed  chunks that are let go of last: what the step that is being made recalls, then what the coming one will
    """

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes, self.used_bytes = room_bytes, 0
        self.needed: frozenset[ChunkKey] = frozenset()
        self._held: OrderedDict[ChunkKey, Entry] = OrderedDict()  # least recently used first

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[ChunkKey]:
        return iter(self._held)

    def get(self, key: ChunkKey) -> Entry | None:
        """A chunk if it is at hand; it counts as used."""
        if (entry := self._held.get(key)) is not None:
            self._held.move_to_end(key)
        return entry

    def keep(self, key: ChunkKey, entry: Entry) -> None:
        """Have a chunk at hand, as the one used last, if there is room for it beside the needed ones."""
        self.drop(key)
        self._held[key] = entry
        self.used_bytes += entry.kv.nbytes
        while self.used_bytes > self.room_bytes:
            self.drop(next((each for each in self._held if each not in self.needed), next(iter(self._held))))

    def need(self, keys: Collection[ChunkKey]) -> None:
        """From now on these are let go of last."""
        self.needed = frozenset(keys)

    def beside_needed(self) -> int:
        """Bytes of room beside the needed chunks that are at hand."""
        return self.room_bytes - sum(self._held[key].kv.nbytes for key in self.needed if key in self._held)

    def drop(self, key: ChunkKey) -> None:
        """Let go of a chunk, if it is at hand."""
        if (entry := self._held.pop(key, None)) is not None:
            self.used_bytes -= entry.kv.nbytes

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self.used_bytes = 0
