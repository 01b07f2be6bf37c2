"""What a client can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldkv.auth import Bearer
from worldkv.client.policy import Retry
from worldkv.errors import InvalidConfig
from worldkv.rpc import DEADLINE_SECONDS, DEFAULT_TENANT, TLS


@dataclass(frozen=True)
class ClientConfig:
    """Settings of a `KVClient`.

    tenant            whose chunks these are
    deadline_seconds  of a call that names none
    stall_seconds     after which a shard that gives no sign of life in a call counts as not answering
    landing_bytes     of memory kept warm for frames to land in, while no frame is there
    staging_bytes     of memory shared with shards of this host, from which they take what is put: taken as it is
                      needed, then kept. Frames larger than this travel as streams; 0: all of them
    shared            whether memory shared with shards of this host is used where there is any
    piece_bytes       of a streamed piece
    retry             when a shard is asked again
    tls               transport security
    bearer            what is shown with every call: a token, or what one is signed with

    Raises InvalidConfig for values out of range.
    """

    tenant: str = DEFAULT_TENANT
    deadline_seconds: float = DEADLINE_SECONDS
    stall_seconds: float = 5.0
    landing_bytes: int = 1 << 30
    staging_bytes: int = 2 << 30
    shared: bool = True
    piece_bytes: int = 1 << 20
    retry: Retry = field(default_factory=Retry)
    tls: TLS = field(default_factory=TLS)
    bearer: Bearer = field(default_factory=Bearer)

    def __post_init__(self) -> None:
        for name in ("deadline_seconds", "stall_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected seconds above 0")
        for name in ("landing_bytes", "staging_bytes"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected bytes from 0")
        if not 1 << 12 <= self.piece_bytes <= 3 << 20:
            raise InvalidConfig(f"piece_bytes = {self.piece_bytes}: expected 4 KiB to 3 MiB")
