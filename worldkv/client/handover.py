"""What a shard does before it leaves: what may be known to nobody else goes to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from worldkv.catalog import Snapshot, World
from worldkv.chunk import ChunkKey
from worldkv.client.client import KVClient
from worldkv.client.config import ClientConfig
from worldkv.client.membership import Members, Membership
from worldkv.client.policy import Deadline, together
from worldkv.client.shard import MAX_KEYS, Shard
from worldkv.errors import (
    ChunkCorrupt,
    Conflict,
    DeadlineExceeded,
    Outdated,
    OverBudget,
    Unavailable,
    WorldKVError,
)
from worldkv.format import Frame
from worldkv.store import PartKey

AT_ONCE = 4
"""Parts on their way at a time."""

Reading = Callable[[str, PartKey], AbstractContextManager[Frame | None]]
"""A tenant's part, whose bytes stay as they are within the block; None if it is gone."""


@dataclass(frozen=True)
class Holdings:
    """What a shard has that may be nowhere else, all with their tenants.

    deleted  chunks that were deleted
    worlds   records of worlds
    states   of sessions, by name, each session's newest first
    parts    those that matter most first
    """

    deleted: Collection[tuple[str, ChunkKey]] = ()
    worlds: Collection[tuple[str, World]] = ()
    states: Collection[tuple[str, str, Sequence[Snapshot]]] = ()
    parts: Collection[tuple[str, PartKey]] = ()


@dataclass
class HandedOver:
    """What became of a shard's holdings.

    deleted       chunks that all others know to be deleted now
    worlds        records that others know now
    sessions      whose states others know now
    parts, bytes  that another shard has now
    gone          parts deleted or evicted meanwhile
    left          of any of these, what nobody took: no room, nobody there, or no time
    """

    deleted: int = 0
    worlds: int = 0
    sessions: int = 0
    parts: int = 0
    bytes: int = 0
    gone: int = 0
    left: int = 0


async def hand_over(
    leaving: str,
    members: Members,
    holdings: Holdings,
    reading: Reading,
    taken: Callable[[str, PartKey], None] = lambda tenant, key: None,
    *,
    config: ClientConfig | None = None,
    seconds: float = 60.0,
) -> HandedOver:
    """Give what a shard has to those that stay; what cannot be given is counted, nothing is raised. May be repeated.

    leaving   name of the shard that leaves, in the membership
    members   who is there; the one that leaves may still be named, or be gone already
    reading   gives a part's bytes
    taken     told of every part that another shard has now
    seconds   that it may take

    Raises InvalidConfig if nobody stays.
    """
    members().without(leaving)
    settings, deadline, done = config or ClientConfig(), Deadline(seconds), HandedOver()
    async with AsyncExitStack() as stack:
        clients: dict[str, KVClient] = {}

        async def client(tenant: str) -> KVClient:
            if tenant not in clients:
                made = KVClient(lambda: members().without(leaving), replace(settings, tenant=tenant))
                clients[tenant] = await stack.enter_async_context(made)
            return clients[tenant]

        for tenant, some in _by_tenant(holdings.deleted):  # first, so that no part of them is taken
            await _hand_deleted(await client(tenant), some, deadline, done)
        for tenant, world in holdings.worlds:
            done.worlds += await _known((await client(tenant)).worlds.adopt(world), deadline, done)
        for tenant, session, states in holdings.states:
            done.sessions += await _known((await client(tenant)).sessions.adopt(session, states), deadline, done)
        left = iter(holdings.parts)

        async def work() -> None:
            for tenant, key in left:  # shared: each takes the next
                if await _hand_part(await client(tenant), tenant, key, reading, deadline, done):
                    taken(tenant, key)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return done


async def _hand_part(
    client: KVClient, tenant: str, key: PartKey, reading: Reading, deadline: Deadline, done: HandedOver
) -> bool:
    """Whether another shard has the part now."""
    with reading(tenant, key) as frame:
        if frame is None:
            done.gone += 1
        elif deadline.passed:
            done.left += 1
        else:
            try:
                await client.put({key: frame}, deadline_seconds=deadline.remaining)
            except (Unavailable, OverBudget, DeadlineExceeded, ChunkCorrupt):
                done.left += 1
            except Conflict:  # deleted
                done.gone += 1
            else:
                done.parts += 1
                done.bytes += frame.nbytes
                return True
    return False


async def _hand_deleted(client: KVClient, chunks: Sequence[ChunkKey], deadline: Deadline, done: HandedOver) -> None:
    """Have every shard know that these chunks were deleted."""

    async def tell(shard: Shard, keys: list[PartKey], number: int) -> bool:
        try:
            await shard.delete(keys, number, deadline)
        except Outdated:
            raise
        except WorldKVError:
            return False
        return True

    for begin in range(0, len(chunks), MAX_KEYS):
        some = [PartKey(chunk, "part") for chunk in chunks[begin : begin + MAX_KEYS]]

        async def tell_all(now: Membership, keys: list[PartKey] = some) -> bool:
            return all(await together(tell(shard, keys, now.number) for shard in client.ring.everyone(now)))

        try:
            known = await client.ring.routed(tell_all, deadline)
        except Unavailable:
            known = False
        if known:
            done.deleted += len(some)
        else:
            done.left += len(some)


async def _known(adopting: Coroutine[Any, Any, object], deadline: Deadline, done: HandedOver) -> bool:
    """Whether others know a record or a state now."""
    try:
        async with asyncio.timeout(max(deadline.remaining, 0)):
            await adopting
    except (WorldKVError, TimeoutError):
        done.left += 1
        return False
    return True


def _by_tenant(chunks: Collection[tuple[str, ChunkKey]]) -> Iterator[tuple[str, list[ChunkKey]]]:
    for tenant, some in groupby(sorted(chunks), key=itemgetter(0)):
        yield tenant, [chunk for _, chunk in some]
