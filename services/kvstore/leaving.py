"""A shard's last duty: when the membership says that it leaves, or when it is told to end, it hands on last copies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from services.kvstore.config import KVStoreConfig
from services.kvstore.membership import Membership
from services.kvstore.ram import RamTier
from services.kvstore.records import Tenants
from worldkv.auth import Bearer
from worldkv.client import ClientConfig, HandedOver, Holdings, Members, MembershipFile, hand_over
from worldkv.client.policy import Deadline
from worldkv.errors import InvalidConfig
from worldkv.format import Frame
from worldkv.service import Host
from worldkv.store import Miss, PartKey

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at the membership."""


@asynccontextmanager
async def handing_over(
    config: KVStoreConfig, file: Path, ram: RamTier, records: Tenants, membership: Membership, host: Host
) -> AsyncIterator[None]:
    """Follow the membership in `file`; hand over as soon as it says that this shard leaves, and at the end.

    At the end that is done while calls are still taken, so that nothing is missed meanwhile; what came during it is
    handed over when no more can come. Both together have `handover_seconds`.
    """

    async def holdings() -> Holdings:
        alone = await records.alone()
        deleted = () if config.redis else ram.all_deleted()  # Redis remembers
        return Holdings(deleted, alone.worlds, alone.states, ram.last_copies())

    name, bearer = config.shard or config.service.address, Bearer(secret=config.service.auth.secret)
    client = ClientConfig(tls=config.tls or config.service.tls, bearer=bearer)
    leaving = Leaving(name, MembershipFile(file), membership, ram, holdings, client, config.handover_seconds)
    watching = asyncio.create_task(leaving.watch())
    deadline: Deadline | None = None

    async def farewell() -> None:
        nonlocal deadline
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        deadline = Deadline(config.handover_seconds)
        await leaving.hand_over()

    host.farewells.append(farewell)
    try:
        yield
    finally:
        watching.cancel()
        await leaving.hand_over(None if deadline is None else deadline.remaining)


class Leaving:
    """What one shard hands on.

    name        its own, in the membership
    members     where the membership comes from; raises InvalidConfig while it cannot be had
    membership  is told of every number that is seen there: what was routed by an older one is refused from then on
    ram         what it has; parts that another shard took are marked safe
    holdings    what may be nowhere but here
    seconds     that handing over may take at a time
    """

    def __init__(
        self,
        name: str,
        members: Members,
        membership: Membership,
        ram: RamTier,
        holdings: Callable[[], Awaitable[Holdings]],
        config: ClientConfig,
        seconds: float,
    ) -> None:
        self.name, self._members, self._membership, self._ram = name, members, membership, ram
        self._holdings, self._config, self._seconds = holdings, config, seconds
        self._gave_records = False

    async def watch(self) -> None:
        """Look again and again; does not end."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> HandedOver | None:
        """Hand over if the membership says so; goes on serving meanwhile. None if there is nothing to do."""
        try:
            now = self._members()
        except InvalidConfig:
            return None
        self._membership.see(now.number)
        if self.name not in {member.name for member in now.leaving}:
            self._gave_records = False
            return None
        if self._gave_records and not self._ram.last_copies():
            return None
        done = await self.hand_over()
        self._gave_records = done is not None and not done.left
        return done

    async def hand_over(self, seconds: float | None = None) -> HandedOver | None:
        """Hand over what has no second copy, in so many seconds (None: as many as it may take); None if nobody stays
        who could take it."""
        holdings = await self._holdings()
        try:
            done = await hand_over(
                self.name,
                self._members,
                holdings,
                self._reading,
                self._taken,
                config=self._config,
                seconds=self._seconds if seconds is None else seconds,
            )
        except InvalidConfig as error:
            _log.warning("nothing is handed over: %s", error)
            return None
        _log.info(
            "handed over %d parts, %d bytes, %d worlds, %d sessions, %d deletions; %d were gone, %d are left",
            *(done.parts, done.bytes, done.worlds, done.sessions, done.deleted, done.gone, done.left),
        )
        return done

    @contextmanager
    def _reading(self, tenant: str, key: PartKey) -> Iterator[Frame | None]:
        held = self._ram.look(tenant, key)
        if isinstance(held, Miss):
            yield None
            return
        with held.pin():
            yield Frame(held.views)

    def _taken(self, tenant: str, key: PartKey) -> None:
        self._ram.mark_safe(tenant, key, below=False)
