"""A small honest service of walks for tests of its clients: no model, no memory, and ways to misbehave."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from worldkv import rpc, wire
from worldkv.actions import Action, Walker, parse_path
from worldkv.catalog import World
from worldkv.chunk import Lineage
from worldkv.client.pictures import picture_messages
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OverBudget, Unavailable, WorldKVError
from worldkv.service import Host, ServiceConfig, serve
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from worldkv.wire_sessions import action_of, format_of, pose_messages, walker_message, walker_of, watch_id

FRAMES, HEIGHT, WIDTH = 3, 8, 16


@dataclass(eq=False)
class Sitting:
    """A session: what was drawn in it, and who listens."""

    id: str
    world: World
    opened: pb.OpenRequest
    walker: Walker
    drawn: list[pb.Drawn] = field(default_factory=list)
    before: int = 0
    taken: list[int] = field(default_factory=list)
    moves: list[tuple[Action, ...]] = field(default_factory=list)
    out: asyncio.Queue[pb.WalkResponse | WorldKVError] = field(default_factory=asyncio.Queue)
    watchers: list[asyncio.Queue[pb.WalkResponse | WorldKVError]] = field(default_factory=list)

    @property
    def next(self) -> int:
        return self.before + len(self.drawn)

    def response(self) -> pb.OpenResponse:
        return pb.OpenResponse(
            session=self.id,
            world=wire.world_message(self.world),
            model="toy",
            next=self.next,
            walker=walker_message(self.walker),
            frames=FRAMES,
            pictures=FRAMES,
            width=WIDTH,
            height=HEIGHT,
            pictures_per_second=30,
            watch=watch_id(self.id),
        )

    def draw(self, actions: Sequence[Action], number: int, shown: Sequence[pb.Picture] = ()) -> None:
        poses = []
        for action in actions:
            self.walker = self.walker.after(action)
            poses.append(self.walker.pose)
        chunk = pb.Drawn(
            key=wire.chunk_message(self.world.lineage.key(self.next)),
            number=number,
            pictures=shown or self.pictures(),
            poses=pose_messages(np.stack(poses)),
            walker=walker_message(self.walker),
            seconds=0.25,
            recall_seconds=0.125,
        )
        if self.next:
            first = wire.chunk_message(self.world.lineage.key(0))
            chunk.recalled.add(key=first, score=0.5, distance=1.5, angle=30.0, overlap=0.75)
            chunk.missed.add(key=first, reason=chunk_pb2.MISS_REASON_LATE)
            chunk.demoted.add(branch=first.branch, index=0)
            chunk.spent.draw, chunk.held.hot, chunk.mode = 0.125, 7, pb.MEMORY_MODE_FULL
        chunk.counts.recalled, chunk.counts.at_hand, chunk.counts.missed.late = self.next, self.next // 2, 1
        self.moves.append(tuple(actions))
        self.drawn.append(chunk)
        self.say(drawn=chunk)
        self.say(remembered=pb.Remembered(end=self.next, level=1))

    def pictures(self) -> list[pb.Picture]:
        """Bright as their chunk's number says."""
        form, shape = format_of(self.opened.format), (FRAMES, HEIGHT, WIDTH, 3)
        if form == "rgb32f":
            return picture_messages(np.full(shape, self.next / 100, np.float32))
        return picture_messages(np.full(shape, self.next, np.uint8), jpeg=95 if form == "jpeg" else None)

    def move(self, at: int) -> None:
        """Go on elsewhere from chunk `at`: what came after was not kept."""
        self.world = World(self.world.name, self.world.lineage.fork(at))
        del self.drawn[at - self.before :]
        self.say(notice=pb.Notice(kind=pb.NOTICE_KIND_MOVED, chunk=at, text="elsewhere"))

    def say(self, **message: object) -> None:
        for out in (self.out, *self.watchers):
            out.put_nowait(pb.WalkResponse(**message))

    def take(self, request: pb.WalkRequest) -> None:
        name = str(request.WhichOneof("message"))
        message = getattr(request, name)
        if message.number in self.taken:
            return
        self.taken.append(message.number)
        self.say(applied=pb.Applied(number=message.number, chunk=self.next))
        if name == "move":
            actions = [action_of(each) for each in message.actions]
            self.draw(actions * FRAMES if len(actions) == 1 else actions, message.number)
        elif name == "show":
            self.walker = walker_of(message.walkers[-1])
            self.draw([Action()] * FRAMES, message.number, message.pictures)
        elif not message.pause:
            for _ in range(3):  # toys tire soon
                self.draw([action_of(message.action)] * FRAMES, 0)


