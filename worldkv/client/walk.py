"""A live walk, as its user sees it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from weakref import WeakSet

from worldkv import wire
from worldkv.actions import Action, Walker, parse_path
from worldkv.catalog import World
from worldkv.client.listening import Events
from worldkv.client.looking import Seen, looked
from worldkv.client.pictures import Pictures, picture_messages
from worldkv.client.walk_events import (
    Drawn,
    Event,
    Notice,
    NoticeKind,
    Opened,
    Remembered,
    applied_of,
    drawn_of,
    judged_of,
    notice_of,
    opened_of,
    refused_of,
    remembered_of,
)
from worldkv.client.walk_line import Link, WalkLine
from worldkv.errors import InvalidInput, NotFound, Unavailable, WorldKVError
from worldkv.rpc import MAX_MESSAGE_BYTES
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MemoryChange, action_message, change_message, counted, walker_message, walker_of
from worldkv.worlds import shared

NUMBERS = 1 << 52
"""Below it a walk begins to count its moves: a double can hold the numbers."""


class Walk:
    """A walk through a world; see `WalkClient`, which opens and joins them.

    opened      the session, as it was when it was opened or joined
    world       with the session's branch at its head: another one after a rewind, or when the session had to move
    next        number of the next chunk to come
    walker      where the walker stands
    remembered  how far the world is safe

    If the connection breaks, or the gateway, a walk joins its session again, sends again what has no answer, and says
    so by `Notice`. Nothing is drawn twice for one move. What ends the walk is raised by every method from then on:
    Conflict if another client has joined the session, NotFound if it is gone, Unavailable if it could not be reached
    for too long.
    """

    def __init__(self, link: Link, session: str, owned: bool) -> None:
        self.session, self.remembered = session, Remembered(0, None)
        self._link, self._owned = link, owned
        self._line = WalkLine(link, session, self._take, self._told)
        self._number = random.randrange(1, NUMBERS)
        self._holding = 0
        self._answers: dict[int, asyncio.Future[Drawn]] = {}
        self._listeners: WeakSet[Events] = WeakSet()  # whoever lets go of one reads it no more
        self._left: set[bytes] = set()
        self._go, self._leaving = asyncio.Event(), False
        self._ended: WorldKVError | None = None
        self._task: asyncio.Task[None] | None = None
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, opened: Opened) -> None:
        """Join a session that was just opened."""
        self._become(opened)
        self._task = asyncio.create_task(self._run())

    async def take_over(self) -> None:
        """Join a session that others opened. Raises what ended the walk before it began."""
        self._task = asyncio.create_task(self._run())
        await self._joined

    async def __aenter__(self) -> Walk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._owned and self._ended is None:
                await self.close()
        except WorldKVError:
            if error is None:  # else that is what there is to tell
                raise
        finally:
            await self.leave()

    @property
    def frames(self) -> int:
        """Latent frames of a chunk."""
        return self.opened.frames

    async def move(self, actions: Action | Sequence[Action]) -> Drawn:
        """Draw the next chunk: one action a latent frame, or one that is held.

        Raises InvalidInput for another number of actions.
        """
        return await asyncio.shield(self._move(actions))

    async def path(self, path: str | Iterable[Action], *, ahead: int = 2) -> AsyncGenerator[Drawn, None]:
        """Walk a path, in the path grammar or action by action; the chunks come as they are drawn.

        The last chunk is filled up by standing still.

        ahead  moves that are sent before their turn, so that the way to the service and back costs nothing. They are
               drawn even if nobody asks for the rest of the path
        """
        if ahead < 0:
            raise InvalidInput(f"ahead is a number of moves from 0, got {ahead}")
        actions = parse_path(path) if isinstance(path, str) else list(path)
        actions += [Action()] * (-len(actions) % self.frames)
        under_way: deque[asyncio.Future[Drawn]] = deque()
        for begin in range(0, len(actions), self.frames):
            under_way.append(self._move(actions[begin : begin + self.frames]))
            if len(under_way) > ahead:
                yield await asyncio.shield(under_way.popleft())
        while under_way:
            yield await asyncio.shield(under_way.popleft())

    async def show(self, pictures: Pictures, walkers: Sequence[Walker], *, jpeg: int | None = None) -> Drawn:
        """Take pictures from elsewhere as the next chunk; the walker goes on from the last of them.

        pictures  [frames, height, width, 3], one a latent frame of a chunk, uint8 or float32 in 0..1
        walkers   where each was taken
        jpeg      quality, 1 to 95, for pictures too large to travel as they are; None: as they are

        Raises InvalidInput for pictures of another number or size, or that are too large.
        """
        expected = (self.frames, self.opened.height, self.opened.width, 3)
        if pictures.shape != expected:
            raise InvalidInput(f"a chunk of this world is shown pictures {expected}, got {pictures.shape}")
        number = self._new_number()
        show = pb.Show(pictures=picture_messages(pictures, jpeg), walkers=map(walker_message, walkers), number=number)
        request = pb.WalkRequest(show=show)
        if (size := request.ByteSize()) > MAX_MESSAGE_BYTES:
            raise InvalidInput(f"pictures of {size} bytes are over the limit of {MAX_MESSAGE_BYTES}: show them as JPEG")
        return await asyncio.shield(self._ask(number, request))

    async def hold(self, action: Action) -> int:
        """Walk on like this, without moves, until another hold or a move; the chunks come as events.

        Answers the number by which an `Applied` will say from which chunk on.
        """
        return self._hold(pb.Hold(action=action_message(action)))

    async def configure(self, change: MemoryChange) -> int:
        """Remember otherwise from the next chunk on, once what was said before is done.

        Answers the number by which `Applied` will say from which chunk on, or `Refused` why not.
        """
        self._raise_if_ended()
        number = self._new_number()
        configure = pb.Configure(settings=change_message(change), number=number)
        self._line.send(number, pb.WalkRequest(configure=configure))
        return number

    async def pause(self) -> int:
        """Draw no more, until the next hold or move."""
        return self._hold(pb.Hold(pause=True))

    def events(self) -> Events:
        """All that happens from now on, chunks that answer moves as well.

        Who asks for events reads them, or lets go of them: while too many wait and no move does, the stream is held up,
        and the service leaves pictures out.
        """
        listener = Events(self._go.set)
        if self._ended is None:
            self._listeners.add(listener)
        else:
            listener.end(self._ended)
        return listener

    async def rewind(self, at: int) -> None:
        """Go back, so that chunk `at` is drawn next, once all moves under way are drawn.

        Raises InvalidInput for a chunk that was not drawn yet.
        """
        request = pb.RewindRequest(session=self.session, at=counted("at", at))
        while self._answers:
            await asyncio.wait(self._answers.values())
        self._line.answered(self._holding)  # what is held ends here, and is not said again
        answer = await self._link.ask(self._link.stub.Rewind(request, metadata=self._link.metadata))
        self._stand(wire.world_of(answer.world))
        self.walker, self.next = walker_of(answer.walker), at

    async def fork(self, name: str = "", at: int | None = None) -> World:
        """Give the world, up to a chunk, a second name, chosen by the service if none is given; this walk goes on.

        Raises AlreadyExists if the name is taken.
        """
        request = pb.ForkRequest(session=self.session, world=name, at=None if at is None else counted("at", at))
        return wire.world_of((await self._link.ask(self._link.stub.Fork(request, metadata=self._link.metadata))).world)

    def look(
        self, at: int = 0, count: int = 0, *, height: int = 0, pictures: int | None = 1
    ) -> AsyncGenerator[Seen, None]:
        """Chunks of this walk's world that are kept, seen again, in order; nobody is disturbed.

        at, count  which; 0 of them: all up to the last
        height     to which pictures are scaled down, pixels; 0: as drawn
        pictures   of each chunk, evenly spread; None: all
        """
        return looked(self._link, self.session, at, count, height, pictures)

    async def close(self) -> Remembered:
        """End the session once all its chunks are kept; answers how safe they are. The world stays."""
        self._leaving = True
        request = pb.CloseRequest(session=self.session)
        try:
            answer = await self._link.ask(self._link.stub.Close(request, metadata=self._link.metadata))
        except (WorldKVError, asyncio.CancelledError):
            self._leaving = False
            raise
        self.remembered = remembered_of(answer.remembered)
        await self.leave()
        return self.remembered

    async def leave(self) -> None:
        """Let go of the session, which lives on: `WalkClient.join` takes it up again."""
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if self._ended is None:  # it was cancelled before it began
                self._end(self._over())

    def _move(self, actions: Action | Sequence[Action]) -> asyncio.Future[Drawn]:
        held = [actions] if isinstance(actions, Action) else list(actions)
        if len(held) not in (1, self.frames):
            raise InvalidInput(f"a move is one action or {self.frames}, got {len(held)}")
        number = self._new_number()
        move = pb.Move(actions=map(action_message, held), number=number)
        return self._ask(number, pb.WalkRequest(move=move))

    def _hold(self, hold: pb.Hold) -> int:
        self._raise_if_ended()
        hold.number = self._new_number()
        self._line.answered(self._holding)  # the last one wins
        self._holding = hold.number
        self._line.send(hold.number, pb.WalkRequest(hold=hold))
        return hold.number

    def _new_number(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, number: int, request: pb.WalkRequest) -> asyncio.Future[Drawn]:
        """Send what draws a chunk; its chunk. It is under way until then, whoever gives up waiting: shield it."""
        self._raise_if_ended()
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._line.send(number, request)
        self._go.set()
        return answer

    def _raise_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended

    async def _run(self) -> None:
        failed = self._over()
        try:
            await self._line.run()
        except WorldKVError as error:
            failed = error
        finally:
            self._end(failed)

    def _over(self) -> WorldKVError:
        return Unavailable(f"the walk in session {self.session} has ended")

    def _end(self, failed: WorldKVError) -> None:
        self._ended = failed
        _fail(self._joined, failed)
        for answer in self._answers.values():
            _fail(answer, failed)
        self._answers.clear()
        for listener in self._listeners:
            listener.end(None if self._leaving else failed)

    async def _take(self, answer: pb.WalkResponse) -> None:
        """Take note of what the session says, and tell who waits for it."""
        name = answer.WhichOneof("message")
        if name == "joined":
            self._become(opened_of(answer.joined))
        elif name == "drawn":
            await self._take_drawn(answer.drawn)
        elif name == "remembered":
            self.remembered = remembered_of(answer.remembered)
            self._tell(self.remembered)
        elif name == "notice":
            notice = notice_of(answer.notice)
            if notice.kind is NoticeKind.MOVED:
                self._line.seen = min(self._line.seen, notice.chunk)
            self._tell(notice)
        elif name == "applied":
            applied = applied_of(answer.applied)
            if applied.number not in self._answers:  # a chunk is the answer of what draws one
                self._line.answered(applied.number)
            self._tell(applied)
        elif name == "refused":
            self._line.answered(answer.refused.number)
            self._tell(refused_of(answer.refused))
        elif name == "judged":
            self._tell(judged_of(answer.judged))
        while not self._answers and any(listener.full for listener in self._listeners):
            self._go.clear()
            await self._go.wait()

    async def _take_drawn(self, message: pb.Drawn) -> None:
        key = wire.chunk_of(message.key)
        if self.world.lineage.covers(key):
            if key.index < self._line.seen:
                return  # sent a second time
        elif key.branch in self._left:
            return  # drawn before the session went back, or elsewhere
        else:
            self._stand(replace(self.world, lineage=self.world.lineage.fork(key.index, key.branch)))
        size = self.opened.height, self.opened.width
        if any(each.format == pb.PICTURE_FORMAT_JPEG for each in message.pictures):
            drawn = await asyncio.to_thread(drawn_of, message, *size)
        else:
            drawn = drawn_of(message, *size)
        self._line.seen = drawn.key.index + 1
        if self._line.seen >= self.next:  # else it was drawn before this client came
            self.walker, self.next = drawn.walker, self._line.seen
        self._tell(drawn)
        if drawn.number in self._answers:
            for number in [*self._answers]:  # in the order in which they were asked for, and are drawn
                answer = self._answers.pop(number)
                self._line.answered(number)
                if number == drawn.number:
                    if not answer.done():
                        answer.set_result(drawn)
                    break
                _fail(answer, NotFound("it was drawn, but its pictures were gone when the session was joined again"))

    def _become(self, opened: Opened) -> None:
        """The session as it is now: joined for the first time, or again."""
        if not self._joined.done():
            self._joined.set_result(None)
            self.opened, self.world, self.next = opened, opened.world, opened.next
        else:
            seen = self._line.seen
            self._stand(opened.world)
            if (chunk := self._line.seen) < seen:
                self._tell(Notice(NoticeKind.MOVED, chunk, f"the walk goes on from chunk {chunk}"))
                self._line.join_again()
        self.walker, self.next = opened.walker, opened.next

    def _stand(self, world: World) -> None:
        """The session writes to this world's head now. What was seen of a branch that it left was not seen of those
        that it came by, and there may be several: it went on elsewhere more than once."""
        common = shared(self.world.lineage, world.lineage)
        if common is not None:
            self._left.add(self.world.lineage.head)
            self._line.seen = min(self._line.seen, common)
            self.next = min(self.next, common)
        self.world = world

    def _told(self, up: bool, why: str) -> None:
        if not self._leaving:
            kind = NoticeKind.RECONNECTED if up else NoticeKind.DISCONNECTED
            self._tell(Notice(kind, self._line.seen, why))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)


def _fail(answer: asyncio.Future[Drawn] | asyncio.Future[None], error: WorldKVError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # nobody has to ask for it
