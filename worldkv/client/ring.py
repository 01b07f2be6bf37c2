"""The shards of a client: who they are now, how they are ranked, and the connections to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from worldkv.client.config import ClientConfig
from worldkv.client.connection import Connection
from worldkv.client.landing import Landing
from worldkv.client.lines import Lines
from worldkv.client.membership import Member, Members, Membership
from worldkv.client.policy import Deadline
from worldkv.client.shard import Shard
from worldkv.client.staging import Stages
from worldkv.errors import Outdated, Unavailable

LOOK_SECONDS = 0.05
"""Between two looks at the membership, where others know a newer one."""

T = TypeVar("T")


class Ring:
    """Connections are made when a shard is first asked, and kept as long as it is a member.

    landing   where frames land
    counters  of all connections
    """

    def __init__(self, members: Members, config: ClientConfig) -> None:
        self.config, self.landing, self.counters = config, Landing(config.landing_bytes), Counter[str]()
        self._stages = Stages(config.staging_bytes)
        self._shards = Lines(members, self._shard, config.deadline_seconds)

    @property
    def membership(self) -> Membership:
        """The newest membership that was seen."""
        return self._shards.membership

    def everyone(self, membership: Membership | None = None) -> list[Shard]:
        """All shards, also those that leave."""
        return [*map(self._shards.of, (membership or self.membership).everyone)]

    def ranked(self, name: bytes, writing: bool = False, membership: Membership | None = None) -> Sequence[Shard]:
        """All shards, first who should have what is called `name`; for writing without those that leave."""
        now = membership or self.membership
        return [self._shards.of(each) for each in now.ranked(name) if not writing or each not in now.leaving]

    def deadline(self, seconds: float | None = None) -> Deadline:
        """Of a call that begins now, and may take so many seconds; None: as the config says."""
        return Deadline(self.config.deadline_seconds if seconds is None else seconds)

    async def routed(self, write: Callable[[Membership], Awaitable[T]], deadline: Deadline) -> T:
        """What a write gives that goes by a membership. Where a shard knows a newer one than is known here that is
        waited for, for it is on its way, and the write begun again by it; Unavailable if it does not come."""
        while True:
            membership = self.membership
            try:
                return await write(membership)
            except Outdated as error:
                while self.membership.number <= membership.number:
                    if deadline.passed:
                        raise Unavailable(f"{error}, and no newer one than {membership.number} came") from error
                    await asyncio.sleep(min(LOOK_SECONDS, max(deadline.remaining, 0)))

    async def close(self) -> None:
        """End all connections and give memory back."""
        await self._shards.close()
        await self._stages.close()
        await asyncio.to_thread(self.landing.close)

    def _shard(self, member: Member) -> Shard:
        return Shard(member, Connection(member, self.config, self.counters), self.landing, self._stages)
