"""The generators: the line to each, what it last said of itself, and whether it answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from grpc import StatusCode, aio

from services.gateway.config import RoutingConfig
from services.gateway.placement import Load
from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.client.membership import Member, Members
from worldkv.client.policy import Deadline
from worldkv.errors import DeadlineExceeded, Unavailable, WorldKVError
from worldkv.v1 import chunk_pb2
from worldkv.v1 import generator_pb2 as pb
from worldkv.v1.generator_pb2_grpc import GeneratorStub
from worldkv.v1.sessions_pb2 import OpenResponse
from worldkv.v1.sessions_pb2_grpc import SessionsStub

T = TypeVar("T")


class Generator:
    """One generator.

    stats   what it said of itself when it was asked last; None if it did not answer then
    silent  set while it takes calls and does not answer them: whoever waits for it is to wait no longer
    asked   whether it was ever asked, and had time to answer
    leaves  no session is placed on it any more
    calls   under way
    """

    def __init__(self, member: Member, config: RoutingConfig, tls: rpc.TLS, bearer: Bearer) -> None:
        self.member, self._config = member, config
        self.metadata = bearer.metadata  # tells it whose call one is
        self._channel = rpc.channel(member.address, tls or None, deadline_seconds=None)  # every call names its own
        self.sessions = SessionsStub(self._channel)
        self.stub = GeneratorStub(self._channel)
        self.stats: pb.GeneratorStatsResponse | None = None
        self.silent, self.asked, self.leaves, self.calls = asyncio.Event(), False, False, 0
        self._residents: dict[tuple[str, str], pb.ResidentSession] = {}
        self._arrived: dict[tuple[str, str], pb.ResidentSession] = {}  # it has not yet said so of them
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def load(self) -> Load:
        """What is known of it, as it said and as was placed on it since then."""
        residents = {**self._residents, **self._arrived}
        room = 0 if self.stats is None else self.stats.room - len(self._arrived)
        return Load(self.name, len(residents), room, {each.root for each in residents.values()})

    def watched(self, tenant: str, watch: str) -> bool:
        """Whether a session lives here, as far as is known, that is watched by this id."""
        residents = (*self._residents.values(), *self._arrived.values())
        return any(each.watch == watch and each.tenant == tenant for each in residents)

    def living(self, tenant: str) -> set[str]:
        """Those of a tenant's sessions that live here, as far as is known."""
        return {session for whose, session in self._residents.keys() | self._arrived.keys() if whose == tenant}

    def resident(self, tenant: str, session: str) -> pb.ResidentSession | None:
        """A session that lives here, as far as is known."""
        return self._residents.get((tenant, session)) or self._arrived.get((tenant, session))

    def arrived(self, tenant: str, opened: OpenResponse) -> None:
        """A session lives here from now on."""
        self._arrived[tenant, opened.session] = pb.ResidentSession(
            tenant=tenant, session=opened.session, root=root_of(opened.world), watch=opened.watch
        )

    def left(self, tenant: str, session: str) -> None:
        """A session does not live here any more."""
        for known in (self._residents, self._arrived):
            known.pop((tenant, session), None)

    def failed(self) -> None:
        """It did not answer a call: nothing is placed on it until it says something of itself again."""
        self.stats, self._residents, self._arrived = None, {}, {}

    def asking(self) -> asyncio.Task[None]:
        """Ask what lives here, once however many want to know at the same time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def call(self, method: Any, request: Any, tenant: str, deadline: Deadline) -> Any:
        """The answer of a call. Raises what the generator raised, and Unavailable if it falls silent."""
        limits = {"timeout": deadline.require("a call to a generator"), "metadata": self.metadata(tenant)}
        with self.calling():
            return await self._unless_silent(method(request, **limits))

    async def stream(self, method: Any, request: Any, tenant: str) -> AsyncGenerator[Any, None]:
        """All answers of a call, each read when it is wanted. Raises as `call` does."""
        with self.calling():
            call = method(request, metadata=self.metadata(tenant))
            try:
                while (answer := await self._unless_silent(call.read())) is not aio.EOF:
                    yield answer
            finally:
                call.cancel()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around a call: raises what the generator raised, Unavailable if it broke off. While there are calls the line
        is kept."""
        if self._closed:
            raise Unavailable(f"generator {self.name} has left the membership")
        self.calls += 1
        try:
            with rpc.translated():
                yield
        except WorldKVError as error:
            if rpc.answered(error) or not (isinstance(error, Unavailable) or _broken(error)):
                raise
            self.failed()
            raise Unavailable(f"generator {self.name} does not answer: {error}") from error
        finally:
            self.calls -= 1

    async def _unless_silent(self, waited: Awaitable[T]) -> T:
        """What is waited for. Raises Unavailable as soon as the generator is silent."""
        waiting, silent = asyncio.ensure_future(_wait(waited)), asyncio.ensure_future(self.silent.wait())
        try:
            await asyncio.wait({waiting, silent}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise Unavailable(f"generator {self.name} gives no sign of life")
            return waiting.result()
        finally:
            waiting.cancel()
            silent.cancel()

    async def close(self) -> None:
        """End the line, and the calls on it."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        await self._channel.close()

    async def _ask(self) -> None:
        known = set(self._arrived)
        try:
            with rpc.translated():
                limits: dict[str, Any] = {"timeout": self._config.silent_seconds, "metadata": self.metadata()}
                stats = await self.stub.GeneratorStats(pb.GeneratorStatsRequest(), **limits)
        except WorldKVError as error:
            self.asked = True
            self.failed()
            if isinstance(error, DeadlineExceeded):  # one that died breaks its connections itself
                self.silent.set()
            return
        self.silent.clear()
        self.stats, self.asked = stats, True
        self._residents = {(each.tenant, each.session): each for each in stats.sessions}
        for session in known | self._residents.keys():  # what it says of those goes before what others say
            self._arrived.pop(session, None)


class Generators:
    """All generators of a membership, asked again and again what lives on them.

    Raises InvalidConfig for a membership that cannot be read.
    """

    def __init__(self, members: Members, config: RoutingConfig, tls: rpc.TLS, bearer: Bearer | None = None) -> None:
        self._members, self._config, self._tls, self._bearer = members, config, tls, bearer or Bearer()
        self._newest = members()
        self._known: dict[Member, Generator] = {}

    def everyone(self) -> list[Generator]:
        """All generators, also those that leave, and those that are no members any more but still have walks."""
        told = self._members()
        if told.number >= self._newest.number:
            self._newest = told
        for member in self._newest.everyone:
            if member not in self._known:
                self._known[member] = Generator(member, self._config, self._tls, self._bearer)
        for member, generator in self._known.items():
            generator.leaves = member not in self._newest.shards
        return [each for each in self._known.values() if each.calls or each.member in self._newest.everyone]

    def answering(self) -> list[Generator]:
        """Those that answered when they were asked last."""
        return [each for each in self.everyone() if each.stats is not None]

    async def known(self) -> list[Generator]:
        """Those that answer, once all were asked; all are asked again if none does."""
        if not self.answering() or not all(each.asked for each in self.everyone()):
            await self.look()
        return self.answering()

    async def look(self) -> None:
        """Ask all that are not known to be silent what lives on them."""
        asking = [each.asking() for each in self.everyone() if not each.silent.is_set()]
        if asking:
            await asyncio.wait(asking)

    async def keep_looking(self) -> None:
        """Ask all of them, again and again; does not end."""
        while True:
            kept = self.everyone()
            for generator in kept:
                generator.asking()
            for generator in [each for each in self._known.values() if each not in kept]:
                del self._known[generator.member]
                await generator.close()
            await asyncio.sleep(self._config.ping_seconds)

    async def close(self) -> None:
        """End all lines."""
        for generator in self._known.values():
            await generator.close()

    def states(self) -> Counter[str]:
        """How many answer, and how many do not."""
        return Counter("silent" if each.stats is None else "answering" for each in self.everyone())


def root_of(world: chunk_pb2.World) -> bytes:
    """First branch of a world's lineage; empty for a world without one."""
    return world.lineage.parts[0].branch if world.lineage.parts else b""


def _broken(error: WorldKVError) -> bool:
    """Whether a status without a meaning of ours comes from a line that broke, and not from a bug at its other end."""
    return type(error) is WorldKVError and str(error) != f"{StatusCode.INTERNAL.name}: {rpc.BUG}"


async def _wait(waited: Awaitable[T]) -> T:
    return await waited
