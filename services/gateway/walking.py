"""One walk: messages of a client to the generator of its session, and back, also when that generator is lost.

    client ──► Unanswered ──► generator       what has had no effect is kept, and sent again elsewhere
    client ◄── translated ◄── generator       nothing is read while the client has not taken what was read before

Nothing waits here but what `Unanswered` holds, which is bounded: who is slow on one side is waited for on the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

from grpc import aio

from services.gateway.generators import Generator
from services.gateway.routing import Place, Router, Walked
from services.gateway.unanswered import Missed, Unanswered, theirs
from services.gateway.watching import Watch
from worldkv import wire
from worldkv.chunk import Branch, Lineage
from worldkv.client.policy import Deadline
from worldkv.errors import Conflict, DeadlineExceeded, InvalidInput, OverBudget, Unavailable
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb
from worldkv.worlds import shared

_log = logging.getLogger(__name__)

Answers = AsyncGenerator[pb.WalkResponse, None]

RETRY_SECONDS = 0.2
"""Between two looks for a generator that takes a walk over."""


async def walk(router: Router, tenant: str, requests: AsyncIterator[pb.WalkRequest]) -> Answers:
    """Answers to a client's messages, the first of which joins a session, for as long as both sides want. One who joins
    to watch is told all the same, and has no effect.

    Raises what the session's generator raises, InvalidInput for messages out of place, Unavailable if the generator is
    lost and no other takes the session over in time, or if this gateway ends.
    """
    first = await anext(requests, None)
    if first is None or not first.join.session:
        raise InvalidInput("a walk begins with a join that names a session")
    watches, metrics = first.join.watch, router.metrics
    one = Watch(router, tenant, first.join) if watches else _Walk(router, tenant, first.join)
    with (metrics.watchers if watches else metrics.walks).track_inprogress():
        async with aclosing(one.answers(requests)) as answers:
            ending = asyncio.create_task(router.end())
            try:
                while (answer := await _next(answers, ending)) is not None:
                    yield answer
            finally:
                ending.cancel()


class _Walk:
    """A walk of one client, through all generators that its session comes to.

    seen  chunks that the client was given, or has not asked for
    """

    def __init__(self, router: Router, tenant: str, join: pb.Join) -> None:
        self.router, self.tenant, self.session, self.seen = router, tenant, join.session, join.seen
        self._unanswered = Unanswered(router.config.most_unanswered, router.config.unanswered_bytes)
        self._taken, self._answered = asyncio.Event(), asyncio.Event()
        self._ended = False  # the client says no more
        self._lineage: Lineage | None = None  # of its world, as far as the client knows
        self._left: set[Branch] = set()  # that it was written to before, and is not any more
        self._patience: Deadline | None = None  # since it was lost, and nothing came of it
        self._stands = monotonic()  # since when

    async def answers(self, requests: AsyncIterator[pb.WalkRequest]) -> Answers:
        place = await self._settle(Deadline(self.router.config.deadline_seconds))
        taking = asyncio.create_task(self._take(requests))
        try:
            while True:
                try:
                    async with aclosing(self._on(place, taking)) as answers:
                        async for answer in answers:
                            yield answer
                    return
                except Unavailable as error:
                    lost = error
                _log.warning("session %s loses generator %s: %s", self.session, place.generator.name, lost)
                place = await self._elsewhere(place.generator, lost)
        finally:
            taking.cancel()

    async def _take(self, requests: AsyncIterator[pb.WalkRequest]) -> None:
        """Take what the client says, while there is room for it."""
        async for request in requests:
            while self._unanswered.full:
                self._answered.clear()
                await self._answered.wait()
            self._unanswered.take(request)
            self._taken.set()
        self._ended = True
        self._taken.set()

    async def _tell(self, call: Any, seen: int, joined: asyncio.Event) -> None:
        """Join, then send all that has no answer, and what comes."""
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # the call is over: who reads it is told why
            await call.write(pb.WalkRequest(join=pb.Join(session=self.session, seen=seen)))
            await joined.wait()
            while True:
                if (request := self._unanswered.send()) is not None:
                    await call.write(request)
                elif self._ended:
                    await call.done_writing()
                    return
                else:
                    self._taken.clear()
                    await self._taken.wait()

    async def _on(self, place: Place, taking: asyncio.Task[None]) -> Answers:
        """The walk on one generator, until it ends there. Raises Unavailable if the generator is lost."""
        generator, joined = place.generator, asyncio.Event()
        walked = Walked(generator, self._taken_back)
        with generator.calling(), self.router.walked(self.tenant, self.session, walked):
            call = generator.sessions.Walk(metadata=generator.metadata(self.tenant))
            seen = self.seen if place.resumed is None or self._lineage is None else place.resumed.next
            tasks = [asyncio.create_task(self._tell(call, seen, joined)), asyncio.create_task(generator.silent.wait())]
            try:
                while (answer := await _read(call, taking, tasks[1])) is not aio.EOF:
                    if answer is None:
                        raise Unavailable(f"generator {generator.name} gives no sign of life")
                    if answer.HasField("joined"):
                        for each in self._joined(answer, generator):
                            yield each
                        joined.set()
                        continue
                    if self._hear(answer):
                        yield answer
            finally:
                for task in tasks:
                    task.cancel()
                call.cancel()

    def _hear(self, answer: pb.WalkResponse) -> bool:
        """Take note of what the session says, and make it what the client is told; whether the client is told it."""
        if answer.HasField("drawn"):
            self._patience = None
            key = wire.chunk_of(answer.drawn.key)
            if self._lineage is not None and not self._lineage.covers(key):
                if key.branch in self._left:  # drawn before it was taken back, and on its way since
                    return False
                if key.index >= self._unanswered.next:  # a session that slept wakes on another branch
                    self._leave()
                    self._lineage = self._lineage.fork(key.index, key.branch)
            self.seen = key.index + 1
        self._unanswered.answered(answer)
        self._answered.set()
        return True

    def _leave(self) -> None:
        """The session goes on on another branch."""
        if self._lineage is not None:
            self._left.add(self._lineage.head)

    def _joined(self, answer: pb.WalkResponse, generator: Generator) -> Iterator[pb.WalkResponse]:
        """What the client is told when the session is joined, the first time or elsewhere."""
        joined, before, self._stands = answer.joined, self._lineage, monotonic()
        lineage = self._lineage = wire.lineage_of(joined.world.lineage)
        if before is None:
            self._unanswered.next = joined.next
            yield answer
        elif (common := shared(before, lineage)) is None:
            self._unanswered.again()
        else:
            self._left.add(before.head)
            chunk = min(common, joined.next)
            text = f"the walk goes on from chunk {chunk} on {generator.name}"
            yield pb.WalkResponse(notice=pb.Notice(kind=pb.NOTICE_KIND_MOVED, chunk=chunk, text=text))
            # It may have been drawn on elsewhere meanwhile, and have come here from there.
            others = range(chunk, min(self._unanswered.next, joined.next))
            missed = [Missed(other, None) for other in others] + self._unanswered.moved(joined.next)
            self._answered.set()
            self.router.metrics.undelivered.inc(len(missed))
            for chunk, entry in missed:
                self._patience = None
                number = theirs(entry.number) if entry else 0
                if entry and entry.chunk is None:
                    yield pb.WalkResponse(applied=pb.Applied(number=number, chunk=chunk))
                key = wire.chunk_message(lineage.key(chunk))
                drawn = pb.Drawn(key=key, number=number, walker=joined.walker, pictures_dropped=True)
                yield pb.WalkResponse(drawn=drawn)
            self.seen = joined.next

    async def _elsewhere(self, was: Generator, lost: Unavailable) -> Place:
        """Where the walk goes on. Raises Unavailable if that is nowhere for too long, or if it is lost again and again
        at once: what it is told may be what ends its generators."""
        config, metrics, since = self.router.config, self.router.metrics, monotonic()
        if self._patience is None or since - self._stands > config.silent_seconds:
            self._patience = Deadline(config.failover_seconds)
        else:
            await asyncio.sleep(RETRY_SECONDS)
        why: Exception = lost
        while not self._patience.passed:
            try:
                async with asyncio.timeout(self._patience.remaining):
                    place = await self._settle(self._patience)
            except (Unavailable, OverBudget, DeadlineExceeded, TimeoutError) as error:
                why = error
                await asyncio.sleep(RETRY_SECONDS)
                continue
            home = place.generator.resident(self.tenant, self.session)
            if place.resumed is None and place.generator is not was and home is not None and home.joined:
                raise Conflict(f"session {self.session} was taken over by another client")
            metrics.moved.inc()
            metrics.moved_seconds.observe(monotonic() - since)
            return place
        metrics.lost.inc()
        words = f"session {self.session} lost generator {was.name} ({lost})"
        raise Unavailable(f"{words}, and no other took it over within {config.failover_seconds:g} s: {why}") from why

    def _taken_back(self, world: chunk_pb2.World, next: int) -> None:
        """The session stands before chunk `next` again."""
        self._leave()
        self._lineage, self.seen = wire.lineage_of(world.lineage), next
        self._unanswered.taken_back(next)
        self._answered.set()

    async def _settle(self, deadline: Deadline) -> Place:
        root = self._lineage.root if self._lineage else None
        return await self.router.settle(self.tenant, self.session, deadline, root)


async def _next(answers: Answers, ending: asyncio.Task[None]) -> pb.WalkResponse | None:
    """The next answer, None after the last. Raises why this gateway ends, if it does."""
    reading = asyncio.ensure_future(anext(answers, None))
    try:
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            ending.result()
        return reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)  # only then its walk can be closed


async def _read(call: Any, taking: asyncio.Task[None], silent: asyncio.Task[Any]) -> Any:
    """The next answer, EOF at the end, None if the generator falls silent. Raises what the generator raises, and what
    is wrong with what the client says."""
    reading = asyncio.ensure_future(call.read())
    try:
        while not (reading.done() or silent.done()):
            if taking.done() and not taking.cancelled():
                taking.result()
            watched = {reading, silent} if taking.done() else {reading, silent, taking}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        reading.cancel()
