"""What a shard can be told; `kvstore.toml` beside this file lists every key with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.kvstore.lower import TierConfig
from services.kvstore.ram import RamConfig
from services.kvstore.redis_config import RedisConfig
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig


@dataclass(frozen=True)
class ServingConfig:
    """How calls are served.

    late_seconds      before a get's deadline, at which the rest is answered LATE so that the answer arrives in time;
                      at most a quarter of what the call was given
    read_ahead        keys of a get that are looked for in Redis while earlier ones are sent
    items_at_once     items of a put that are copied and kept at the same time
    snapshot_bytes    of one session's state, at most
    snapshots_bytes   of session states kept in RAM, a tenant, where there is no Redis
    staging_prefix    begin of the names of writers' staging segments; those of killed writers are removed

    Raises InvalidConfig naming the value that is out of range.
    """

    late_seconds: float = 0.05
    read_ahead: int = 4
    items_at_once: int = 4
    snapshot_bytes: int = 64 << 20
    snapshots_bytes: int = 256 << 20
    staging_prefix: str = "worldkv-staging"

    def __post_init__(self) -> None:
        if not 0 <= self.late_seconds < float("inf"):
            raise InvalidConfig(f"late_seconds = {self.late_seconds}: expected seconds from 0")
        for name in ("read_ahead", "items_at_once", "snapshot_bytes", "snapshots_bytes"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.snapshots_bytes < self.snapshot_bytes:
            raise InvalidConfig(
                f"snapshots_bytes = {self.snapshots_bytes}: expected at least snapshot_bytes ({self.snapshot_bytes}), "
                "or the largest state of a session has no room"
            )
        if not self.staging_prefix:
            raise InvalidConfig("staging_prefix must not be empty")


@dataclass(frozen=True)
class KVStoreConfig:
    """A shard's settings.

    shard             its name in the membership; empty: its address
    members           file of the membership (`worldkv.client.MembershipFile`): when it says that this shard leaves, and
                      when the shard is told to end, what has no second copy goes to the others. None: it is lost
    handover_seconds  that this may take at the end
    service           as every service has them
    serving           how calls are served
    ram               how much memory it takes
    tiers             how RAM and Redis work together
    redis             where Redis is; None: parts are kept in RAM alone
    tls               transport security towards other shards; nothing set: as the service's own
    """

    shard: str = ""
    members: Path | None = None
    handover_seconds: float = 60.0
    service: ServiceConfig = field(default_factory=lambda: ServiceConfig(address="127.0.0.1:7070"))
    serving: ServingConfig = field(default_factory=ServingConfig)
    ram: RamConfig = field(default_factory=RamConfig)
    tiers: TierConfig = field(default_factory=TierConfig)
    redis: RedisConfig | None = None
    tls: TLS = field(default_factory=TLS)

    def __post_init__(self) -> None:
        if not 0 < self.handover_seconds < float("inf"):
            raise InvalidConfig(f"handover_seconds = {self.handover_seconds}: expected seconds above 0")
