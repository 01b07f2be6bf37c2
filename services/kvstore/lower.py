"""The seam to the tier below RAM, and what the two are told of working together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from worldkv.chunk import Branch
from worldkv.errors import InvalidConfig
from worldkv.format import Kind
from worldkv.store import Miss, PartKey


class Described(Protocol):
    """What a lower tier says of a part: its bytes, and the xxh3-64 of all of them."""

    @property
    def size(self) -> int: ...

    @property
    def checksum(self) -> int: ...


Into = Callable[[int, int], Sequence[memoryview] | None]
"""Given size and checksum of a part, where to read it to, in order; None: it is not wanted any more."""


class Lower(Protocol):
    """The tier below RAM. Any method may raise Unavailable, within milliseconds if the tier is known not to answer.

    available  whether it answered when it was last asked

    `put` raises Conflict for a deleted chunk, OverBudget without room. `get` answers only bytes that fit their
    checksum. `first_bytes` answers at most `count` bytes of each part that is there, unchecked.
    """

    @property
    def available(self) -> bool: ...

    async def put(self, tenant: str, key: PartKey, views: Sequence[memoryview], checksum: int) -> None: ...

    async def get(self, tenant: str, key: PartKey, into: Into) -> Described | Miss: ...

    async def first_bytes(self, tenant: str, keys: Collection[PartKey], count: int) -> dict[PartKey, bytes]: ...

    async def delete(self, tenant: str, keys: Collection[PartKey]) -> int: ...

    def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]: ...


@dataclass(frozen=True)
class TierConfig:
    """How RAM and Redis work together.

    queue_bytes    of KV parts that wait to be written to Redis; more are not written, and counted
    writers        parts that are written at the same time
    retry_seconds  between attempts to reach a Redis that did not answer
    passing_bytes  of memory for parts read from Redis that RAM has no room for; more are told to be
                   out of reach, TIER_DOWN
    flush_seconds  that a shard which ends takes to write what waits

    Raises InvalidConfig naming the value that is out of range.
    """

    queue_bytes: int = 1 << 30
    writers: int = 2
    retry_seconds: float = 0.5
    passing_bytes: int = 256 << 20
    flush_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name in ("queue_bytes", "passing_bytes"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"{name} must not be negative, got {getattr(self, name)}")
        if self.writers < 1:
            raise InvalidConfig(f"writers must be at least 1, got {self.writers}")
        for name, least in (("retry_seconds", 1e-3), ("flush_seconds", 0.0)):
            if not least <= getattr(self, name) < float("inf"):
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected seconds from {least:g}")
