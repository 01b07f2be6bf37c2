"""The generator's side of `Sessions` and `Generator`: messages in, messages out; what they mean is done elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic

from grpc import aio

from services.generator.live import messages
from services.generator.live.inbox import Changing, Holding, Moving, Showing, Told
from services.generator.live.looking import Look
from services.generator.live.metrics import Metrics
from services.generator.live.opening import Opening
from services.generator.live.outbox import Outbox
from services.generator.live.table import Live
from services.generator.live.walking import Walking
from services.generator.scenes import EXAMPLES, PICTURED
from worldkv import rpc, wire
from worldkv.actions import Action
from worldkv.catalog import World
from worldkv.chunk import MAX_INDEX
from worldkv.errors import InvalidInput, WorldKVError
from worldkv.v1 import generator_pb2 as generator_pb
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from worldkv.v1.sessions_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from worldkv.wire_sessions import Mode, action_of, change_of, format_of, mode_of, walker_message, walker_of
from worldkv.worlds import HIDDEN, export_pieces

NAMES = ("worldkv.v1.Sessions", "worldkv.v1.Generator")
PAGE, MAX_PAGE = 100, 1000
"""Sessions of a page, if nobody says how many, and at most."""
MAX_UNITS = 10.0
"""Units a walker may move in a latent frame, forward or aside."""
MAX_DEGREES = 360.0
"""Degrees a walker may turn in a latent frame."""


@dataclass(frozen=True)
class Generator:
    """All that one generator serves."""

    name: str
    live: Live
    metrics: Metrics


class _Sessions(SessionsServicer):
    """Walks."""

    def __init__(self, generator: Generator) -> None:
        self._live, self._shape = generator.live, _Shape(generator.live)

    async def Open(self, request: pb.OpenRequest, context: rpc.Context) -> pb.OpenResponse:
        wanted = Opening(
            world=request.world,
            at=_number("at", request.at) if request.HasField("at") else None,
            scene=request.scene,
            seed=request.seed,
            start=walker_of(request.start) if request.HasField("start") else None,
            mode=_mode(request),
            lockstep=request.lockstep,
            format=format_of(request.format),
            tour=request.tour,
            change=change_of(request.settings),
            judged=request.judged,
            fork=request.fork,
            picture=request.picture,
        )
        return self._shape.opened(await self._live.open(rpc.tenant(context), wanted))

    async def Walk(
        self, requests: AsyncIterator[pb.WalkRequest], context: rpc.Context
    ) -> AsyncIterator[pb.WalkResponse]:
        first = await anext(aiter(requests), pb.WalkRequest())
        if first.WhichOneof("message") != "join":
            raise InvalidInput(f"a walk begins with a join, got {first.WhichOneof('message') or 'nothing'}")
        if watches := first.join.watch:
            walking = self._live.watched(rpc.tenant(context), first.join.session)
            outbox = walking.join_watching(self._shape.opened(walking), first.join.seen)
        else:
            walking = self._live.find(rpc.tenant(context), first.join.session)
            await self._live.confirm(walking)
            outbox = walking.join(self._shape.opened(walking), first.join.seen)
        listen = self._hear_nothing(outbox, requests) if watches else self._listen(walking, outbox, requests)
        listening = asyncio.create_task(listen)
        try:
            async with aclosing(outbox.messages()) as answers:
                async for answer in answers:
                    yield answer
        finally:
            listening.cancel()
            walking.leave(outbox)

    async def Fork(self, request: pb.ForkRequest, context: rpc.Context) -> pb.ForkResponse:
        walking = self._live.find(rpc.tenant(context), request.session)
        at = _number("at", request.at) if request.HasField("at") else None
        world = await walking.resident.fork(request.world, at)
        return pb.ForkResponse(world=wire.world_message(world))

    async def Rewind(self, request: pb.RewindRequest, context: rpc.Context) -> pb.RewindResponse:
        walking = self._live.find(rpc.tenant(context), request.session)
        await self._live.rewind(walking, _number("at", request.at))
        resident = walking.resident
        return pb.RewindResponse(world=wire.world_message(resident.world), walker=walker_message(resident.walker))

    async def Close(self, request: pb.CloseRequest, context: rpc.Context) -> pb.CloseResponse:
        world, kept = await self._live.close(rpc.tenant(context), request.session)
        return pb.CloseResponse(world=wire.world_message(world), remembered=messages.remembered(kept))

    async def List(self, request: pb.ListRequest, context: rpc.Context) -> pb.ListResponse:
        size = min(request.page_size or PAGE, MAX_PAGE)
        after = [each for each in self._live.of(rpc.tenant(context)) if each.resident.id > request.page_token]
        token = after[size - 1].resident.id if len(after) > size else ""
        return pb.ListResponse(sessions=map(_summary, after[:size]), next_page_token=token)

    async def Worlds(self, request: pb.WorldsRequest, context: rpc.Context) -> pb.WorldsResponse:
        size, catalog = min(request.page_size or PAGE, MAX_PAGE), self._live.maker.tier(rpc.tenant(context)).worlds
        found: list[World] = []
        async for world in catalog.list(after=request.page_token):
            if len(found) > size:
                break
            if not world.name.startswith(HIDDEN):
                found.append(world)
        token = found[size - 1].name if len(found) > size else ""
        return pb.WorldsResponse(worlds=map(wire.world_message, found[:size]), next_page_token=token)

    async def Look(self, request: pb.LookRequest, context: rpc.Context) -> AsyncIterator[pb.LookResponse]:
        walking = self._live.shown(rpc.tenant(context), request.session)
        look = Look(_number("at", request.at), request.count, request.height, request.pictures)
        async with aclosing(self._live.looker.look(walking.resident, look)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Export(self, request: pb.ExportRequest, context: rpc.Context) -> AsyncIterator[pb.ExportResponse]:
        tier = self._live.maker.tier(rpc.tenant(context))
        async with aclosing(export_pieces(tier.store, tier.worlds, request.world)) as pieces:
            async for piece in pieces:
                yield pb.ExportResponse(data=piece)

    @staticmethod
    async def _hear_nothing(outbox: Outbox, requests: AsyncIterator[pb.WalkRequest]) -> None:
        """Whoever watches and says something is told so."""
        async for request in requests:
            kind = request.WhichOneof("message") or "nothing"
            outbox.end(InvalidInput(f"who watches a session has no effect on it, got {kind}"), at_once=True)
            return

    async def _listen(self, walking: Walking, outbox: Outbox, requests: AsyncIterator[pb.WalkRequest]) -> None:
        """Take what a client says until it says no more; what is wrong with it ends its connection."""
        frames = self._live.maker.model.spec.frames
        try:
            async for request in requests:
                if walking.outbox is not outbox:
                    return
                walking.tell(_told(request, frames))
        except WorldKVError as error:
            outbox.end(error)
            return
        walking.finish(outbox)


class _Generator(GeneratorServicer):
    """What a gateway asks."""

    def __init__(self, generator: Generator) -> None:
        self._generator, self._live, self._shape = generator, generator.live, _Shape(generator.live)

    async def Resume(self, request: generator_pb.ResumeRequest, context: rpc.Context) -> generator_pb.ResumeResponse:
        walking, lived = await self._live.resume(rpc.tenant(context), request.session)
        return generator_pb.ResumeResponse(opened=self._shape.opened(walking), lived=lived)

    async def Suspend(self, request: generator_pb.SuspendRequest, context: rpc.Context) -> generator_pb.SuspendResponse:
        walking = self._live.find(rpc.tenant(context), request.session)
        await self._live.suspend(walking)
        return generator_pb.SuspendResponse(remembered=messages.remembered(walking.resident.kept))

    async def GeneratorStats(
        self, request: generator_pb.GeneratorStatsRequest, context: rpc.Context
    ) -> generator_pb.GeneratorStatsResponse:
        maker = self._live.maker
        here = [each for each in self._live if each.resident.session or each.outbox or each.watchers]
        return generator_pb.GeneratorStatsResponse(
            generator=self._generator.name,
            model=maker.model.spec.model,
            sessions=map(_resident, here),
            room=self._live.room,
            step_seconds=maker.engine.step_seconds,
            batch=maker.engine.config.batch,
            resident_bytes=maker.engine.resident_bytes,
            chunks=self._generator.metrics.chunks,
            scenes=EXAMPLES.get(maker.model.spec.model, ()),
            pictures=maker.model.spec.model in PICTURED,
        )


@dataclass(frozen=True)
class _Shape:
    """Says of a session what it says when it is opened."""

    live: Live

    def opened(self, walking: Walking) -> pb.OpenResponse:
        maker, resident = self.live.maker, walking.resident
        return pb.OpenResponse(
            session=resident.id,
            world=wire.world_message(resident.world),
            model=maker.model.spec.model,
            next=resident.next,
            walker=walker_message(resident.walker),
            frames=maker.model.spec.frames,
            pictures=maker.pictures,
            width=maker.width,
            height=maker.height,
            pictures_per_second=maker.config.live.pictures_per_second,
            watch=walking.watch,
            memory=messages.choices(maker.choices, maker.settings(resident.record)),
            scene=resident.record.scene or "",
            seed=resident.record.seed,
            has_truth=maker.scene(resident.record.scene).pictures is not None,
        )


def add(generator: Generator, server: aio.Server) -> Sequence[str]:
    """Have a server serve this generator; answers the services' names."""
    add_SessionsServicer_to_server(_Sessions(generator), server)
    add_GeneratorServicer_to_server(_Generator(generator), server)
    return NAMES


