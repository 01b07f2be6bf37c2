"""One who watches is told what a session's walker is told, also when it sleeps or moves; nothing goes the other way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from services.gateway.generators import Generator
from services.gateway.reading import whereabouts
from services.gateway.routing import Router
from worldkv import wire
from worldkv.chunk import ChunkKey, Lineage
from worldkv.client.policy import Deadline
from worldkv.errors import InvalidInput, NotFound, Unavailable
from worldkv.v1 import sessions_pb2 as pb
from worldkv.worlds import shared

AGAIN_SECONDS = 0.5
"""Between two looks for a session that was lost."""


class Watch:
    """What one watcher is told of a session, through all generators that it comes to.

    watch  the session's id for watching
    seen   chunks that the watcher has, or has not asked for
    """

    def __init__(self, router: Router, tenant: str, join: pb.Join) -> None:
        self.router, self.tenant, self.watch, self.seen = router, tenant, join.session, join.seen
        self._lineage: Lineage | None = None
        self._patience: Deadline | None = None

    async def answers(self, requests: AsyncIterator[pb.WalkRequest]) -> AsyncGenerator[pb.WalkResponse, None]:
        """Raises NotFound for a session that nobody knows, Unavailable for one that is lost and not found again in
        time, OverBudget if too many watch it, InvalidInput once the watcher says anything."""
        speaking = asyncio.create_task(_refuse(requests))
        try:
            while True:
                try:
                    async with aclosing(self._told(speaking)) as answers:
                        async for answer in answers:
                            yield answer
                    return
                except (NotFound, Unavailable) as error:
                    await self._wait(error)
        finally:
            speaking.cancel()

    async def _told(self, speaking: asyncio.Task[None]) -> AsyncGenerator[pb.WalkResponse, None]:
        """What the session says where it lives now, until it leaves there."""
        failed: NotFound | None = None
        for generator in await whereabouts(self.router, self.tenant, self.watch):
            try:
                async with aclosing(self._on(generator, speaking)) as answers:
                    async for answer in answers:
                        yield answer
                return
            except NotFound as error:
                failed = error
        raise failed or Unavailable("no generator answers")

    async def _on(self, generator: Generator, speaking: asyncio.Task[None]) -> AsyncGenerator[pb.WalkResponse, None]:
        join = pb.Join(session=self.watch, seen=self.seen if self._lineage is None else 0, watch=True)
        told = generator.stream(generator.sessions.Walk, _alone(pb.WalkRequest(join=join)), self.tenant)
        async with aclosing(told) as answers:
            while (answer := await _next(answers, speaking)) is not None:
                if answer.HasField("joined"):
                    if (first := self._joined(answer, generator)) is not None:
                        yield first
                elif not answer.HasField("drawn"):
                    yield answer
                elif answer.drawn.key.index >= self.seen:
                    self._saw(wire.chunk_of(answer.drawn.key))
                    yield answer

    def _saw(self, key: ChunkKey) -> None:
        """A chunk is given to the watcher. A session that slept wakes on another branch."""
        self.seen = key.index + 1
        if self._lineage is not None and not self._lineage.covers(key):
            self._lineage = self._lineage.fork(key.index, key.branch)

    def _joined(self, answer: pb.WalkResponse, generator: Generator) -> pb.WalkResponse | None:
        """What the watcher is told when the session was found, the first time or again."""
        before, self._lineage = self._lineage, wire.lineage_of(answer.joined.world.lineage)
        self._patience = None
        if before is None:
            return answer
        common = shared(before, self._lineage)
        if common is None:
            return None
        self.seen = min(self.seen, common)
        text = f"the walk goes on from chunk {self.seen} on {generator.name}"
        return pb.WalkResponse(notice=pb.Notice(kind=pb.NOTICE_KIND_MOVED, chunk=self.seen, text=text))

    async def _wait(self, lost: NotFound | Unavailable) -> None:
        """Before looking for it again. Raises why it was lost, if it never was there or has been away for too long."""
        if self._lineage is None and self._patience is None and isinstance(lost, NotFound):
            raise lost
        self._patience = self._patience or Deadline(self.router.config.failover_seconds)
        if self._patience.passed:
            raise Unavailable(f"the session that is watched is not found again: {lost}") from lost
        await asyncio.sleep(AGAIN_SECONDS)


async def _refuse(requests: AsyncIterator[pb.WalkRequest]) -> None:
    async for request in requests:
        kind = request.WhichOneof("message") or "nothing"
        raise InvalidInput(f"who watches a session has no effect on it, got {kind}")


async def _alone(request: pb.WalkRequest) -> AsyncIterator[pb.WalkRequest]:
    yield request


async def _next(answers: AsyncGenerator[pb.WalkResponse, None], speaking: asyncio.Task[None]) -> pb.WalkResponse | None:
    """The next answer, None after the last. Raises what is wrong with what the watcher says."""
    reading = asyncio.ensure_future(anext(answers, None))
    try:
        while not reading.done():
            if speaking.done():
                speaking.result()
            await asyncio.wait({reading} if speaking.done() else {reading, speaking}, return_when="FIRST_COMPLETED")
        return reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
