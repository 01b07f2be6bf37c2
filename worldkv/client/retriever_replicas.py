"""The replicas of an index: whom a world is asked of, now and while its first replica is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.chunk import Lineage
from worldkv.client.line import Line
from worldkv.client.lines import Lines
from worldkv.client.membership import Member, Members
from worldkv.client.policy import Deadline, Retry
from worldkv.errors import DeadlineExceeded, InvalidConfig, Unavailable, WorldKVError
from worldkv.rpc import DEADLINE_SECONDS, DEFAULT_TENANT, TLS
from worldkv.v1 import retriever_pb2 as pb
from worldkv.v1.retriever_pb2_grpc import RetrieverStub


@dataclass(frozen=True)
class RetrieverClientConfig:
    """Settings of a `RetrieverClient`.

    tenant            whose chunks these are
    deadline_seconds  of a call that names none
    failover_seconds  for which a replica has to have been silent before its worlds are asked of the next in rank. That
                      one has to read them from the store, so it is worth waiting for a replica that is started again
    retry             when a replica is asked again
    tls               transport security
    bearer            what is shown with every call: a token, or what one is signed with

    Raises InvalidConfig for values out of range.
    """

    tenant: str = DEFAULT_TENANT
    deadline_seconds: float = DEADLINE_SECONDS
    failover_seconds: float = 3.0
    retry: Retry = field(default_factory=Retry)
    tls: TLS = field(default_factory=TLS)
    bearer: Bearer = field(default_factory=Bearer)

    def __post_init__(self) -> None:
        if not 0 < self.deadline_seconds < float("inf"):
            raise InvalidConfig(f"deadline_seconds = {self.deadline_seconds}: expected seconds above 0")
        if not 0 <= self.failover_seconds < float("inf"):
            raise InvalidConfig(f"failover_seconds = {self.failover_seconds}: expected seconds from 0")


class Replica:
    """A replica: its line, and the calls."""

    def __init__(self, member: Member, config: RetrieverClientConfig, counters: Counter[str]) -> None:
        self.member, self._config = member, config
        self.line = Line("retriever", member, config.tenant, config.retry, None, config.tls, config.bearer, counters)
        self.stub = RetrieverStub(self.line.channel)
        self.probed = 0.0

    @property
    def resting(self) -> bool:
        return self.line.resting

    @property
    def away(self) -> bool:
        """Whether it has been silent for so long that others take its place."""
        return self.line.silent_seconds > self._config.failover_seconds

    async def stats(self, deadline: Deadline) -> pb.RetrieverStatsResponse:
        """What it says of itself."""
        async with self.line.calling("stats", deadline) as watch:
            return await self.stub.Stats(pb.RetrieverStatsRequest(), **watch.limits)


class Replicas:
    """Ranks replicas for worlds by rendezvous hashing on the first branch of their lineage, which forks share.

    A world is asked of the first in rank alone. While that one is away, the next is asked, and the first is called now
    and then in the background: as soon as it answers, its worlds are its own again. Replicas that leave are not asked.
    """

    def __init__(self, members: Members, config: RetrieverClientConfig) -> None:
        self.config, self.counters = config, Counter[str]()
        self._replicas = Lines(members, self._replica, config.deadline_seconds)
        self._probes: set[asyncio.Task[None]] = set()

    def everyone(self) -> list[Replica]:
        """All replicas, also those that leave."""
        return [*map(self._replicas.of, self._replicas.membership.everyone)]

    def of(self, lineage: Lineage) -> Replica:
        """Whom to ask about a world: the first in rank that is not away, and the first of all if everybody is."""
        now = self._replicas.membership
        ranked = [self._replicas.of(each) for each in now.ranked(lineage.root) if each not in now.leaving]
        for replica in ranked:
            if not replica.away:
                return replica
            self._probe(replica)
        return ranked[0]

    async def close(self) -> None:
        """End all connections."""
        for probe in self._probes:
            probe.cancel()
        await self._replicas.close()

    def _replica(self, member: Member) -> Replica:
        return Replica(member, self.config, self.counters)

    def _probe(self, replica: Replica) -> None:
        """Ask whether a replica is back, unless that was done just now."""
        if replica.resting or monotonic() < replica.probed + self.config.retry.rest_seconds:
            return
        replica.probed = monotonic()
        probe = asyncio.create_task(_look(replica, max(self.config.retry.rest_seconds, 0.1)))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)


async def _look(replica: Replica, seconds: float) -> None:
    with suppress(Unavailable, DeadlineExceeded):  # the line has taken note
        await replica.stats(Deadline(seconds))


def told(error: WorldKVError) -> bool:
    """Whether a replica said so itself: it is there, and asking it again gives nothing better."""
    cause = error.__cause__
    return rpc.answered(error) or (isinstance(cause, WorldKVError) and rpc.answered(cause))