def _told(request: pb.WalkRequest, frames: int) -> Told:
    """What a client says after it has joined. Raises InvalidInput for anything that cannot be done."""
    match request.WhichOneof("message"):
        case "move":
            move = request.move
            if len(move.actions) not in (1, frames):
                raise InvalidInput(f"a move has one action or {frames}, got {len(move.actions)}")
            return Moving(tuple(map(_action, move.actions)), move.number)
        case "show":
            show = request.show
            counts = len(show.pictures), len(show.walkers)
            if counts != (frames, frames):
                raise InvalidInput(f"a show has {frames} pictures and as many walkers, got {counts[0]} and {counts[1]}")
            return Showing(tuple(show.pictures), tuple(map(walker_of, show.walkers)), show.number)
        case "hold":
            hold = request.hold
            return Holding(None if hold.pause else _action(hold.action), hold.number)
        case "configure":
            configure = request.configure
            return Changing(change_of(configure.settings), configure.number)
        case "join":
            raise InvalidInput("a walk is joined once, got a second join")
        case _:
            raise InvalidInput("a message of a walk is a move, a show, a hold or a change, got none of these")


def _mode(request: pb.OpenRequest) -> Mode:
    """In which mode a session is opened; InvalidInput if its settings say another."""
    if request.mode and request.settings.mode and request.mode != request.settings.mode:
        raise InvalidInput(f"mode {mode_of(request.mode)} is not settings.mode {mode_of(request.settings.mode)}")
    return mode_of(request.mode or request.settings.mode)


