"""A small honest generator for tests of what stands before it: it draws tiny pictures, remembers, dies and freezes."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.wire.toy_living import Dead, Live, Record, Tier
from worldkv import rpc, wire
from worldkv.chunk import Lineage
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OverBudget, Unavailable
from worldkv.service import Host, ServiceConfig, Serving, serve
from worldkv.v1 import generator_pb2, generator_pb2_grpc, sessions_pb2_grpc
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import watch_id


@dataclass(eq=False)
class Toy:
    """A generator. What is listed first may be changed at any time.

    most          sessions that it takes
    draw_seconds  of a chunk
    late_seconds  that the answer to a rewind comes later than what it does
    dies          told each stage of a chunk (taken, applied, drawn, kept, said); the generator dies if it says so
    tells         whether it says which chunk a move is drawn as
    frozen        whether it does nothing at all
    behind        answers that wait for a client before pictures are dropped
    greets        whether it says what is kept as soon as somebody joins
    watchers      that it lets watch a session
    pieces        of a world's file, each of piece_bytes
    jpeg          each picture of a chunk that is seen again
    holds_looks   whether it shows no chunk again
    looked, exported  answers that were taken
    """

    tier: Tier
    name: str
    most: int = 8
    draw_seconds: float = 0.0
    late_seconds: float = 0.0
    dies: Callable[[str], bool] = lambda stage: False
    tells: bool = True
    frozen: bool = False
    behind: int = 1000
    picture_bytes: int = 6
    greets: bool = False
    refuses: Exception | None = None
    watchers: int = 16
    pieces: int = 3
    piece_bytes: int = 1000
    jpeg: bytes = b""
    holds_looks: bool = False
    looked: int = 0
    exported: int = 0
    dropped: int = 0
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live: dict[tuple[str, str], Live] = {}
        self.dead = asyncio.Event()

    async def thawed(self) -> None:
        while self.frozen:  # noqa: ASYNC110 - tests set it as they like
            await asyncio.sleep(0.01)

    def stage(self, stage: str) -> None:
        if self.dead.is_set() or self.dies(stage):
            self.dead.set()
            for live in self.live.values():
                live.outbox = None
            raise Dead

    async def _perhaps_die(self, stage: str) -> None:
        with suppress(Dead):
            self.stage(stage)
        await self._alive()

    async def _alive(self) -> None:
        """A dead generator says nothing any more: what it does waits for its server to end."""
        if self.dead.is_set():
            await asyncio.Event().wait()

    async def _begin(self, name: str, context: rpc.Context) -> str:
        self.calls.append(name)
        await self.thawed()
        if self.refuses is not None and name in ("Open", "Resume"):
            raise self.refuses
        return rpc.tenant(context)

    def _live(self, tenant: str, session: str) -> Live:
        if (tenant, session) not in self.live:
            raise NotFound(f"no session {session!r} lives on {self.name}")
        return self.live[tenant, session]

    def _start(self, record: Record) -> Live:
        if len(self.live) >= self.most:
            raise OverBudget(f"{len(self.live)} sessions of {self.most}")
        self.live[record.tenant, record.session] = Live(self, record)
        return self.live[record.tenant, record.session]

    def _opened(self, record: Record) -> pb.OpenResponse:
        return pb.OpenResponse(
            session=record.session,
            world=record.message,
            model=f"toy on {self.name}",
            next=len(record.moves),
            walker=pb.Walker(z=sum(record.moves)),
            frames=1,
            pictures=2,
            width=2,
            height=1,
            pictures_per_second=10,
            watch=watch_id(record.session),
        )

    async def Open(self, request: pb.OpenRequest, context: rpc.Context) -> pb.OpenResponse:
        tenant = await self._begin("Open", context)
        session = f"{random.getrandbits(32):08x}"
        others = [each for each in self.tier.records.values() if (each.tenant, each.world) == (tenant, request.world)]
        if others and request.scene:
            raise InvalidInput(f"world {request.world!r} exists: it has a scene")
        lineage = others[0].lineage.fork(len(others[0].moves)) if others else Lineage.begin()
        record = Record(tenant, session, request.world or session, lineage, [*others[0].moves] if others else [])
        self._start(record)
        self.tier.records[tenant, session] = record
        await self._perhaps_die("opened")
        return self._opened(record)

    async def Walk(
        self, request_iterator: AsyncIterator[pb.WalkRequest], context: rpc.Context
    ) -> AsyncIterator[pb.WalkResponse]:
        tenant = await self._begin("Walk", context)
        join = (await anext(request_iterator)).join
        if join.watch:
            async for answer in self._watch(tenant, join):
                yield answer
            return
        live = self._live(tenant, join.session)
        live.leave(Conflict(f"session {join.session} was taken over"))
        outbox: asyncio.Queue[pb.WalkResponse | Exception | None] = asyncio.Queue()
        live.outbox = outbox
        outbox.put_nowait(pb.WalkResponse(joined=self._opened(live.record)))
        for held in live.hand:
            if held.drawn.key.index >= join.seen:
                outbox.put_nowait(held)
        if self.greets:
            outbox.put_nowait(pb.WalkResponse(remembered=pb.Remembered(end=len(live.record.moves), level=1)))
        hearing = asyncio.create_task(self._hear(live, request_iterator))
        try:
            while (response := await outbox.get()) is not None:
                await self.thawed()
                await self._alive()
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            hearing.cancel()
            if live.outbox is outbox:
                live.outbox = None

    async def _watch(self, tenant: str, join: pb.Join) -> AsyncIterator[pb.WalkResponse]:
        live = self._shown(tenant, join.session)
        if len(live.watchers) >= self.watchers:
            raise OverBudget(f"{len(live.watchers)} watch already")
        joined = self._opened(live.record)
        joined.session = join.session
        out: asyncio.Queue[pb.WalkResponse | Exception | None] = asyncio.Queue()
        live.watchers.append(out)
        for answer in (pb.WalkResponse(joined=joined), *live.hand):
            if answer.HasField("joined") or answer.drawn.key.index >= join.seen:
                out.put_nowait(answer)
        try:
            while (response := await out.get()) is not None:
                await self.thawed()
                await self._alive()
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            if out in live.watchers:
                live.watchers.remove(out)

    def _shown(self, tenant: str, session: str) -> Live:
        """A session that lives here, by either of its ids."""
        for (whose, each), live in self.live.items():
            if whose == tenant and session in (each, watch_id(each)):
                return live
        raise NotFound(f"no session {session!r} lives on {self.name}")

    async def Worlds(self, request: pb.WorldsRequest, context: rpc.Context) -> pb.WorldsResponse:
        tenant = await self._begin("Worlds", context)
        found = {each.world: each.message for each in self.tier.records.values() if each.tenant == tenant}
        names = [name for name in sorted(found) if name > request.page_token]
        page = names[: request.page_size or 100]
        token = page[-1] if len(names) > len(page) else ""
        return pb.WorldsResponse(worlds=[found[name] for name in page], next_page_token=token)

    async def Look(self, request: pb.LookRequest, context: rpc.Context) -> AsyncIterator[pb.LookResponse]:
        record = self._shown(await self._begin("Look", context), request.session).record
        end = min(len(record.moves), request.at + request.count if request.count else len(record.moves))
        picture = pb.Picture(format=pb.PICTURE_FORMAT_JPEG, width=16, height=8, data=self.jpeg)
        for index in range(request.at, end):
            while self.holds_looks:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            await self._alive()
            yield pb.LookResponse(
                key=wire.chunk_message(record.lineage.key(index)),
                state=pb.CHUNK_STATE_KEPT,
                pictures=[picture] * min(request.pictures, 2),
                pictures_per_second=10,
            )
            self.looked += 1

    async def Export(self, request: pb.ExportRequest, context: rpc.Context) -> AsyncIterator[pb.ExportResponse]:
        tenant = await self._begin("Export", context)
        if not any((each.tenant, each.world) == (tenant, request.world) for each in self.tier.records.values()):
            raise NotFound(f"no world {request.world!r}")
        for number in range(self.pieces):
            await self._alive()
            yield pb.ExportResponse(data=bytes([number % 256]) * self.piece_bytes)
            self.exported += 1

    async def _hear(self, live: Live, requests: AsyncIterator[pb.WalkRequest]) -> None:
        async for request in requests:
            await self.thawed()
            if request.HasField("move") and not request.move.actions:
                live.leave(InvalidInput("move.actions: expected 1 of them, got 0"))
                return
            live.put(request)
        live.leave()

    async def Fork(self, request: pb.ForkRequest, context: rpc.Context) -> pb.ForkResponse:
        tenant = await self._begin("Fork", context)
        record = self._live(tenant, request.session).record
        if any(each.world == request.world for each in self.tier.records.values()):
            raise AlreadyExists(f"a world {request.world!r} exists")
        end = request.at if request.HasField("at") else len(record.moves)
        fork = Record(tenant, f"fork of {record.session}", request.world or "fork", record.lineage.fork(end))
        fork.moves = record.moves[:end]
        return pb.ForkResponse(world=fork.message)

    async def Rewind(self, request: pb.RewindRequest, context: rpc.Context) -> pb.RewindResponse:
        tenant = await self._begin("Rewind", context)
        live = self._live(tenant, request.session)
        if request.at > len(live.record.moves):
            raise InvalidInput(f"at = {request.at}: the world has {len(live.record.moves)} chunks")
        live.record.lineage = live.record.lineage.fork(request.at)
        live.head = live.record.lineage.head
        del live.record.moves[request.at :]
        live.hand = [each for each in live.hand if each.drawn.key.index < request.at]
        live.unwatch(Unavailable("taken back"))
        if live.inbox:
            live.taken -= {getattr(each, str(each.WhichOneof("message"))).number for each in live.inbox}
            live.inbox.clear()
            live.leave(Unavailable("what waited was dropped"))
        await asyncio.sleep(self.late_seconds)
        return pb.RewindResponse(world=live.record.message, walker=pb.Walker(z=sum(live.record.moves)))

    async def Close(self, request: pb.CloseRequest, context: rpc.Context) -> pb.CloseResponse:
        tenant = await self._begin("Close", context)
        live = self._live(tenant, request.session)
        await self._perhaps_die("closing")
        del self.live[tenant, request.session], self.tier.records[tenant, request.session]
        live.end()
        remembered = pb.Remembered(end=len(live.record.moves), level=1)
        await self._perhaps_die("closed")
        return pb.CloseResponse(world=live.record.message, remembered=remembered)

    async def List(self, request: pb.ListRequest, context: rpc.Context) -> pb.ListResponse:
        tenant = await self._begin("List", context)
        ids = sorted(session for whose, session in self.live if whose == tenant and session > request.page_token)
        page = ids[: request.page_size]
        found = [
            pb.SessionSummary(session=each, world=self.live[tenant, each].record.world, kept=1, next=1) for each in page
        ]
        return pb.ListResponse(sessions=found, next_page_token=page[-1] if len(ids) > len(page) else "")

    async def Resume(self, request: generator_pb2.ResumeRequest, context: rpc.Context) -> generator_pb2.ResumeResponse:
        tenant = await self._begin("Resume", context)
        if live := self.live.get((tenant, request.session)):
            return generator_pb2.ResumeResponse(opened=self._opened(live.record), lived=True)
        record = self.tier.record(tenant, request.session)
        record.lineage = record.lineage.fork(len(record.moves))
        self._start(record)
        return generator_pb2.ResumeResponse(opened=self._opened(record))

    async def Suspend(
        self, request: generator_pb2.SuspendRequest, context: rpc.Context
    ) -> generator_pb2.SuspendResponse:
        tenant = await self._begin("Suspend", context)
        self._live(tenant, request.session).end()
        del self.live[tenant, request.session]
        return generator_pb2.SuspendResponse()

    async def GeneratorStats(
        self, request: generator_pb2.GeneratorStatsRequest, context: rpc.Context
    ) -> generator_pb2.GeneratorStatsResponse:
        await self.thawed()
        sessions = [
            generator_pb2.ResidentSession(
                tenant=tenant,
                session=session,
                root=live.record.lineage.root,
                joined=live.outbox is not None,
                watch=watch_id(session),
            )
            for (tenant, session), live in self.live.items()
        ]
        return generator_pb2.GeneratorStatsResponse(
            generator=self.name, model="toy", sessions=sessions, room=self.most - len(self.live)
        )


@dataclass(eq=False)
class Running:
    """A toy that serves, until it is killed or dies of itself."""

    toy: Toy
    address: str
    task: asyncio.Task[None]

    async def kill(self) -> None:
        self.toy.dead.set()
        await self.task


async def start(toy: Toy, address: str = "127.0.0.1:0") -> Running:
    """Let a toy serve. What it held of sessions is gone when it has died; what is kept is not."""
    listens: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        sessions_pb2_grpc.add_SessionsServicer_to_server(toy, host.server)  # type: ignore[arg-type]
        generator_pb2_grpc.add_GeneratorServicer_to_server(toy, host.server)  # type: ignore[arg-type]
        yield ["worldkv.v1.Sessions", "worldkv.v1.Generator"]

    async def live() -> None:
        async with serve(ServiceConfig(address, drain_seconds=0), servicers) as serving:
            listens.set_result(serving)
            await toy.dead.wait()
            for each in toy.live.values():
                each.task.cancel()
        await asyncio.gather(*(each.task for each in toy.live.values()), return_exceptions=True)

    task = asyncio.create_task(live())
    return Running(toy, (await listens).address, task)
