"""The way to Redis: connections, the breaker, and what the server can promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.kvstore.redis_config import RedisConfig


class RedisServer:
    """A Redis, Cluster or Valkey that tiers, catalogs and snapshots share."""

    def __init__(self, config: RedisConfig, on_lost: Callable[[], None] = lambda: None) -> None:
        self.config, self._on_lost = config, on_lost

    @property
    def available(self) -> bool:
        """Whether it answered when last asked."""
        raise NotImplementedError


@asynccontextmanager
async def connect(config: RedisConfig, on_lost: Callable[[], None] = lambda: None) -> AsyncIterator[RedisServer]:
    """Connect, and ask again in the background whenever the server was gone; closes everything at the end.

    on_lost  called when the server came back without what it held

    Raises InvalidConfig if the server answers and cannot promise what `config.durable` asks for. A server that does
    not answer raises nothing here: it is unavailable until it does.
    """
    yield RedisServer(config, on_lost)
