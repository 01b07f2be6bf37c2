"""What a cluster can be told, apart from the settings of its parts, which `topology.py` adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import NamedTuple

from services.cluster.roster import KINDS, Kind
from services.cluster.security import SecurityConfig
from worldkv.client import Member
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS

LEAST: Mapping[Kind, int] = {"kvstore": 1, "retriever": 1, "generator": 0, "gateway": 1}
"""Parts that there are at least of each kind."""
MOST = 1000
"""Parts of a kind at most: more is a slip of the hand."""
MAX_PORT = 65535


def check_count(kind: Kind, count: int) -> None:
    """Raise InvalidConfig for a number of parts that cannot be."""
    if not LEAST[kind] <= count <= MOST:
        raise InvalidConfig(f"{kind}={count}: expected {LEAST[kind]} to {MOST}")


@dataclass(frozen=True)
class PartConfig:
    """How many parts of a kind there are, and what Ray sets aside for each.

    count         of them, at the begin
    cpus          that are taken from what the cluster has; 0: they are not counted
    gpus          the same; None: one for a generator if the cluster has any, none for others
    memory_bytes  the same; 0: not counted. A shard's `ram.budget_bytes` is not part of it
    resource      of Ray's, by name, that a node must have for them; empty: any node will do
    threads       of arithmetic (OpenMP) in each process; 0: as many as its node has cores

    Raises InvalidConfig naming the value that is out of range.
    """

    count: int = 1
    cpus: float = 0.0
    gpus: float | None = None
    memory_bytes: int = 0
    resource: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "memory_bytes", "threads"):
            if not 0 <= (getattr(self, name) or 0) < inf:
                raise InvalidConfig(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class PartsConfig:
    """All kinds of parts. Raises InvalidConfig for a count that cannot be."""

    kvstore: PartConfig = field(default_factory=PartConfig)
    retriever: PartConfig = field(default_factory=PartConfig)
    generator: PartConfig = field(default_factory=lambda: PartConfig(threads=0))
    gateway: PartConfig = field(default_factory=PartConfig)

    def __post_init__(self) -> None:
        for kind in KINDS:
            check_count(kind, self.of(kind).count)

    def of(self, kind: Kind) -> PartConfig:
        """Those of a kind."""
        found: PartConfig = getattr(self, kind)
        return found


@dataclass(frozen=True)
class DoorConfig:
    """Where people come in.

    host      that gateways bind to; empty: as all parts
    port      of the first gateway's gRPC; the second's is two higher, and so on; 0: any that is free
    web_port  of the first gateway's HTTP and WebSocket, the same; 0: any that is free

    Raises InvalidConfig for a port that is none.
    """

    host: str = ""
    port: int = 8470
    web_port: int = 8471

    def __post_init__(self) -> None:
        for name in ("port", "web_port"):
            if not 0 <= getattr(self, name) <= MAX_PORT:
                raise InvalidConfig(f"door.{name} = {getattr(self, name)}: expected 0 to {MAX_PORT}")


@dataclass(frozen=True)
class ElsewhereConfig:
    """Parts that run elsewhere, each `name=host:port` or `host:port`; none: they are started here.

    kvstore    shards
    retriever  replicas; only with shards elsewhere that they read worlds from
    """

    kvstore: tuple[str, ...] = ()
    retriever: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.retriever and not self.kvstore:
            raise InvalidConfig("elsewhere.retriever without elsewhere.kvstore: replicas elsewhere know no shards here")
        self.members()

    def members(self) -> dict[Kind, tuple[Member, ...]]:
        """Those there are. Raises InvalidConfig for what is no address."""
        given: dict[Kind, tuple[str, ...]] = {"kvstore": self.kvstore, "retriever": self.retriever}
        return {kind: tuple(map(Member.of, texts)) for kind, texts in given.items() if texts}


@dataclass(frozen=True)
class SupervisionConfig:
    """How parts are looked after.

    ping_seconds          between two questions how a part is
    silent_seconds        after which a part that gives no sign of life is killed and started again
    start_seconds         that a start may take
    end_seconds           that an end may take, handing over included; then it is killed
    rest_seconds          before a second start in a row; doubles
    longest_rest_seconds  up to this
    steady_seconds        after which a part's failures are forgotten

    Raises InvalidConfig naming the value that is out of range.
    """

    ping_seconds: float = 1.0
    silent_seconds: float = 20.0
    start_seconds: float = 180.0
    end_seconds: float = 120.0
    rest_seconds: float = 0.5
    longest_rest_seconds: float = 30.0
    steady_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in vars(self):
            if not 0 < getattr(self, name) < inf:
                raise InvalidConfig(f"supervision.{name} = {getattr(self, name)}: expected seconds above 0")
        if self.silent_seconds < 2 * self.ping_seconds:
            raise InvalidConfig(
                f"supervision.silent_seconds = {self.silent_seconds}: expected at least twice ping_seconds "
                f"({self.ping_seconds})"
            )


@dataclass(frozen=True)
class ClusterConfig:
    """What runs where.

    host                that parts serve on; empty: 127.0.0.1 where Ray is started here, each node's own address on a
                        cluster that runs already
    namespace           in Ray, of all actors: one service each
    fleet_port          that the supervisor serves on; 0: any that is free
    folder              for logs and memberships, the same on every node; empty: the run directory
    object_store_bytes  of Ray's object store, where Ray is started here: nothing is put there
    metrics             whether parts show a page of metrics
    apart               whether parts of different nodes count as on different hosts, even where one machine plays all
                        nodes: they share no memory then
    tls                 transport security of the supervisor's own service, if not that of all
    security            of all parts, and who may come in
    parts               how many, and what for
    door                where people come in
    elsewhere           what runs already
    supervision         how parts are looked after
    """

    host: str = ""
    namespace: str = "worldkv"
    fleet_port: int = 0
    folder: Path | None = None
    object_store_bytes: int = 80 << 20
    metrics: bool = True
    apart: bool = False
    tls: TLS = field(default_factory=TLS)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    door: DoorConfig = field(default_factory=DoorConfig)
    elsewhere: ElsewhereConfig = field(default_factory=ElsewhereConfig)
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)

    def __post_init__(self) -> None:
        if not self.namespace:
            raise InvalidConfig("namespace must not be empty")
        if not 0 <= self.fleet_port <= MAX_PORT:
            raise InvalidConfig(f"fleet_port = {self.fleet_port}: expected 0 to {MAX_PORT}")
        if self.object_store_bytes < 80 << 20:
            raise InvalidConfig(f"object_store_bytes = {self.object_store_bytes}: Ray wants at least {80 << 20}")


class Plan(NamedTuple):
    """What the supervisor is given.

    cluster   what runs where
    settings  of each kind, as JSON: only who serves a kind needs what that needs
    tls       that each kind's clients are secured by, where their own settings say nothing
    redis     where Redis is, without secrets; empty: there is none
    """

    cluster: ClusterConfig
    settings: Mapping[Kind, str]
    tls: Mapping[Kind, TLS]
    redis: str
