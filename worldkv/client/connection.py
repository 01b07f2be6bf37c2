"""The line to one shard, and the memory that it shares if it is on this host."""

from __future__ import annotations

import asyncio
from collections import Counter

from worldkv import wire
from worldkv.client.config import ClientConfig
from worldkv.client.line import Line
from worldkv.client.membership import Member
from worldkv.client.policy import Deadline
from worldkv.errors import InvalidInput, Unavailable
from worldkv.shared import ArenaReader
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

SERVICE = "/worldkv.v1.KVStore"


class Connection(Line):
    """A connection to a shard, made when it is first used."""

    def __init__(self, member: Member, config: ClientConfig, counters: Counter[str]) -> None:
        super().__init__("shard", member, config.tenant, config.retry, config.stall_seconds, config.tls, counters)
        self.config, self.stub = config, KVStoreStub(self.channel)
        self._arena: ArenaReader | None = None
        self._look, self._looking = config.shared, asyncio.Lock()

    async def close(self) -> None:
        """End the connection."""
        await super().close()
        if self._arena is not None:
            self._arena.close()
        self._look, self._arena = False, None

    async def told(self, deadline: Deadline) -> pb.KVStoreStatsResponse:
        """What the shard says of itself."""
        async with self.calling("stats", deadline) as watch:
            return await self.stub.Stats(pb.KVStoreStatsRequest(), **watch.limits)

    async def arena(self, deadline: Deadline) -> ArenaReader | None:
        """The shard's memory, if it is on this host; looked for at the first call, and after `look_again`."""
        if self._look:
            async with self._looking:
                if self._look:
                    self._arena = await self._attach((await self.told(deadline)).arena)
                    self._look = False
        return self._arena

    @property
    def known_arena(self) -> ArenaReader | None:
        """The shard's memory as far as it was looked for already."""
        return self._arena

    def look_again(self, arena: ArenaReader) -> None:
        """The shard did not know our proof of `arena`: it was started again, and has other memory now."""
        if arena is self._arena:
            self._look = True

    async def _attach(self, arena: pb.Arena) -> ArenaReader | None:
        info = wire.arena_of(arena)
        try:
            return await asyncio.to_thread(ArenaReader, info) if info else None
        except (Unavailable, InvalidInput):  # another host's
            return None
