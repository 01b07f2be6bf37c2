"""A real generator on a real port, with a very small model, spoken to message by message."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry

from services.generator.config import GeneratorConfig, LiveConfig, MemorySettings
from services.generator.server import assembled
from services.generator.servicer import Generator, add
from services.generator.tier import Inside, Tiers
from services.generator.world_model import WorldModel
from tests.toys import toy_model
from worldkv import rpc
from worldkv.service import Host, ServiceConfig, serve
from worldkv.v1 import generator_pb2 as generator_pb
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.generator_pb2_grpc import GeneratorStub
from worldkv.v1.sessions_pb2_grpc import SessionsStub

CONFIG = GeneratorConfig(
    name="g",
    service=ServiceConfig(drain_seconds=2),
    memory=MemorySettings(codec="int8", selector="pose", recall_seconds=5.0),
    live=LiveConfig(pictures_per_second=300.0),
)
TURN = pb.Action(turn=20.0)


@dataclass
class Stream:
    """One walk of a client."""

    call: Any
    session: str = ""
    numbers: int = 0
    told: list[pb.WalkResponse] = field(default_factory=list)

    async def say(self, **message: Any) -> None:
        with rpc.translated():
            await self.call.write(pb.WalkRequest(**message))

    async def move(self, *actions: pb.Action, number: int = 0) -> None:
        await self.say(move=pb.Move(actions=actions or [TURN], number=number))

    async def hear(self) -> pb.WalkResponse:
        """The next message."""
        with rpc.translated():
            answer = await asyncio.wait_for(self.call.read(), 20)
        assert answer, "the stream has ended"
        self.told.append(answer)
        assert isinstance(answer, pb.WalkResponse)
        return answer

    async def next(self, kind: str) -> Any:
        """The next message of a kind; others before it are passed over."""
        while True:
            answer = await self.hear()
            if answer.WhichOneof("message") == kind:
                return getattr(answer, kind)

    async def step(self, *actions: pb.Action, number: int = 0) -> pb.Drawn:
        await self.move(*actions, number=number)
        drawn = await self.next("drawn")
        assert isinstance(drawn, pb.Drawn)
        return drawn

    async def steps(self, chunks: int) -> list[pb.Drawn]:
        return [await self.step() for _ in range(chunks)]

    async def ended(self) -> None:
        """Read to the end, which may be an error."""
        with rpc.translated():
            while answer := await asyncio.wait_for(self.call.read(), 20):
                self.told.append(answer)

    def close(self) -> None:
        self.call.cancel()


@dataclass
class Caller:
    """Calls of one tenant; `made` is what they reach, for looking behind its back."""

    channel: Any
    made: Generator
    address: str
    registry: CollectorRegistry
    tenant: str = "default"

    def __post_init__(self) -> None:
        self.sessions, self.generator = SessionsStub(self.channel), GeneratorStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((rpc.TENANT_KEY, self.tenant),)

    def of(self, tenant: str) -> "Caller":
        return replace(self, tenant=tenant)

    async def call(self, method: str, **fields: Any) -> Any:
        """A call that is answered once, by its name."""
        stub, module = (self.generator, generator_pb) if method in IN_GENERATOR else (self.sessions, pb)
        with rpc.translated():
            return await getattr(stub, method)(getattr(module, f"{method}Request")(**fields), metadata=self.metadata)

    async def open(self, **fields: Any) -> pb.OpenResponse:
        answer = await self.call("Open", **{"lockstep": True, "format": pb.PICTURE_FORMAT_RGB32F, **fields})
        assert isinstance(answer, pb.OpenResponse)
        return answer

    @asynccontextmanager
    async def walk(self, session: str, seen: int = 0) -> AsyncIterator[Stream]:
        stream = Stream(self.sessions.Walk(metadata=self.metadata), session)
        await stream.say(join=pb.Join(session=session, seen=seen))
        try:
            yield stream
        finally:
            stream.close()

    def figure(self, name: str, **labels: str) -> float:
        """A figure of the page of metrics."""
        return self.registry.get_sample_value(f"worldkv_generator_{name}", labels) or 0.0


IN_GENERATOR = ("Resume", "Suspend", "GeneratorStats")


def inside() -> Inside:
    """Tiers that several generators may share."""
    return Inside(1 << 28, 1 << 26)


@asynccontextmanager
async def generating(
    tiers: Tiers | None = None,
    config: GeneratorConfig = CONFIG,
    weights: int = 0,
    model: WorldModel | None = None,
    **live: Any,
) -> AsyncIterator[Caller]:
    """A generator over these tiers, or tiers of its own; `live`: fields of its `LiveConfig`.

    weights  of the small model, where no other model is given
    """
    config = replace(config, live=replace(config.live, **live))
    made: list[Generator] = []

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        async with assembled(config, model or toy_model(weights), host, tiers or inside()) as generator:
            made.append(generator)
            yield add(generator, host.server)

    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serve(config.service, servicers))
        channel = await stack.enter_async_context(rpc.channel(running.address))
        yield Caller(channel, made[0], running.address, running.registry)


def pictures(drawn: Sequence[pb.Drawn]) -> list[bytes]:
    return [each.data for one in drawn for each in one.pictures]
