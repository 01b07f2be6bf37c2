"""What a gateway can be told; `gateway.toml` beside this file lists every key with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.gateway.quotas import QuotaConfig
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig, host_port


@dataclass(frozen=True)
class RoutingConfig:
    """How sessions find their generators.

    ping_seconds      between two looks at what lives on a generator
    silent_seconds    after which a generator that does not answer such a look counts as gone, and its walks go on
                      elsewhere
    failover_seconds  that a walk may be without a generator before it ends
    deadline_seconds  of a call that names none
    most_unanswered   moves, shows and holds of a walk that wait for their effect; then no more are taken from its
                      client. Generators refuse to have too many wait: stay below what they take
    unanswered_bytes  of these, at most; one may be larger
    most_worlds       names of worlds of which it is remembered whose forks they are

    Raises InvalidConfig naming the value that is out of range.
    """

    ping_seconds: float = 1.0
    silent_seconds: float = 5.0
    failover_seconds: float = 30.0
    deadline_seconds: float = 60.0
    most_unanswered: int = 32
    unanswered_bytes: int = 16 << 20
    most_worlds: int = 10_000

    def __post_init__(self) -> None:
        for name in ("ping_seconds", "silent_seconds", "deadline_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidConfig(f"routing.{name} = {getattr(self, name)}: expected seconds above 0")
        if not 0 <= self.failover_seconds < float("inf"):
            raise InvalidConfig(f"routing.failover_seconds = {self.failover_seconds}: expected seconds from 0")
        for name in ("most_unanswered", "unanswered_bytes", "most_worlds"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"routing.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class WebConfig:
    """The face for browsers.

    address        `host:port` for HTTP and WebSocket, port 0 takes a free one; empty: no such face
    origins        whose pages may walk here, such as `https://example.org`; `*`: everybody's. Pages that the gateway
                   shows itself always may, and so may whoever is no browser
    folder         shown at `/`; None: a page that says what this is
    message_bytes  of one text message of a client
    picture_bytes  that wait for a client which takes them too slowly; beyond that the oldest waiting pictures go
    most_waiting   messages that wait for it; then the walk waits
    beat_seconds   between two pings; a client that does not answer one is gone
    supervisor     `host:port` of who looks after all parts of the service, or a file that says it; empty: nobody does
    films          that are made at the same time
    link_seconds   that a link may be good for, however long its maker's own token is
    tls            transport security

    Raises InvalidConfig naming the value that is out of range.
    """

    address: str = "127.0.0.1:8471"
    origins: tuple[str, ...] = ()
    folder: Path | None = None
    message_bytes: int = 4 << 20
    picture_bytes: int = 4 << 20
    most_waiting: int = 256
    beat_seconds: float = 20.0
    supervisor: str = ""
    films: int = 2
    link_seconds: float = 30 * 86_400.0
    tls: TLS = field(default_factory=TLS)

    def __post_init__(self) -> None:
        if self.address:
            host_port(self.address)
        for origin in self.origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.endswith("/")):
                raise InvalidConfig(f"web.origins: {origin!r} is no origin, such as https://example.org, nor *")
        if self.folder is not None and not self.folder.is_dir():
            raise InvalidConfig(f"web.folder: {self.folder} is no folder")
        if not 1 << 10 <= self.message_bytes <= 1 << 30:
            raise InvalidConfig(f"web.message_bytes = {self.message_bytes}: expected 1 KiB to 1 GiB")
        for name in ("picture_bytes", "most_waiting", "films"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"web.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("beat_seconds", "link_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidConfig(f"web.{name} = {getattr(self, name)}: expected seconds above 0")


@dataclass(frozen=True)
class GatewayConfig:
    """A gateway's settings.

    generators  each `name=host:port`, or `host:port` alone
    members     file that names them instead, see `worldkv.client.MembershipFile`
    service     as every service has them
    routing     how sessions find their generators
    web         the face for browsers
    quota       what one tenant may take
    tls         transport security towards the generators
    token       shown to them, or a file that holds one; empty: own ones, signed with `service.auth.secret`

    Raises InvalidConfig if both generators and members are given.
    """

    generators: tuple[str, ...] = ()
    members: Path | None = None
    service: ServiceConfig = field(default_factory=lambda: ServiceConfig(address="127.0.0.1:8470"))
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    web: WebConfig = field(default_factory=WebConfig)
    quota: QuotaConfig = field(default_factory=QuotaConfig)
    tls: TLS = field(default_factory=TLS)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.generators and self.members is not None:
            raise InvalidConfig(f"generators ({', '.join(self.generators)}) or members ({self.members}): one of both")
