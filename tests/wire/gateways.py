"""Gateways before toy generators, on real ports, and clients of theirs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from services.gateway import server
from services.gateway.config import GatewayConfig, RoutingConfig, WebConfig
from services.gateway.server import assembled
from tests.wire.toy_generator import Running, Toy, start
from tests.wire.toy_living import Tier
from worldkv import rpc
from worldkv.service import Host, ServiceConfig, Serving, serve
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub

ROUTING: dict[str, Any] = {"ping_seconds": 0.05, "silent_seconds": 20.0, "failover_seconds": 30.0}


class Gateway:
    """A gateway that serves: a stub of it, its web address and its metrics."""

    def __init__(self, serving: Serving, web: str, stub: Any) -> None:
        self.serving, self.web, self.stub = serving, web, stub

    def figure(self, name: str, **labels: str) -> float:
        return self.serving.registry.get_sample_value(f"worldkv_gateway_{name}", labels) or 0.0

    async def open(self, tenant: str = "default", **request: Any) -> pb.OpenResponse:
        with rpc.translated():
            opened: pb.OpenResponse = await self.stub.Open(
                pb.OpenRequest(**request), metadata=((rpc.TENANT_KEY, tenant),)
            )
        return opened

    def walk(self, session: str, seen: int = 0, tenant: str = "default") -> "Client":
        return Client(self.stub, session, seen, tenant)


class Fleet:
    """Toy generators that share what is kept, and a file that names them."""

    def __init__(self, folder: Path) -> None:
        self.tier, self.running = Tier(), dict[str, Running]()
        self.members, self._number, self.leaving = folder / "generators.toml", 0, set[str]()

    async def start(self, name: str, **settings: Any) -> Toy:
        self.running[name] = await start(Toy(self.tier, name, **settings))
        self._tell()
        return self.running[name].toy

    async def kill(self, name: str, leaves: bool = False) -> None:
        """End one; it stays in the membership unless it leaves."""
        await self.running[name].kill()
        if leaves:
            del self.running[name]
            self._tell()

    def leave(self, name: str) -> None:
        """Say that one leaves."""
        self.leaving.add(name)
        self._tell()

    def toys(self) -> list[Toy]:
        return [each.toy for each in self.running.values()]

    def home(self, session: str) -> Toy:
        """The toy that a session lives on."""
        return next(toy for toy in self.toys() for _, each in toy.live if each == session and not toy.dead.is_set())

    @asynccontextmanager
    async def gateway(
        self, web: WebConfig | None = None, drain_seconds: float = 0, **routing: Any
    ) -> AsyncIterator[Gateway]:
        config = GatewayConfig(
            members=self.members,
            service=ServiceConfig(drain_seconds=drain_seconds),
            routing=RoutingConfig(**ROUTING | routing),
            web=web or WebConfig(address=""),
        )
        shown: list[str] = []

        @asynccontextmanager
        async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
            async with assembled(config, host) as (name, address):
                shown.append(address)
                yield [name]

        with patch.object(server, "TICK_SECONDS", 0.02):
            async with serve(config.service, servicers) as serving, rpc.channel(serving.address) as channel:
                yield Gateway(serving, shown[0], SessionsStub(channel))

    def _tell(self) -> None:
        self._number += 1
        named = {name: f'"{name}={each.address}"' for name, each in self.running.items()}
        stay = ", ".join(text for name, text in named.items() if name not in self.leaving)
        leave = ", ".join(text for name, text in named.items() if name in self.leaving)
        written = self.members.with_suffix(".new")
        written.write_text(f"number = {self._number}\nshards = [{stay}]\nleaving = [{leave}]\n")
        written.replace(self.members)


@asynccontextmanager
async def fleet(folder: Path, *names: str, **settings: Any) -> AsyncIterator[Fleet]:
    """Toys of these names; all that run at the end are ended."""
    made = Fleet(folder)
    try:
        for name in names:
            await made.start(name, **settings)
        yield made
    finally:
        for toy in made.toys():
            toy.frozen = False
        await asyncio.gather(*(each.kill() for each in made.running.values()))


class Client:
    """A client of one walk, which takes what it is told one by one."""

    def __init__(self, stub: Any, session: str, seen: int, tenant: str) -> None:
        self.call: Any = stub.Walk(metadata=((rpc.TENANT_KEY, tenant),))
        self.join = pb.Join(session=session, seen=seen)

    async def __aenter__(self) -> "Client":
        await self.call.write(pb.WalkRequest(join=self.join))
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.call.cancel()

    async def move(self, forward: float, number: int = 0) -> None:
        move = pb.Move(actions=[pb.Action(forward=forward)], number=number)
        await self.call.write(pb.WalkRequest(move=move))

    async def hold(self, forward: float, number: int = 0, pause: bool = False) -> None:
        hold = pb.Hold(action=pb.Action(forward=forward), number=number, pause=pause)
        await self.call.write(pb.WalkRequest(hold=hold))

    async def hear(self) -> pb.WalkResponse:
        """The next answer."""
        with rpc.translated():
            answer: pb.WalkResponse = await self.call.read()
        return answer

    async def next(self, kind: str) -> Any:
        """The next answer of a kind; others are passed over."""
        while not (answer := await self.hear()).HasField(kind):
            pass
        return getattr(answer, kind)

    async def drawn(self, count: int) -> list[pb.Drawn]:
        return [await self.next("drawn") for _ in range(count)]


async def until(what: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def setting(folder: Path, *names: str, **toys: Any) -> AsyncIterator[tuple[Fleet, Gateway]]:
    """Toys of these names behind a gateway."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(fleet(folder, *names, **toys))
        yield made, await stack.enter_async_context(made.gateway())
