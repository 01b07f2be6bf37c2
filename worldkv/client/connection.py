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
from worldkv.shared import ArenaInfo, ArenaReader
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

SERVICE = "/worldkv.v1.KVStore"
MAPPING_SECONDS = 0.5
"""How long calls wait for a shard's memory to be mapped, at most half of the time they have. That of a large arena
takes longer: until it is there bytes come as streams."""


class Connection(Line):
    """A connection to a shard, made when it is first used."""

    def __init__(self, member: Member, config: ClientConfig, counters: Counter[str]) -> None:
        patience = config.retry, config.stall_seconds
        super().__init__("shard", member, config.tenant, *patience, config.tls, config.bearer, counters)
        self.config, self.stub = config, KVStoreStub(self.channel)
        self._look = config.shared
        self._arena: ArenaReader | None = None
        self._mapping: asyncio.Future[ArenaReader | None] | None = None
        self._patience = Deadline(0)

    async def close(self) -> None:
        """End the connection. Memory that is being mapped is waited for."""
        self._look = False
        await super().close()
        if self._mapping is not None:
            await asyncio.wait({self._mapping})
        self._become(None)

    async def told(self, deadline: Deadline) -> pb.KVStoreStatsResponse:
        """What the shard says of itself."""
        async with self.calling("stats", deadline) as watch:
            return await self.stub.Stats(pb.KVStoreStatsRequest(), **watch.limits)

    async def arena(self, deadline: Deadline) -> ArenaReader | None:
        """The shard's memory, if it is on this host; looked for at the first call, and after `look_again`.

        None, or what was known before, while it is still being mapped.
        """
        if self._look and self._mapping is None:
            info = wire.arena_of((await self.told(deadline)).arena)
            if self._look and self._mapping is None:  # nobody else was told first
                self._look = False
                self._map(info)
        if self._mapping is not None:
            seconds = min(self._patience.remaining, deadline.remaining / 2)
            await asyncio.wait({self._mapping}, timeout=max(seconds, 0))
        return self._arena

    @property
    def known_arena(self) -> ArenaReader | None:
        """The shard's memory as far as it was looked for already."""
        return self._arena

    def look_again(self, arena: ArenaReader) -> None:
        """The shard sent bytes in spite of our proof of `arena`: they pass through it, or it was started again, and
        has other memory now."""
        if arena is self._arena:
            self._look = True

    def _map(self, info: ArenaInfo | None) -> None:
        """Begin to map a shard's memory, unless it is the one that is mapped."""
        if info is None:
            self._become(None)
        elif self._arena is None or self._arena.id != info.id:
            self._patience = Deadline(MAPPING_SECONDS)
            self._mapping = asyncio.get_running_loop().run_in_executor(None, _reader, info)
            self._mapping.add_done_callback(self._mapped)

    def _mapped(self, mapping: asyncio.Future[ArenaReader | None]) -> None:
        self._mapping = None
        self._become(mapping.result())

    def _become(self, arena: ArenaReader | None) -> None:
        if self._arena is not None:
            self._arena.close()
        self._arena = arena


def _reader(info: ArenaInfo) -> ArenaReader | None:
    try:
        return ArenaReader(info)
    except (Unavailable, InvalidInput):  # another host's
        return None
