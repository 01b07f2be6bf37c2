"""Where Redis is, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worldkv.errors import InvalidConfig

SCHEMES = ("redis://", "rediss://", "unix://")
MAX_PIECE_BYTES = 16 << 20
"""Bytes of one value in Redis, at most: far below the server's own limit, and no command keeps others waiting."""


@dataclass(frozen=True)
class RedisConfig:
    """How Redis, a Redis Cluster or Valkey is reached and used.

    url              `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads it, with its options as a query:
                     passwords, a database, `ssl_ca_certs`. Holds secrets: better set by the environment
    cluster          the address is of a node of a cluster
    prefix           how the names of all keys begin; shards that share worlds have the same
    connections      for bulk bytes, and as many again for parts of few pieces
    piece_bytes      of a piece. A little under a power of two: the server's allocator wastes a quarter at one
    timeout_seconds  without a single byte, or to connect, until the server counts as gone
    retry_seconds    until a server that is gone is asked again; doubles up to `longest_retry_seconds`
    orphan_seconds   that pieces of an unfinished put are kept; a put must not take longer
    sweep_seconds    between sweeps of pieces that a crash left for good
    durable          memory: Redis has it; fsync: its disk has it, which `appendfsync always` or WAITAOF can promise

    Raises InvalidConfig naming the value that is out of range.
    """

    url: str = field(default="redis://127.0.0.1:6379", repr=False)
    cluster: bool = False
    prefix: str = "wkv"
    connections: int = 4
    piece_bytes: int = (1 << 20) - 64
    timeout_seconds: float = 1.0
    retry_seconds: float = 0.05
    longest_retry_seconds: float = 5.0
    orphan_seconds: float = 600.0
    sweep_seconds: float = 3600.0
    durable: Literal["memory", "fsync"] = "memory"

    def __post_init__(self) -> None:
        if not self.url.startswith(SCHEMES):
            raise InvalidConfig(f"the url of Redis begins with one of {', '.join(SCHEMES)}")
        if not self.prefix or not self.prefix.isascii() or set(self.prefix) & set("{}*?[]\\ "):
            raise InvalidConfig(f"prefix = {self.prefix!r}: expected ASCII without braces, wildcards or spaces")
        if not 1 <= self.connections <= 64:
            raise InvalidConfig(f"connections = {self.connections}: expected 1 to 64")
        if not 1 <= self.piece_bytes <= MAX_PIECE_BYTES:
            raise InvalidConfig(f"piece_bytes = {self.piece_bytes}: expected 1 to {MAX_PIECE_BYTES}")
        for name in (
            "timeout_seconds",
            "retry_seconds",
            "longest_retry_seconds",
            "orphan_seconds",
            "sweep_seconds",
        ):
            if not 0.001 <= getattr(self, name) < float("inf"):
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected seconds from 0.001")
