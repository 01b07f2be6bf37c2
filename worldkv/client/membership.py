"""Who the shards are, and which of them has a chunk: rendezvous hashing.

Every shard gets a score for every chunk, from its name and the chunk's key alone; the scores' order is the chunk's
ranking. When a shard comes or goes, the others keep their order: only the chunks that it was first for move.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

from worldkv.chunk import ChunkKey
from worldkv.errors import InvalidConfig


class Member(NamedTuple):
    """A shard: a name, which ranks it and stays when it moves, and the `host:port` where it listens."""

    name: str
    address: str

    @classmethod
    def of(cls, text: str) -> Member:
        """From `name=host:port`, or `host:port` alone, which is its own name then; else InvalidConfig."""
        name, _, address = text.rpartition("=")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16 or (not name and "=" in text):
            raise InvalidConfig(f"shard {text!r}: expected name=host:port, or host:port")
        return cls(name or address, address)


@dataclass(frozen=True)
class Membership:
    """The shards at a time.

    number   rises with every change; shards refuse writes that were routed by an older one. 0: the client keeps
             to what it was given for ever, and no shard compares anything
    shards   that chunks are put to and read from, at least one
    leaving  that hand on what they have: read from, not put to any more

    Raises InvalidConfig for a negative number, no shards, or a name that stands twice.
    """

    number: int
    shards: tuple[Member, ...]
    leaving: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        names = [member.name for member in self.everyone]
        if self.number < 0:
            raise InvalidConfig(f"a membership's number must not be negative, got {self.number}")
        if not self.shards:
            raise InvalidConfig(f"membership {self.number} has no shards")
        if len(set(names)) != len(names):
            raise InvalidConfig(f"membership {self.number} names a shard twice: {', '.join(sorted(names))}")

    @classmethod
    def of(cls, number: int, shards: Iterable[str], leaving: Iterable[str] = ()) -> Membership:
        """From texts that `Member.of` reads; raises InvalidConfig as it does."""
        return cls(number, tuple(map(Member.of, shards)), tuple(map(Member.of, leaving)))

    @property
    def everyone(self) -> tuple[Member, ...]:
        """Who may have chunks: the shards, and those that leave."""
        return self.shards + self.leaving

    def ranked(self, key: bytes) -> list[Member]:
        """Everyone, first who should have what is called `key`, for writing without those that leave."""
        return sorted(self.everyone, key=lambda member: (_score(member.name, key), member.name), reverse=True)

    def without(self, name: str) -> Membership:
        """This membership as it is seen by a shard that leaves; InvalidConfig if nobody else is there."""
        return Membership(self.number, tuple(each for each in self.shards if each.name != name))


Members = Callable[[], Membership]
"""Asked at the begin of every call, so it must be quick; a number lower than one seen before is taken as old news."""


def fixed(*shards: str) -> Members:
    """Shards that never change, each a text for `Member.of`. Raises InvalidConfig as it does."""
    membership = Membership.of(0, shards)
    return lambda: membership


class MembershipFile:
    """A membership that is kept in a TOML file, read again when the file was replaced.

        number = 3
        shards = ["a=10.0.0.1:7070", "b=10.0.0.2:7070"]
        leaving = []

    Asking raises InvalidConfig as long as the file is missing or malformed; once it could be read, what was read
    last stays while it cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._last: Membership | None = None

    def __call__(self) -> Membership:
        try:
            stamp = self._stamp()
            if stamp != self._seen or self._last is None:
                self._seen, self._last = stamp, self._read()
        except InvalidConfig:  # if it was read before: somebody writes it just now
            if self._last is None:
                raise
        return self._last

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise InvalidConfig(f"membership file {self.path} cannot be read: {error.strerror}") from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> Membership:
        try:
            values = tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidConfig(f"membership file {self.path} cannot be read: {error}") from error
        number, shards, leaving = values.pop("number", 0), values.pop("shards", []), values.pop("leaving", [])
        texts = [*shards, *leaving] if isinstance(shards, list) and isinstance(leaving, list) else [None]
        if values or type(number) is not int or not all(isinstance(text, str) for text in texts):
            raise InvalidConfig(f"membership file {self.path}: expected number, and lists of texts shards and leaving")
        return Membership.of(number, shards, leaving)


def name_of(chunk: ChunkKey) -> bytes:
    """What a chunk is ranked by: both of its parts go to the same shards."""
    return chunk.branch + chunk.index.to_bytes(8, "little")


def _score(shard: str, key: bytes) -> int:
    return xxhash.xxh3_64_intdigest(key, seed=xxhash.xxh3_64_intdigest(shard.encode()))
