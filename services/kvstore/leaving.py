"""A shard's last duty: when the membership says that it leaves, or when it is told to end, it hands on last copies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.kvstore.config import KVStoreConfig
from services.kvstore.ram import RamTier
from worldkv.catalog import Catalog
from worldkv.client import ClientConfig, HandedOver, Members, MembershipFile, hand_over
from worldkv.errors import InvalidConfig
from worldkv.format import Frame
from worldkv.store import Miss, PartKey

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at the membership."""
Catalogs = Callable[[], list[tuple[str, Catalog]]]


@asynccontextmanager
async def handing_over(config: KVStoreConfig, ram: RamTier, catalogs: Catalogs) -> AsyncIterator[None]:
    """Hand over as soon as the membership says that this shard leaves, and at the end of the block.

    Does nothing for a shard that was not told of a membership.
    """
    if config.members is None:
        yield
        return
    name, client = config.shard or config.service.address, ClientConfig(tls=config.service.tls)
    leaving = Leaving(name, MembershipFile(config.members), ram, catalogs, client, config.handover_seconds)
    watching = asyncio.create_task(leaving.watch())
    try:
        yield
    finally:
        watching.cancel()
        await leaving.hand_over()


class Leaving:
    """What one shard hands on.

    name      its own, in the membership
    members   where the membership comes from; raises InvalidConfig while it cannot be had
    ram       what it has; parts that another shard took are marked safe
    catalogs  records that are nowhere but here, with their tenants
    seconds   that handing over may take at a time
    """

    def __init__(
        self,
        name: str,
        members: Members,
        ram: RamTier,
        catalogs: Catalogs,
        config: ClientConfig,
        seconds: float,
    ) -> None:
        self.name, self._members, self._ram, self._catalogs = name, members, ram, catalogs
        self._config, self._seconds = config, seconds

    async def watch(self) -> None:
        """Look again and again; does not end."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> HandedOver | None:
        """Hand over if the membership says so; goes on serving meanwhile. None if there is nothing to do."""
        try:
            leaving = any(member.name == self.name for member in self._members().leaving)
        except InvalidConfig:
            return None
        return await self.hand_over() if leaving and self._ram.last_copies() else None

    async def hand_over(self) -> HandedOver | None:
        """Hand over what has no second copy; None if nobody stays who could take it."""
        catalogs = self._catalogs()
        try:
            done = await hand_over(
                self.name,
                self._members,
                self._ram.last_copies(),
                self._reading,
                catalogs,
                self._taken,
                config=self._config,
                seconds=self._seconds,
            )
        except InvalidConfig as error:
            _log.warning("nothing is handed over: %s", error)
            return None
        _log.info(
            "handed over %d parts, %d bytes and %d worlds; %d were gone, %d are left",
            done.parts,
            done.bytes,
            done.worlds,
            done.gone,
            done.left,
        )
        return done

    @contextmanager
    def _reading(self, tenant: str, key: PartKey) -> Iterator[Frame | None]:
        held = self._ram.find(tenant, key)
        if isinstance(held, Miss):
            yield None
            return
        with held.pin():
            yield Frame(held.views)

    def _taken(self, tenant: str, key: PartKey) -> None:
        self._ram.mark_safe(tenant, key)