def _action(message: pb.Action) -> Action:
    action = action_of(message)
    if max(abs(action.forward), abs(action.strafe)) > MAX_UNITS:
        raise InvalidInput(f"one moves at most {MAX_UNITS:g} units in a latent frame, got {action}")
    if max(abs(action.turn), abs(action.look)) > MAX_DEGREES:
        raise InvalidInput(f"one turns at most {MAX_DEGREES:g} degrees in a latent frame, got {action}")
    return action


def _number(what: str, number: int) -> int:
    if number > MAX_INDEX:
        raise InvalidInput(f"{what} = {number}: a chunk's number is at most {MAX_INDEX}")
    return number


def _summary(walking: Walking) -> pb.SessionSummary:
    resident = walking.resident
    return pb.SessionSummary(
        session=resident.id,
        world=resident.record.world,
        next=resident.next,
        kept=resident.kept.end,
        joined=walking.outbox is not None,
        idle_seconds=monotonic() - walking.walked,
        suspended=resident.session is None,
    )


def _resident(walking: Walking) -> generator_pb.ResidentSession:
    resident = walking.resident
    return generator_pb.ResidentSession(
        tenant=resident.tenant,
        session=resident.id,
        root=resident.world.lineage.root,
        joined=walking.outbox is not None,
        watch=walking.watch,
    )
