"""The scaffold that all services share: logs, metrics, health, reflection, and an end without lost calls.

    run("kvstore", config, servicers)          the whole life of a process, until SIGTERM or SIGINT
    async with serve(config, servicers) as s:  the same without a process, on `s.address`

Draining: health says NOT_SERVING and new calls still succeed, while the service does what it does before it goes and
then for `notice_seconds`, so that balancers notice; then no new call is taken and running ones have `drain_seconds` to
end; then the servicers' own clean-up runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import structlog
from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from worldkv import rpc
from worldkv.auth import AuthConfig
from worldkv.config import load
from worldkv.errors import InvalidConfig, Unavailable
from worldkv.heap import begun, one_arena

HEALTH = "grpc.health.v1.Health"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of the buckets of call durations, seconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceConfig:
    """What every service can be told.

    address         `host:port` to serve on; port 0 takes a free one
    metrics         `host:port` of the page of metrics, port 0 for a free one; empty for none
    metrics_for     who may reach that page, which asks for no token: this-host, or anyone who can reach its address
    tls             transport security
    auth            whether callers have to show a token
    notice_seconds  between saying NOT_SERVING and taking no new calls; 0 where no balancer looks
    drain_seconds   that running calls have to end after that; 0 cuts them off
    log             json, or key=value for people; auto: by whether a person is looking
    log_level       debug, info, warning or error
    """

    address: str = "127.0.0.1:0"
    metrics: str = ""
    metrics_for: Literal["this-host", "anyone"] = "this-host"
    tls: rpc.TLS = field(default_factory=rpc.TLS)
    auth: AuthConfig = field(default_factory=AuthConfig)
    notice_seconds: float = 0.0
    drain_seconds: float = 10.0
    log: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        for name in ("notice_seconds", "drain_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidConfig(f"{name} = {getattr(self, name)}: expected seconds from 0")
        for name in ("address", "metrics"):
            if getattr(self, name) or name == "address":
                host_port(getattr(self, name))
        if self.metrics and self.metrics_for == "this-host" and not is_loopback(self.metrics):
            words = "other machines could read it, without a token: 127.0.0.1, or metrics_for = 'anyone'"
            raise InvalidConfig(f"metrics = {self.metrics!r}: {words}")


def host_port(address: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises InvalidConfig if it is not that."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidConfig(f"address {address!r}: expected host:port with a port from 0 to 65535")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this host can reach `host:port`. Raises InvalidConfig if it is not that."""
    host, _ = host_port(address)
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Host:
    """What servicers are added to.

    registry   where their metrics go
    ending     is set when the service begins to drain: calls that last as long as somebody listens should end
    farewells  what servicers do before they go, while calls are still taken; one after the other
    """

    server: aio.Server
    registry: CollectorRegistry
    ending: asyncio.Event
    farewells: list[Callable[[], Awaitable[object]]] = field(default_factory=list)


Servicers = Callable[[Host], AbstractAsyncContextManager[Sequence[str]]]
"""Opens what a service needs, adds its servicers to the host, yields their full names; cleans up after the drain."""


class Serving(NamedTuple):
    """A service that runs: where it listens, and its metrics; `metrics` is empty if there is no page."""

    address: str
    metrics: str
    registry: CollectorRegistry


