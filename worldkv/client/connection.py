"""The line to one shard: its channel, its signs of life, and the memory that it shares if it is on this host."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from worldkv import rpc, wire
from worldkv.client.config import ClientConfig
from worldkv.client.membership import Member
from worldkv.client.policy import Deadline
from worldkv.errors import DeadlineExceeded, InvalidInput, Unavailable, WorldKVError
from worldkv.shared import ArenaReader
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

SERVICE = "/worldkv.v1.KVStore"
REMEDY = "start it again, or take it out of the membership"
"""What is to be done about a shard that does not answer."""


class Watch:
    """Looks whether the other side of a call is alive.

    limits  what the call has to be given: how long it may take, and whose it is
    signs   of life there were
    """

    def __init__(self, guard: asyncio.Timeout, stall: float, limits: dict[str, Any]) -> None:
        self.limits, self.signs = limits, 0
        self._guard, self._stall, self._busy = guard, stall, 0

    def alive(self) -> None:
        """A sign of life came."""
        self.signs += 1
        self._arm()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around work of our own, during which nothing is waited for."""
        self._busy += 1
        self._arm()
        try:
            yield
        finally:
            self._busy -= 1
            self._arm()

    def _arm(self) -> None:
        if not self._guard.expired():
            now = asyncio.get_running_loop().time()
            self._guard.reschedule(None if self._busy else now + self._stall)


class Connection:
    """A connection, made when it is first used.

    A shard that gave no sign of life, or failed as often as the policy allows, rests: for a while calls raise
    Unavailable at once, so that a dead shard costs next to nothing.

    counters  of the whole client; here `failures`
    """

    def __init__(self, member: Member, config: ClientConfig, counters: Counter[str]) -> None:
        self.name, self.config, self.counters = member.name, config, counters
        self.channel = rpc.channel(member.address, config.tls or None)
        self.stub = KVStoreStub(self.channel)
        self._failures, self._rests_until = 0, 0.0
        self._arena: ArenaReader | None = None
        self._look, self._looking = config.shared, asyncio.Lock()

    @property
    def resting(self) -> bool:
        """Whether calls raise Unavailable at once, because the last ones were not answered."""
        return monotonic() < self._rests_until

    async def close(self) -> None:
        """End the connection."""
        await self.channel.close()
        if self._arena is not None:
            self._arena.close()
        self._look, self._arena = False, None

    @asynccontextmanager
    async def calling(self, what: str, deadline: Deadline) -> AsyncIterator[Watch]:
        """Around a call: errors become ours, and silence becomes Unavailable, which names the shard.

        Raises DeadlineExceeded if there is no time left to call.
        """
        limits = {"timeout": deadline.require(what), "metadata": ((rpc.TENANT_KEY, self.config.tenant),)}
        if self.resting:
            raise Unavailable(f"{what}: shard {self.name} did not answer the last calls: {REMEDY}")
        stall = self.config.stall_seconds
        try:
            async with asyncio.timeout(stall) as guard:
                watch = Watch(guard, stall, limits)
                with rpc.translated():
                    yield watch
        except TimeoutError as error:
            self._failed(self.config.retry.attempts)
            raise Unavailable(f"{what}: shard {self.name} gave no sign of life for {stall:g} s: {REMEDY}") from error
        except WorldKVError as error:
            if rpc.answered(error):  # it is there, whatever it misses
                self._failures = 0
                if isinstance(error, Unavailable):
                    raise Unavailable(f"{what}: shard {self.name}: {error}") from error
                raise
            # A status without a meaning of ours: the other end has a bug, or died in the middle of a write.
            failed = isinstance(error, Unavailable) or type(error) is WorldKVError
            if failed or (isinstance(error, DeadlineExceeded) and not watch.signs):
                self._failed()
            if type(error) is WorldKVError:
                raise Unavailable(f"{what}: shard {self.name} failed: {error}") from error
            if isinstance(error, Unavailable):
                raise Unavailable(f"{what}: shard {self.name} does not answer: {REMEDY} ({error})") from error
            raise
        self._failures = 0

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

    def _failed(self, weight: int = 1) -> None:
        self.counters["failures"] += 1
        self._failures += weight
        if self._failures >= self.config.retry.attempts:
            self._failures = 0
            self._rests_until = monotonic() + self.config.retry.rest_seconds
