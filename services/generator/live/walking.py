"""A live session: what its client says is done in order, and what comes of it is told to whoever is joined."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from services.generator.config import LiveConfig
from services.generator.drawing import Draft
from services.generator.live import messages
from services.generator.live.inbox import Changing, Holding, Inbox, Moving, Showing, Told
from services.generator.live.metrics import Metrics
from services.generator.live.news import News
from services.generator.live.outbox import Outbox
from services.generator.live.pace import Pace
from services.generator.live.pictures import decoded, encoded
from services.generator.live.resident import Resident
from services.generator.live.sent import Sent
from services.generator.live.watching import Watchers
from services.generator.session import Session
from worldkv.errors import Conflict, NotFound, OverBudget, Unavailable, WorldKVError
from worldkv.select import Likeness, likenesses
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import watch_id

_log = logging.getLogger(__name__)


class Walking:
    """The life of one session in this process, in a task of its own.

    lock    is held while a chunk is drawn: whoever changes the session otherwise takes it
    outbox  of the connection that is joined, if any
    watch   its id for those who watch
    watchers  who are told the same, and have no effect
    ended   why nothing more comes of it here: it was closed, or is somebody else's; None: it lives
    walked  when it drew its last chunk, or was opened
    active  when it last did something, or was told something

    While nobody is joined the moves that were taken are drawn, and nothing else is.
    """

    def __init__(self, resident: Resident, config: LiveConfig, metrics: Metrics) -> None:
        self.resident, self.config, self.metrics = resident, config, metrics
        self.lock = asyncio.Lock()
        self.outbox: Outbox | None = None
        self.watch, self.watchers = watch_id(resident.id), Watchers(config)
        self.ended: WorldKVError | None = None
        self.walked = self.active = monotonic()
        self._inbox = Inbox(config.moves, resident.record.numbers)
        self._held: Holding | None = None
        self._changing = 0  # number of the change that is being made
        self._tour = resident.maker.tour(resident.record)
        self._sent = Sent(config.resend_bytes)
        self._pace = Pace(resident.maker.playing_seconds)
        self._news = News(resident, self._emit)
        record, lineage = resident.record, resident.world.lineage
        self._judge = resident.maker.judge(resident.tenant, record, lineage, self._emit)
        self._wake = asyncio.Event()
        self._news.follow()
        self.task = asyncio.create_task(self._live(), name=f"session {resident.id}")

    @property
    def idle(self) -> bool:
        """Whether it does nothing until somebody says something."""
        return self._rest() != 0.0 and (self._held is None or self.outbox is None) and not self.lock.locked()

    def join(self, joined: pb.OpenResponse, seen: int) -> Outbox:
        """A client takes the session over; of chunks that it has not seen it gets those that are at hand."""
        if self.outbox is not None:
            self.outbox.end(Conflict(f"another client has joined session {self.resident.id}"), at_once=True)
        self.outbox = Outbox(self.config.behind_bytes, self.config.behind, self._wake.set)
        for message in self._greeting(joined, seen):
            self.outbox.put(message)
        self._stir()
        return self.outbox

    def join_watching(self, joined: pb.OpenResponse, seen: int) -> Outbox:
        """One more watches, under its own id; see `Watchers`. Raises OverBudget if there are as many as may."""
        joined.session = self.watch
        return self.watchers.join(self._greeting(joined, seen))

    def leave(self, outbox: Outbox) -> None:
        """A connection has ended; the session goes on."""
        self.metrics.pictures_dropped(outbox.dropped)
        self.watchers.leave(outbox)
        if self.outbox is outbox:
            self.outbox = None
            self._stir()

    def tell(self, told: Told) -> None:
        """Take something that is to be done. Raises OverBudget if too much waits."""
        if self.ended is not None:
            raise self.ended
        if not self._inbox.put(told) and isinstance(told, Changing):
            self._answer_again(told)
        self._stir()

    def finish(self, outbox: Outbox) -> None:
        """Its client says nothing more: the connection ends when what it was told is done."""
        outbox.closing = True
        self._wake.set()

    def taken_back(self, at: int) -> None:
        """The session stands before chunk `at`, or may do so: what was planned, and what came after, is no more.

        If something waited, its connection ends, for it is not answered there: whoever still wants it says it again.
        """
        waited = len(self._inbox)
        self._plan_nothing()
        if waited:
            self._end_connection(Unavailable(f"session {self.resident.id} was taken back: join it again"))
        self.watchers.end(Unavailable("the session that is watched was taken back: watch it again"))
        self._tour = []
        self._pace.hurry(0.0)
        if self._judge is not None:
            self._judge.taken_back(at)
        self._sent.keep(lambda key: key.index < at)
        self._news.follow()
        self._stir()

    async def suspend(self) -> None:
        """Let go of all memory, under the lock. Raises Unavailable if not everything can be kept now."""
        if self.resident.session is not None:
            self.resident.record = replace(self.resident.record, numbers=self._inbox.numbers)
            try:
                await self.resident.sleep()
            finally:
                self.end_if_refused()
            self._sent.rest()
            self.metrics.suspended()

    async def leave_off(self, error: WorldKVError) -> None:
        """Suspend, under the lock, whatever was planned: whoever is joined gets this error once the state is saved, and
        may say again elsewhere what has not been done. Raises what `suspend` does, in the end."""
        self._plan_nothing()
        try:
            await self.suspend()
        finally:
            self._plan_nothing()
            self._end_connection(error)
            self.watchers.end(Unavailable("the session that is watched sleeps, or goes on elsewhere: watch it again"))

    def end(self, why: WorldKVError, well: bool = False) -> None:
        """Nothing more comes of this session here; if it ended well, its connection ends without an error."""
        if self.ended is None:
            self.ended = why
            if self._judge is not None:
                self._judge.close()
            self._end_connection(None if well else why)
            self.watchers.end(None if well else Unavailable("the session that is watched has ended here"))
            self._wake.set()

    def end_if_refused(self) -> None:
        """A chunk that will never be kept ends the session here: it could not be suspended or closed any more.

        It can be resumed after its last chunk that was kept.
        """
        if self.resident.refused is not None:
            self.end(self.resident.refused)

    def counts(self) -> pb.RecallCounts:
        """How memory has served the session so far."""
        memory, before = self.resident.memory, self.resident.counts
        return messages.counts(memory.stats, before) if memory else before

    @property
    def _touring(self) -> bool:
        return self.resident.next < len(self._tour)

    @property
    def _holds(self) -> bool:
        """Whether it walks by itself: something is held, and somebody is there who takes what is drawn."""
        return self._held is not None and self.outbox is not None and not self.outbox.full

    @property
    def _session(self) -> Session:
        assert self.resident.session is not None, "a session is awake when it draws"
        return self.resident.session

    def _answer_again(self, told: Changing) -> None:
        """A change was made before, and whoever asked for it may not have been told."""
        if told.number != self._changing and not self._inbox.waits(told.number):
            self._emit(messages.applied(told.number, self.resident.next))

    def _plan_nothing(self) -> None:
        """Drop what waits and what is held; both may be said again."""
        self._inbox.clear()
        if self._held is not None:
            self._inbox.refuse(self._held)
            self._held = None

    def _greeting(self, joined: pb.OpenResponse, seen: int) -> list[pb.WalkResponse]:
        """What whoever joins is told first: the session, what is at hand of chunks not seen, how far it is safe."""
        return [pb.WalkResponse(joined=joined), *self._sent.since(seen), self._news.remembered()]

    def _stir(self) -> None:
        self.active = monotonic()
        self._wake.set()

    def _end_connection(self, error: WorldKVError | None = None) -> None:
        if self.outbox is not None:
            self.outbox.end(error)
            self.outbox = None

    def _rest(self) -> float | None:
        """Seconds until there is something to do, if nobody says anything; None: for ever."""
        now = monotonic()
        if len(self._inbox) or (self._touring and self.outbox):
            return 0.0
        if self._holds:
            return max(0.0, self._pace.due - now)
        if self.resident.session is not None:
            return max(0.0, self.active + self.config.idle_seconds - now)
        return None

    async def _live(self) -> None:
        while self.ended is None:
            self._wake.clear()
            if self.outbox and self.outbox.closing and self.idle:
                self._end_connection()
            rest = self._rest()
            if rest is None or rest > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await self._wake.wait()
                continue
            await self._pause()
            async with self.lock:
                if self.ended is None and self._rest() == 0:
                    await self._go_on()

    async def _pause(self) -> None:
        """Wait while too much of the world is not kept yet."""
        memory = self.resident.memory
        if memory is None or memory.unkept < memory.config.most_unkept:
            return
        words = f"{memory.unkept} chunks are not kept yet"
        self._emit(messages.notice(pb.NOTICE_KIND_PAUSED, self.resident.next, words))
        await memory.paused()
        self._emit(messages.notice(pb.NOTICE_KIND_RESUMED, self.resident.next))

    async def _go_on(self) -> None:
        """Do what is next, under the lock.

        What cannot be done ends the connection and leaves the session as it was. What waits behind it is dropped, and
        may be said again in order.
        """
        told: Told | None = None
        try:
            if self._touring and self.outbox and not isinstance(self._inbox.first, Changing):
                await self._draw(await self._tour_chunk(), by_client=False)
            elif len(self._inbox):
                told = self._inbox.take()
                if isinstance(told, Holding):
                    self._held = told if told.action is not None else None
                    self._pace.hurry(monotonic())  # its effect is waited for
                    self._emit(messages.applied(told.number, self.resident.next))
                elif isinstance(told, Changing):
                    await self._change(told)
                else:
                    if isinstance(told, Moving):
                        self._held = None
                    await self._draw(told, by_client=True)
            elif self._holds and self._held is not None and self._held.action is not None:
                await self._draw(Moving((self._held.action,)), by_client=False)
            else:
                await self._fall_asleep()
        except WorldKVError as error:
            _log.info("session %s: %s", self.resident.id, error)
            if told is not None:
                self._inbox.refuse(told)
            self._plan_nothing()  # what was said after it is not to be drawn before it
            self._end_connection(self.resident.owner.gone or error)
            self.active = monotonic()
            self.end_if_refused()

    async def _change(self, told: Changing) -> None:
        """Remember otherwise from the next chunk on. What is refused changes nothing, and may be said again."""
        self._changing = told.number
        try:
            with suppress(OverBudget):  # if it needs too much as it is, it is told before it wakes
                await self.awake()
            await self.resident.configure(told.change, told.number)
        except WorldKVError as error:
            self._inbox.refuse(told)
            self._emit(messages.refused(told.number, error))
        else:
            self._emit(messages.applied(told.number, self.resident.next))
        finally:
            self._changing = 0

    async def _fall_asleep(self) -> None:
        try:
            await self.suspend()
        except Conflict:
            self.end(Unavailable(f"session {self.resident.id} has gone on elsewhere: join it again"))
        except WorldKVError as error:
            _log.warning("session %s stays awake: %s", self.resident.id, error)
            self.active = monotonic()

    async def awake(self) -> Session:
        """The session, under the lock; it wakes if it sleeps. Raises what `Resident.wake` does."""
        if self.resident.session is None:
            try:
                await self.resident.wake()
            except (Conflict, NotFound) as error:
                self.end(error)
                raise
            self.metrics.woken()
            self._sent.keep(self.resident.world.lineage.covers)  # it may have gone on elsewhere, from before it slept
            self._news.follow()
        return self._session

    async def _tour_chunk(self) -> Showing:
        """The next chunk of the tour, from its true pictures."""
        walkers = self._tour[self.resident.next]
        place = self.resident.maker.scene(self.resident.record.scene)
        assert place.pictures is not None, "a tour is looked at before it begins"
        return Showing(await asyncio.to_thread(place.pictures, walkers), walkers)

    async def _draw(self, told: Moving | Showing, by_client: bool) -> None:
        """Draw a chunk, and tell whoever is joined."""
        session, maker, began = await self.awake(), self.resident.maker, monotonic()
        if self.resident.refused is not None:
            raise self.resident.refused
        unanswered = self._unanswered()
        draft = await self._begun(session, told)
        try:
            self._news.recall(self._unanswered() > unanswered, draft.index)
            if by_client:
                self._emit(messages.applied(told.number, draft.index))
            waits = monotonic()
            drawn, alike = await asyncio.gather(  # what is shown of recall is made while the model draws
                maker.engine.draw(self.resident.id, draft, self._pace.until),
                asyncio.to_thread(_alike, session, draft),
            )
            came = monotonic()
            # While its chunk is on its way to be kept the pictures are coded.
            step, pictures = await asyncio.gather(
                session.end(draft, drawn),
                asyncio.to_thread(encoded, drawn.pictures, self.resident.record.format, self.config.jpeg_quality),
            )
        finally:
            session.abandon(draft)
        now = monotonic()
        turn = max(0.0, came - waits - drawn.window_seconds - drawn.model_seconds)
        coding = max(0.0, now - came - step.seconds.keep)
        self.walked = self.active = now
        self._pace.drawn(now, now - began)
        key = session.lineage.key(step.index)
        seconds = now - told.since
        self._emit(
            messages.drawn(
                key, step, alike, session.walker, told.number, pictures, seconds, turn, coding, self.counts()
            )
        )
        shown = isinstance(told, Showing)
        self.metrics.drawn("shown" if shown else "generated", seconds, step.seconds.recall)
        if self._judge is not None:
            self._judge.drawn(key, step.poses, step.pictures, shown)
        self._news.drawn(step.index)

    async def _begun(self, session: Session, told: Moving | Showing) -> Draft:
        if isinstance(told, Moving):
            return await session.begin(told.actions if len(told.actions) > 1 else told.actions[0])
        pictures = told.pictures
        if isinstance(pictures, tuple):
            maker = self.resident.maker
            pictures = await asyncio.to_thread(decoded, pictures, maker.height, maker.width)
        return await session.begin_shown(pictures, told.walkers)

    def _unanswered(self) -> int:
        """Recalls that nobody answered, since the memory was made."""
        memory = self.resident.memory
        return memory.stats.unanswered if memory else 0

    def _emit(self, message: pb.WalkResponse) -> None:
        if message.HasField("drawn"):
            self._sent.add(message)
        if self.outbox is not None:
            self.outbox.put(message)
            if self.outbox.unread:
                self.outbox.end(OverBudget("too much waits that is not read: join again"), at_once=True)
                self.outbox = None
        self.watchers.put(message)


def _alike(session: Session, draft: Draft) -> list[Likeness]:
    """What was recalled, beside the view that it was recalled for."""
    return likenesses(session.view(draft.conditioning.poses), [each.hit.poses for each in draft.recalled])