class CallMetrics:
    """Counts and times the calls of a server, under the names that gRPC dashboards know."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started", "Calls begun", labels, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended", (*labels, "grpc_code"), registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Seconds from begin to end", labels, registry=registry, buckets=BUCKETS
        )

    @asynccontextmanager
    async def guard(self, method: str, context: rpc.Context) -> AsyncIterator[None]:
        _, service, name = method.split("/")
        self._started.labels(service, name).inc()
        begin, code = perf_counter(), StatusCode.CANCELLED.name
        try:
            yield
            code = StatusCode.OK.name
        except aio.AbortError:
            code = _code_name(context.code())
            raise
        finally:
            self._handled.labels(service, name, code).inc()
            self._seconds.labels(service, name).observe(perf_counter() - begin)


def _code_name(code: Any) -> str:
    """Name of a status, which grpc.aio gives as a number."""
    return next(status.name for status in StatusCode if code in (status, status.value[0]))


@asynccontextmanager
async def serve(config: ServiceConfig, servicers: Servicers) -> AsyncIterator[Serving]:
    """Serve until the block ends, then drain.

    Raises Unavailable if an address cannot be had, InvalidConfig for certificates or secrets that cannot be used, and
    whatever `servicers` raises.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    server = rpc.server([CallMetrics(registry).guard], config.auth.authority())
    host = Host(server, registry, asyncio.Event(), [])
    async with AsyncExitStack() as stack:
        metrics = _metrics_page(stack, config.metrics, registry)
        names = await stack.enter_async_context(servicers(host))
        checks = await _add_health(host.server, names)
        port = rpc.listen(host.server, config.address, config.tls)
        await host.server.start()
        stack.push_async_callback(_drain, host, checks, config)
        yield Serving(f"{host_port(config.address)[0]}:{port}", metrics, registry)


async def _add_health(server: aio.Server, names: Sequence[str]) -> health.aio.HealthServicer:
    """The standard health and reflection services, for these and for the server as a whole."""
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*names, HEALTH, reflection.SERVICE_NAME), server)
    for name in names:
        await checks.set(name, HealthCheckResponse.SERVING)
    return checks


def _metrics_page(stack: AsyncExitStack, address: str, registry: CollectorRegistry) -> str:
    """Start the page of metrics, which stays up until all else has ended; answers its address, empty if none."""
    if not address:
        return ""
    name, port = host_port(address)
    try:
        page, thread = start_http_server(port, name, registry)
    except OSError as error:
        raise Unavailable(f"cannot show metrics on {address}: {error.strerror}") from error
    for close in (thread.join, page.server_close, page.shutdown):  # undone in reverse
        stack.callback(close)
    return f"{name}:{page.server_port}"


async def _drain(host: Host, checks: health.aio.HealthServicer, config: ServiceConfig) -> None:
    await checks.enter_graceful_shutdown()
    host.ending.set()
    try:
        for farewell in host.farewells:
            await farewell()
        await asyncio.sleep(config.notice_seconds)
    finally:
        await host.server.stop(config.drain_seconds)


class Settings(Protocol):
    """What any service is told, and more."""

    @property
    def service(self) -> ServiceConfig: ...


S = TypeVar("S", bound=Settings)


def start(name: str, kind: type[S], file: Path | None, servicers: Callable[[S], Servicers]) -> None:
    """The whole of a service's program: settings of a kind from `WORLDKV_NAME_...`, over the file, over defaults.

    Ends the process with 1 and words on stderr if they are malformed, or something that is needed cannot be had.
    """
    try:
        settings = load(kind, f"WORLDKV_{name.upper()}_", file, os.environ)
        run(name, settings.service, servicers(settings))
    except (InvalidConfig, Unavailable) as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def run(name: str, config: ServiceConfig, servicers: Servicers) -> None:
    """The life of a service process: serve until SIGTERM or SIGINT, then drain."""
    one_arena()
    configure_logs(name, config)
    asyncio.run(_until_told(name, config, servicers))


async def _until_told(name: str, config: ServiceConfig, servicers: Servicers) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with serve(config, servicers) as serving:
        begun()
        _log.info("%s serves on %s, metrics on %s", name, serving.address, serving.metrics or "no page")
        await told.wait()
        _log.info("%s drains", name)
    _log.info("%s has ended", name)


def configure_logs(service: str, config: ServiceConfig) -> None:
    """Route all logs of this process to stderr through structlog, each line naming the service."""
    as_json = config.log == "json" or (config.log == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _naming(service),
    ]
    final: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if as_json
        else [
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    logging.basicConfig(handlers=[handler], level=config.log_level.upper(), force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _naming(service: str) -> structlog.typing.Processor:
    def named(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return named
