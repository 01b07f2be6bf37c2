"""World records and session states in Redis, one of each for a tenant."""

from __future__ import annotations

from services.kvstore.redis_server import RedisServer


class RedisCatalog:
    """The world records of one tenant (`worldkv.catalog.Catalog`); a swap is one script."""

    def __init__(self, server: RedisServer, tenant: str) -> None:
        self._server, self._tenant = server, tenant


class RedisSnapshots:
    """The session states of one tenant (`worldkv.catalog.Snapshots`); the last two are kept."""

    def __init__(self, server: RedisServer, tenant: str) -> None:
        self._server, self._tenant = server, tenant
