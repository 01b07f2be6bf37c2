"""Parts of chunks in Redis, a Redis Cluster or Valkey: all of a part or nothing, and never a wrong byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence

from services.kvstore.redis_pieces import Manifest
from services.kvstore.redis_server import RedisServer
from worldkv.chunk import Branch
from worldkv.format import Kind
from worldkv.store import Miss, PartKey


class RedisTier:
    """Parts of every tenant in Redis. Made from a server that `redis_server.connect` opened.

    Any method may raise Unavailable; once it did, the next ones do within milliseconds until Redis answers again.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @property
    def available(self) -> bool:
        """Whether Redis answered when last asked."""
        raise NotImplementedError

    async def put(self, tenant: str, key: PartKey, views: Sequence[memoryview], checksum: int) -> None:
        """Keep a part: returns when Redis has all of it. A part that is held stays as it is.

        checksum  xxh3-64 of all bytes

        Raises Conflict if its chunk was deleted, OverBudget if Redis is full; nothing is left behind then.
        """
        raise NotImplementedError

    async def get(
        self, tenant: str, key: PartKey, into: Callable[[int, int], Sequence[memoryview] | None]
    ) -> Manifest | Miss:
        """Read a part into the buffers that `into(size, checksum)` gives, in order; None there: read nothing.

        A miss may leave anything in the buffers. Nothing is written to them after this returned or raised.
        """
        raise NotImplementedError

    async def heads(self, tenant: str, keys: Collection[PartKey]) -> dict[PartKey, Manifest | Miss]:
        """What `get` would find, without the bytes."""
        raise NotImplementedError

    async def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop these parts as `Store.delete` does, also from a server that is full; answers how many were held."""
        raise NotImplementedError

    def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        """Keys held of a branch, as `Store.scan` does."""
        raise NotImplementedError

    async def sweep_orphans(self) -> int:
        """Drop pieces that no manifest names, which a crash may leave; answers how many there were."""
        raise NotImplementedError
