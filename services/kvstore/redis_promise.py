"""What a Redis can promise about its disk: asked of the server, never assumed."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any, Literal

from redis.exceptions import ResponseError

from worldkv.errors import InvalidConfig

WHERE = "durable = fsync cannot be promised"

_log = logging.getLogger(__name__)


class Promise(Enum):
    """What an answer of the server means, and what it takes: nothing more, or a WAITAOF after each write."""

    MEMORY = "in memory"
    ALWAYS = "on disk"
    WAIT = "on disk after WAITAOF"


def examine(client: Any, durable: Literal["memory", "fsync"], cluster: bool) -> Promise:
    """What the server can promise. Raises InvalidConfig, saying why, if that is less than `durable`."""
    if durable == "memory":
        return Promise.MEMORY
    promises = [_promise(node, cluster) for node in primaries(client, cluster)]
    return Promise.WAIT if Promise.WAIT in promises else Promise.ALWAYS


def warn_of_eviction(client: Any, cluster: bool) -> None:
    """Say so if the server may drop what must stay. One that does not tell how it is set is believed."""
    try:
        for node in primaries(client, cluster):
            policy = node.config_get("maxmemory-policy").get("maxmemory-policy", "")
            if policy.startswith("allkeys"):
                _log.warning(
                    "Redis has maxmemory-policy %s, and may drop what is kept for good: set noeviction", policy
                )
    except ResponseError:
        return


def primaries(client: Any, cluster: bool) -> list[Any]:
    """A plain client of each node that takes writes."""
    return [client.get_redis_connection(node) for node in client.get_primaries()] if cluster else [client]


def _promise(client: Any, cluster: bool) -> Promise:
    names = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
    try:
        said = {name: client.config_get(name).get(name, "") for name in names}
    except ResponseError as error:
        raise InvalidConfig(f"{WHERE}: the server does not say how it writes to disk: {error}") from error
    version = client.info("server").get("redis_version", "of no version")
    if said["appendonly"] != "yes":
        raise InvalidConfig(f"{WHERE}: Redis {version} has appendonly {said['appendonly']!r}, expected 'yes'")
    if said["appendfsync"] == "always" and said["no-appendfsync-on-rewrite"] == "no":
        return Promise.ALWAYS
    how = " and ".join(f"{name} {said[name]!r}" for name in names[1:])
    if cluster:
        raise InvalidConfig(f"{WHERE}: a node has {how}; a cluster needs appendfsync 'always', never off on rewrite")
    if not _has_waitaof(client):
        raise InvalidConfig(f"{WHERE}: Redis {version} has {how}, and is too old for WAITAOF, which came with 7.2")
    return Promise.WAIT


def _has_waitaof(client: Any) -> bool:
    try:
        client.execute_command("WAITAOF", 0, 0, 1)
    except ResponseError as error:
        if "unknown command" in str(error).lower():
            return False
        raise
    return True
