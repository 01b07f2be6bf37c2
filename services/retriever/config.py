"""What a replica can be told; `retriever.toml` beside this file lists every key with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig


@dataclass(frozen=True)
class ServingConfig:
    """How calls are served.

    late_seconds   before a lookup's deadline, at which it is answered from what is known, so that the answer arrives
                   in time; at most a quarter of what the call was given
    inline_chunks  up to so many candidates are chosen from at once; of more, in a thread, so that other calls go on
    threads        that choose from many candidates at the same time

    Raises InvalidConfig naming the value that is out of range.
    """

    late_seconds: float = 0.05
    inline_chunks: int = 500
    threads: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.late_seconds < float("inf"):
            raise InvalidConfig(f"late_seconds = {self.late_seconds}: expected seconds from 0")
        if self.inline_chunks < 0:
            raise InvalidConfig(f"inline_chunks must not be negative, got {self.inline_chunks}")
        if self.threads < 1:
            raise InvalidConfig(f"threads must be at least 1, got {self.threads}")


@dataclass(frozen=True)
class IndexConfig:
    """What is held.

    max_chunks   of all tenants. With a store, the branches that were asked for least recently are forgotten beyond
                 that, and read again when they are asked for; without one, more is refused
    gap_seconds  for which published chunks that the store does not have are not looked for again

    Raises InvalidConfig naming the value that is out of range.
    """

    max_chunks: int = 1_000_000
    gap_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.max_chunks < 1:
            raise InvalidConfig(f"max_chunks must be at least 1, got {self.max_chunks}")
        if not 0 <= self.gap_seconds < float("inf"):
            raise InvalidConfig(f"gap_seconds = {self.gap_seconds}: expected seconds from 0")


@dataclass(frozen=True)
class StoreConfig:
    """Where the store is that worlds are read back from: its shards, or a file that names them.

    shards            each `name=host:port`, or `host:port` alone
    members           file of the membership, see `worldkv.client.MembershipFile`
    deadline_seconds  of one call to it
    stall_seconds     after which a shard that gives no sign of life counts as not answering
    tls               transport security
    token             shown to it, or a file that holds one; empty: own ones, signed with `service.auth.secret`

    Raises InvalidConfig unless exactly one of shards and members is given.
    """

    shards: tuple[str, ...] = ()
    members: Path | None = None
    deadline_seconds: float = 30.0
    stall_seconds: float = 5.0
    tls: TLS = field(default_factory=TLS)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.shards) == (self.members is not None):
            raise InvalidConfig(
                f"store.shards ({', '.join(self.shards)}) or store.members ({self.members}): one of both"
            )
        for name in ("deadline_seconds", "stall_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidConfig(f"store.{name} = {getattr(self, name)}: expected seconds above 0")


@dataclass(frozen=True)
class RetrieverConfig:
    """A replica's settings.

    replica  its name in the membership; empty: its address
    service  as every service has them
    serving  how calls are served
    index    what is held
    store    where worlds are read back from; None: nothing is, and what is removed is taken at the caller's word
    """

    replica: str = ""
    service: ServiceConfig = field(default_factory=lambda: ServiceConfig(address="127.0.0.1:7080"))
    serving: ServingConfig = field(default_factory=ServingConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    store: StoreConfig | None = None
