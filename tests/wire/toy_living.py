"""Sessions of toy generators: what is kept of them, and how they live."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worldkv import wire
from worldkv.catalog import World
from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import NotFound
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb

if TYPE_CHECKING:
    from tests.wire.toy_generator import Toy


@dataclass
class Record:
    """What is kept of a session. `moves` is what each chunk of its world was drawn for: the move's way forward."""

    tenant: str
    session: str
    world: str
    lineage: Lineage
    moves: list[float] = field(default_factory=list)

    @property
    def message(self) -> chunk_pb2.World:
        return wire.world_message(World(self.world, self.lineage, 1, "", len(self.moves)))


@dataclass
class Tier:
    """What generators share and what outlives them: all sessions."""

    records: dict[tuple[str, str], Record] = field(default_factory=dict)

    def record(self, tenant: str, session: str) -> Record:
        if (tenant, session) not in self.records:
            raise NotFound(f"no session {session!r}")
        return self.records[tenant, session]


class Live:
    """A session that lives on a toy."""

    def __init__(self, toy: "Toy", record: Record) -> None:
        self.toy, self.record, self.head = toy, record, record.lineage.head
        self.inbox: deque[pb.WalkRequest] = deque()
        self.hand: list[pb.WalkResponse] = []
        self.taken: set[int] = set()
        self.outbox: asyncio.Queue[pb.WalkResponse | Exception | None] | None = None
        self.watchers: list[asyncio.Queue[pb.WalkResponse | Exception | None]] = []
        self.hold: float | None = None
        self.told = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    def put(self, request: pb.WalkRequest) -> None:
        number = getattr(request, str(request.WhichOneof("message"))).number
        if number not in self.taken or not number:
            self.taken.add(number)
            self.inbox.append(request)
            self.told.set()

    def say(self, response: pb.WalkResponse) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(response)
        if self.outbox is not None:
            if response.HasField("drawn") and self.outbox.qsize() > self.toy.behind:
                response.drawn.ClearField("pictures")
                response.drawn.pictures_dropped = True
                self.toy.dropped += 1
            self.outbox.put_nowait(response)

    async def run(self) -> None:
        while True:
            while not self.inbox and self.hold is None:
                self.told.clear()
                await self.told.wait()
            await asyncio.sleep(self.toy.draw_seconds)
            await self.toy.thawed()
            if self.record.lineage.head != self.head:  # somebody took the session over
                self.say(pb.WalkResponse(notice=pb.Notice(text="fenced")))
                return
            if not self.inbox and self.hold is None:
                continue  # it was taken back
            number, way = 0, self.hold or 0.0
            if self.inbox:
                request = self.inbox.popleft()
                self.toy.stage("taken")
                chunk = len(self.record.moves)
                kind = str(request.WhichOneof("message"))
                number = getattr(request, kind).number
                if kind == "hold":
                    if self.inbox:
                        continue
                    self.hold = None if request.hold.pause else request.hold.action.forward
                    self.say(pb.WalkResponse(applied=pb.Applied(number=number, chunk=chunk)))
                    continue
                if self.toy.tells:
                    self.say(pb.WalkResponse(applied=pb.Applied(number=number, chunk=chunk)))
                way = request.move.actions[0].forward if kind == "move" else float(request.show.walkers[0].x)
                self.hold = None if kind == "move" else self.hold
                self.toy.stage("applied")
            self.draw(number, way)

    def draw(self, number: int, way: float) -> None:
        index = len(self.record.moves)
        key = wire.chunk_message(ChunkKey(self.head, index))
        picture = pb.Picture(format=pb.PICTURE_FORMAT_RGB8, width=2, height=1, data=bytes(self.toy.picture_bytes))
        drawn = pb.Drawn(key=key, number=number, pictures=[picture, picture])
        self.toy.stage("drawn")
        self.record.moves.append(way)
        self.toy.stage("kept")
        response = pb.WalkResponse(drawn=drawn)
        self.hand.append(response)
        self.say(response)
        self.say(pb.WalkResponse(remembered=pb.Remembered(end=index + 1, level=1)))
        self.toy.stage("said")

    def leave(self, error: Exception | None = None) -> None:
        if self.outbox is not None:
            self.outbox.put_nowait(error)
            self.outbox = None

    def end(self) -> None:
        self.task.cancel()
        self.leave()
        self.unwatch()

    def unwatch(self, error: Exception | None = None) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(error)
        self.watchers.clear()


class Dead(Exception):
    """Ends whatever a toy was doing when it died."""
