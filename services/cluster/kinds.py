"""What each kind of part is made of: its servicers, the settings of one part among others, and its figures."""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry
from rich.filesize import decimal

from services.cluster.config import ClusterConfig
from services.cluster.roster import Kind, membership_file, parsed, supervisor_file
from services.cluster.security import SecurityConfig
from worldkv.config import of_table
from worldkv.rpc import TLS
from worldkv.service import Servicers, Settings, host_port

LOOPBACK = "127.0.0.1"
_CONFIGS: Mapping[Kind, str] = {
    "kvstore": "KVStoreConfig",
    "retriever": "RetrieverConfig",
    "generator": "GeneratorConfig",
    "gateway": "GatewayConfig",
}
ANY = ("0.0.0.0", "[::]")
"""Hosts that are bound to and cannot be connected to."""


@dataclass(frozen=True)
class Place:
    """Where a part stands among others.

    name      its own
    folder    for its memberships
    host      that it serves on; empty: the address of its node
    port      of gRPC, web_port of HTTP; 0: any
    metrics   whether it shows them
    tls       of each kind's clients
    security  of all parts, where their settings say nothing
    apart     whether its node counts as a host of its own
    """

    name: str
    folder: Path
    host: str
    port: int
    web_port: int
    metrics: bool
    tls: Mapping[Kind, TLS]
    apart: bool = False
    security: SecurityConfig = field(default_factory=SecurityConfig)

    def members(self, kind: Kind) -> Path:
        return membership_file(self.folder, kind)


def place_of(config: ClusterConfig, name: str, folder: Path, tls: Mapping[Kind, TLS]) -> Place:
    """The place of the part of this name; `folder` is for all parts."""
    kind, number = parsed(name)
    host, port, web_port, own = config.host, 0, 0, folder / "parts" / name
    if kind == "gateway":
        host = config.door.host or host
        port, web_port = (each and each + 2 * (number - 1) for each in (config.door.port, config.door.web_port))
    return Place(name, own, host, port, web_port, config.metrics, tls, config.apart, config.security)


def servicers(kind: Kind) -> Callable[[Any], Servicers]:
    """What `worldkv.service` serves for a part of this kind. Imports what that needs, and nothing of other kinds."""
    return cast(Callable[[Any], Servicers], importlib.import_module(f"services.{kind}.server").servicers)


def settings_of(kind: Kind, text: str) -> Any:
    """The settings of a kind, which its plan holds as JSON."""
    made = getattr(importlib.import_module(f"services.{kind}.config"), _CONFIGS[kind])
    return of_table(made, json.loads(text))


def placed(kind: Kind, settings: Any, place: Place, node: str) -> Settings:
    """The settings of one part, from those of its kind; `node` is the address of the node that it runs on."""
    host = place.host or node
    given, security = settings.service, place.security
    shown = "anyone" in (given.metrics_for, security.metrics_for)
    service = replace(
        given,
        address=f"{host}:{place.port}",
        metrics=f"{host if shown else LOOPBACK}:0" if place.metrics else "",
        metrics_for="anyone" if shown else "this-host",
        tls=given.tls or security.server,
        auth=given.auth or security.auth,
    )
    return cast(Settings, replace(settings, service=service, **_OWN[kind](settings, place, host)))


def _kvstore(settings: Any, place: Place, host: str) -> dict[str, Any]:
    return {"shard": place.name, "members": place.members("kvstore"), "tls": settings.tls or place.tls["kvstore"]}


def _retriever(settings: Any, place: Place, host: str) -> dict[str, Any]:
    from services.retriever.config import StoreConfig

    return {"replica": place.name, "store": _store(StoreConfig, settings.store, place)}


def _generator(settings: Any, place: Place, host: str) -> dict[str, Any]:
    from services.generator.config import IndexConfig, StoreConfig

    members = place.members("retriever")
    if settings.index is None:
        index = IndexConfig(members=members, tls=place.tls["retriever"])
    else:
        index = replace(settings.index, replicas=(), members=members)
    return {"name": place.name, "store": _store(StoreConfig, settings.store, place), "index": index}


def _gateway(settings: Any, place: Place, host: str) -> dict[str, Any]:
    tls = settings.tls or place.tls["generator"]
    address = f"{host}:{place.web_port or free_port(host)}"
    web = replace(
        settings.web,
        address=address,
        supervisor=settings.web.supervisor or str(supervisor_file(place.folder)),
        tls=settings.web.tls or place.security.web,
    )
    return {"generators": (), "members": place.members("generator"), "tls": tls, "web": web}


def _store(kind: Any, given: Any, place: Place) -> Any:
    """Where the shards are, otherwise as the settings say."""
    members = place.members("kvstore")
    if given is None:
        return kind(members=members, tls=place.tls["kvstore"])
    return replace(given, shards=(), members=members)


_OWN: Mapping[Kind, Callable[[Any, Place, str], dict[str, Any]]] = {
    "kvstore": _kvstore,
    "retriever": _retriever,
    "generator": _generator,
    "gateway": _gateway,
}


def free_port(host: str) -> int:
    """A port of this host that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def reachable(address: str, node: str) -> str:
    """`host:port` for others, of what is bound on a node; empty stays empty."""
    if not address:
        return ""
    host, port = host_port(address)
    return f"{node}:{port}" if host in ANY else address


def figures(kind: Kind, registry: CollectorRegistry) -> dict[str, str]:
    """What a part says of itself, for people, out of its metrics."""
    memory = registry.get_sample_value("process_resident_memory_bytes") if kind == "kvstore" else own_bytes()
    found = {"memory": _bytes(memory)}
    for name, (sample, said) in _FIGURES[kind].items():
        found[name] = said(registry.get_sample_value(sample))
    return {name: text for name, text in found.items() if text}


def own_bytes() -> int | None:
    """Resident bytes of this process but for shared memory, which a shard's arena is; None where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssFile:")))


def _bytes(value: float | None) -> str:
    return "" if value is None else decimal(int(value))


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _milliseconds(value: float | None) -> str:
    return "" if not value else f"{value * 1e3:.0f} ms"


_FIGURES: Mapping[Kind, Mapping[str, tuple[str, Callable[[float | None], str]]]] = {
    "kvstore": {
        "parts": ("worldkv_kvstore_parts", _count),
        "used": ("worldkv_kvstore_used_bytes", _bytes),
    },
    "retriever": {
        "chunks": ("worldkv_retriever_chunks", _count),
        "branches": ("worldkv_retriever_branches", _count),
    },
    "generator": {
        "sessions": ("worldkv_generator_sessions", _count),
        "room": ("worldkv_generator_room", _count),
        "step": ("worldkv_generator_step_seconds", _milliseconds),
    },
    "gateway": {
        "walks": ("worldkv_gateway_walks", _count),
        "sockets": ("worldkv_gateway_sockets", _count),
    },
}