@dataclass(eq=False)
class ToySessions(SessionsServicer):
    """The service. Its sessions outlive the servers it is served by.

    cuts    answers after which a connection breaks, for one connection after the other
    deaf    whether nothing that is sent is heard
    greets  whether it says what is kept as soon as somebody joins
    room    sessions at most
    slow    seconds that a move takes
    """

    cuts: list[int] = field(default_factory=list)
    deaf: bool = False
    greets: bool = False
    room: int = 100
    slow: float = 0.0
    sittings: dict[str, Sitting] = field(default_factory=dict)
    joins: list[int] = field(default_factory=list)
    asked: list[pb.OpenRequest] = field(default_factory=list)

    async def Open(self, request: pb.OpenRequest, context: rpc.Context) -> pb.OpenResponse:
        self.asked.append(request)
        if len(self.sittings) >= self.room:
            raise OverBudget(f"{self.room} sessions walk already")
        tenant, number = rpc.tenant(context), len(self.sittings)
        world = World(request.world or f"world-{number}", Lineage.begin())
        made = Sitting(f"{tenant}-{number}", world, request, Walker(1.0, 2.0), before=request.at)
        self.sittings[made.id] = made
        actions = parse_path(request.tour)
        for begin in range(0, len(actions), FRAMES):
            made.draw(actions[begin : begin + FRAMES], 0)
        return made.response()

    def sitting(self, id: str) -> Sitting:
        if id not in self.sittings:
            raise NotFound(f"no session {id!r}")
        return self.sittings[id]

    async def Walk(
        self, request_iterator: AsyncIterator[pb.WalkRequest], context: rpc.Context
    ) -> AsyncIterator[pb.WalkResponse]:
        join = (await anext(aiter(request_iterator))).join
        self.joins.append(join.seen)
        if join.watch:
            async for told in self._watch(join):
                yield told
            return
        made = self.sitting(join.session)
        made.out.put_nowait(Conflict("another client has joined"))
        out = made.out = asyncio.Queue()
        made.say(joined=made.response())
        if self.greets:
            made.say(remembered=pb.Remembered(end=made.next, level=1))
        for chunk in made.drawn:
            if chunk.key.index >= join.seen:
                made.say(drawn=chunk)
        limit = self.cuts.pop(0) if self.cuts else None
        hearing = asyncio.create_task(self._hear(made, request_iterator))
        try:
            while limit is None or limit > 0:
                answer = await out.get()
                if isinstance(answer, WorldKVError):
                    raise answer
                yield answer
                limit = limit and limit - 1
            raise Unavailable("cut")
        finally:
            hearing.cancel()
            with suppress(asyncio.CancelledError):
                await hearing

    async def _watch(self, join: pb.Join) -> AsyncIterator[pb.WalkResponse]:
        made = next((each for each in self.sittings.values() if watch_id(each.id) == join.session), None)
        if made is None:
            raise NotFound(f"nothing is watched as {join.session!r}")
        joined = made.response()
        joined.session = join.session
        out = asyncio.Queue[pb.WalkResponse | WorldKVError]()
        made.watchers.append(out)
        for answer in (pb.WalkResponse(joined=joined), *(pb.WalkResponse(drawn=each) for each in made.drawn)):
            out.put_nowait(answer)
        while True:
            told = await out.get()
            if isinstance(told, WorldKVError):
                raise told
            yield told

    async def _hear(self, made: Sitting, requests: AsyncIterator[pb.WalkRequest]) -> None:
        async for request in requests:
            await asyncio.sleep(self.slow)
            if not self.deaf:
                made.take(request)

    async def Rewind(self, request: pb.RewindRequest, context: rpc.Context) -> pb.RewindResponse:
        made = self.sitting(request.session)
        if request.at > made.next:
            raise InvalidInput(f"chunk {request.at} was not drawn yet")
        made.world = World(made.world.name, made.world.lineage.fork(request.at))
        del made.drawn[request.at - made.before :]
        return pb.RewindResponse(world=wire.world_message(made.world), walker=walker_message(made.walker))

    async def Fork(self, request: pb.ForkRequest, context: rpc.Context) -> pb.ForkResponse:
        made = self.sitting(request.session)
        if request.world == made.world.name:
            raise AlreadyExists(f"world {request.world!r}")
        at = request.at if request.HasField("at") else made.next
        return pb.ForkResponse(world=wire.world_message(World(request.world or "fork", made.world.lineage.fork(at))))

    async def Close(self, request: pb.CloseRequest, context: rpc.Context) -> pb.CloseResponse:
        made = self.sitting(request.session)
        del self.sittings[request.session]
        return pb.CloseResponse(world=wire.world_message(made.world), remembered=pb.Remembered(end=made.next, level=2))

    async def List(self, request: pb.ListRequest, context: rpc.Context) -> pb.ListResponse:
        mine = [each for id, each in sorted(self.sittings.items()) if id > request.page_token]
        summaries = [pb.SessionSummary(session=each.id, world=each.world.name, next=each.next) for each in mine[:2]]
        return pb.ListResponse(sessions=summaries, next_page_token=mine[1].id if len(mine) > 2 else "")

    async def Worlds(self, request: pb.WorldsRequest, context: rpc.Context) -> pb.WorldsResponse:
        named = {each.world.name: each.world for each in self.sittings.values()}
        names = [name for name in sorted(named) if name > request.page_token]
        token = names[1] if len(names) > 2 else ""
        return pb.WorldsResponse(worlds=[wire.world_message(named[each]) for each in names[:2]], next_page_token=token)

    async def Look(self, request: pb.LookRequest, context: rpc.Context) -> AsyncIterator[pb.LookResponse]:
        made = self.sitting(request.session)
        end = request.at + request.count if request.count else made.next
        for chunk in made.drawn[request.at : end]:
            yield pb.LookResponse(
                key=chunk.key,
                poses=chunk.poses,
                state=pb.CHUNK_STATE_KEPT if chunk.key.index else pb.CHUNK_STATE_DEMOTED,
                pictures=chunk.pictures[: request.pictures],
                pictures_per_second=30,
            )

    async def Export(self, request: pb.ExportRequest, context: rpc.Context) -> AsyncIterator[pb.ExportResponse]:
        if request.world not in {each.world.name for each in self.sittings.values()}:
            raise NotFound(f"no world {request.world!r}")
        for piece in (request.world.encode(), b"", b"and its chunks"):
            yield pb.ExportResponse(data=piece)


@asynccontextmanager
async def serving(toy: ToySessions, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve a toy; yields its address."""

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        add_SessionsServicer_to_server(toy, host.server)
        yield ["worldkv.v1.Sessions"]

    async with serve(ServiceConfig(address=address, drain_seconds=0), servicers) as running:
        yield running.address
