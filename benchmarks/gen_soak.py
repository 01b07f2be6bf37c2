"""A soak of one generator: tenants, sessions, forks and rewinds at random, and an eye on what is recalled for whom."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from grpc import aio

from worldkv import rpc
from worldkv.actions import Action
from worldkv.chunk import Lineage
from worldkv.client import WalkClient
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Drawn
from worldkv.v1.generator_pb2 import SuspendRequest
from worldkv.v1.generator_pb2_grpc import GeneratorStub

TENANTS = ("one", "other")
WORLDS = ("harbour", "hill", "hall")
"""Names that both tenants give to worlds of their own."""
MOST = 3
"""Sessions of a tenant at a time."""


@dataclass
class Soaked:
    """What was seen.

    chunks    drawn
    recalled  chunks put back into windows
    strays    of these, those that are not of the session's own lineage
    """

    chunks: int = 0
    recalled: int = 0
    strays: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Walker:
    """A session, and the lineage that its chunks have to be of."""

    walk: Walk
    client: WalkClient
    tenant: str
    lineage: Lineage

    def look(self, drawn: Drawn, seen: Soaked) -> None:
        if drawn.key.branch != self.lineage.head:  # it was suspended, and woke on a branch of its own
            self.lineage = self.lineage.fork(drawn.key.index, drawn.key.branch)
        seen.chunks += 1
        seen.recalled += len(drawn.recalled)
        seen.strays += [
            f"{each.key} for chunk {drawn.key} of tenant {self.tenant}"
            for each in drawn.recalled
            if not self.lineage.covers(each.key) or each.key.index >= drawn.key.index
        ]


async def soak(address: str, seed: int, rounds: int) -> Soaked:
    """Walk for so many rounds; in each something happens to one session, and then it draws a few chunks."""
    rng, seen = random.Random(seed), Soaked()
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(rpc.channel(address))
        clients = {tenant: await stack.enter_async_context(WalkClient(address, tenant=tenant)) for tenant in TENANTS}
        walkers: list[_Walker] = []
        names = {tenant: [*WORLDS] for tenant in TENANTS}

        async def enter(tenant: str, world: str) -> _Walker:
            walk = await stack.enter_async_context(
                clients[tenant].open(world=world, seed=rng.randrange(100), lockstep=True)
            )
            walkers.append(_Walker(walk, clients[tenant], tenant, walk.world.lineage))
            return walkers[-1]

        for _ in range(rounds):
            tenant = rng.choice(TENANTS)
            own = [each for each in walkers if each.tenant == tenant]
            if len(own) < MOST:
                taken = {each.walk.world.name for each in own}
                free = [name for name in names[tenant] if name not in taken]
                one = await enter(tenant, rng.choice(free or names[tenant]))
            else:
                one = rng.choice(own)
                await _happen(rng, one, names[tenant], walkers, channel)
            if one in walkers:
                for _ in range(rng.randint(1, 4)):
                    action = Action(turn=rng.uniform(-30, 30), forward=rng.uniform(0, 0.2))
                    one.look(await one.walk.move(action), seen)
        for each in walkers:
            await each.walk.close()
    return seen


async def _happen(
    rng: random.Random, one: _Walker, names: list[str], walkers: list[_Walker], channel: aio.Channel
) -> None:
    """Something happens to a session."""
    match rng.choice(("nothing", "rewind", "fork", "suspend", "close")):
        case "rewind":
            await one.walk.rewind(rng.randint(0, one.walk.next))
            one.lineage = one.walk.world.lineage
        case "fork":
            forked = await one.walk.fork(at=rng.randint(0, one.walk.next))
            names.append(forked.name)
        case "suspend":
            metadata = ((rpc.TENANT_KEY, one.tenant),)
            stub: Any = GeneratorStub(channel)
            await stub.Suspend(SuspendRequest(session=one.walk.session), metadata=metadata)
        case "close":
            await one.walk.close()
            walkers.remove(one)
