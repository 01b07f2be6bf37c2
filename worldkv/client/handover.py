"""What a shard does before it leaves: what may be the last copy goes to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace

from worldkv.catalog import Catalog
from worldkv.client.client import KVClient
from worldkv.client.config import ClientConfig
from worldkv.client.membership import Members
from worldkv.client.policy import Deadline
from worldkv.errors import ChunkCorrupt, Conflict, DeadlineExceeded, OverBudget, Unavailable
from worldkv.format import Frame
from worldkv.store import PartKey

AT_ONCE = 4
"""Parts on their way at a time."""

Reading = Callable[[str, PartKey], AbstractContextManager[Frame | None]]
"""A tenant's part, whose bytes stay as they are within the block; None if it is gone."""


@dataclass
class HandedOver:
    """What became of a shard's parts and records.

    parts, bytes  that another shard has now
    worlds        records that others know now
    gone          parts deleted or evicted meanwhile
    left          parts that nobody took: no room, nobody there, or no time
    """

    parts: int = 0
    bytes: int = 0
    worlds: int = 0
    gone: int = 0
    left: int = 0


async def hand_over(
    leaving: str,
    members: Members,
    parts: Iterable[tuple[str, PartKey]],
    reading: Reading,
    catalogs: Iterable[tuple[str, Catalog]] = (),
    taken: Callable[[str, PartKey], None] = lambda tenant, key: None,
    *,
    config: ClientConfig | None = None,
    seconds: float = 60.0,
) -> HandedOver:
    """Give parts and world records to the shards that stay; what cannot be given is counted, nothing is raised.

    leaving   name of the shard that leaves, in the membership
    members   who is there; the one that leaves may still be named, or be gone already
    parts     with their tenants, those that matter most first
    catalogs  of records that are nowhere but here, with their tenants
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

        for tenant, catalog in catalogs:
            done.worlds += await _hand_records(await client(tenant), catalog)
        left = iter(parts)

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
            except Conflict:  # deleted, or routed by a membership that others know to be old
                done.gone += 1
            except (Unavailable, OverBudget, DeadlineExceeded, ChunkCorrupt):
                done.left += 1
            else:
                done.parts += 1
                done.bytes += frame.nbytes
                return True
    return False


async def _hand_records(client: KVClient, catalog: Catalog) -> int:
    count = 0
    async for world in catalog.list():
        try:
            await client.worlds.adopt(world)
        except (Unavailable, Conflict, DeadlineExceeded):
            continue
        count += 1
    return count
