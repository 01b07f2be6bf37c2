"""The engine: sessions wait in it for their chunk, and one thread runs the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, TypeVar

from services.generator.drawing import Draft, Drawn
from services.generator.engine.admission import Admission, needs
from services.generator.engine.config import EngineConfig
from services.generator.engine.rows import Easel
from services.generator.engine.scheduling import Batch, Means, Schedule
from services.generator.session import SessionConfig
from services.generator.world_model import WorldModel
from worldkv.coding import Coding
from worldkv.errors import Unavailable

T = TypeVar("T")


@dataclass
class EngineStats:
    """Counts since the engine was made.

    passes   of the model over a batch
    steps    chunks that were drawn
    batched  of these, drawn together with other sessions'
    failed   chunks that were not drawn because the model failed
    """

    passes: int = 0
    steps: int = 0
    batched: int = 0
    failed: int = 0


class _Waiting(NamedTuple):
    draft: Draft
    drawn: asyncio.Future[Drawn]


class Engine:
    """Draws chunks for many sessions with one model; used in one event loop, which goes on while the model computes.

    clock    seconds, monotonic
    at_hand  bytes of the model's device that chunks at hand take, of each session: see `Memory`

    An owner is whatever names a session here. `async with` closes it; a closed engine draws nothing.
    """

    def __init__(
        self,
        model: WorldModel,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        at_hand: int = 0,
    ) -> None:
        self.model, self.config, self.clock = model, config or EngineConfig(), clock
        self.stats = EngineStats()
        self._schedule = Schedule(self.config)
        self._admission = Admission(model.spec, self.config, model.state_bytes + at_hand, model.drawing_bytes)
        self._means = Means()
        self._easel = Easel(model, self.config.rows)
        self._thread = ThreadPoolExecutor(1, "model")
        self._waiting: dict[Hashable, _Waiting] = {}
        self._drawing: asyncio.Task[None] | None = None
        self._worked = 0.0  # seconds that the batch took that is being drawn
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def step_seconds(self) -> float:
        """Expected time of a step of a whole batch; 0: nothing was generated yet."""
        return self._means.of(self.config.batch)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the model's device that are taken, or promised to sessions that were admitted."""
        return max(self._admission.nbytes, self._easel.nbytes)

    @property
    def room(self) -> int:
        """How many more sessions like the one that came last would be admitted now."""
        wanted = self._admission.latest or needs(self.model.spec, SessionConfig(), Coding())
        return self._admission.room(wanted, self.step_seconds)

    def admit(self, owner: Hashable, config: SessionConfig, coding: Coding | None = None) -> None:
        """Let a session in, before it draws its first chunk; `forget` lets it out.

        coding  of its chunks: how many tokens are left decides about the slots of its window

        Raises OverBudget, in words and numbers, where it would leave too little room or time for everybody.
        """
        self._admission.admit(owner, needs(self.model.spec, config, coding or Coding()), self.step_seconds)

    def change(self, owner: Hashable, config: SessionConfig, coding: Coding, chunks: int) -> None:
        """A session that was let in walks like this from its next chunk on; `chunks`: of its world so far.

        Raises OverBudget as `admit` does: then nothing has changed.
        """
        self._admission.change(owner, needs(self.model.spec, config, coding, chunks), self.step_seconds)
        self._thread.submit(self._easel.forget, owner)  # its row, or its own window, was of another shape

    async def draw(self, owner: Hashable, draft: Draft, due: float) -> Drawn:
        """Draw a session's chunk when its turn has come.

        due  when its viewer runs out of pictures, on the engine's clock: who is to run out first is drawn first

        Raises what the model raises, Conflict while the owner waits for another chunk, OverBudget for a window that
        has grown too large, Unavailable from a closed engine. Cancelled while it waits it is not drawn; cancelled later
        it is drawn for nothing.
        """
        if self._closed:
            raise Unavailable("the engine is closed")
        if draft.shape.grows:
            self._admission.grow(owner, draft.shape.sizes)
        self._schedule.add(owner, draft.shape, due, self.clock())
        waiting = self._waiting[owner] = _Waiting(draft, asyncio.get_running_loop().create_future())
        self._go_on()
        try:
            return await waiting.drawn
        finally:
            if self._waiting.get(owner) is waiting:
                del self._waiting[owner]
                self._schedule.cancel(owner)

    async def run(self, call: Callable[[], T]) -> T:
        """Do something else with the model, such as making a chunk again, in its thread and between two batches."""
        if self._closed:
            raise Unavailable("the engine is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def forget(self, owner: Hashable) -> None:
        """A session has gone: its row is free, and so is its place. If it waits for a chunk it gets Unavailable."""
        self._admission.release(owner)
        self._schedule.forget(owner)
        if waiting := self._waiting.pop(owner, None):
            _refuse(waiting, f"session {owner!r} has gone")
        if not self._closed:
            self._thread.submit(self._easel.forget, owner)

    async def close(self) -> None:
        """Draw what is being drawn, and nothing more: whoever still waits gets Unavailable."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for waiting in self._waiting.values():
            _refuse(waiting, "the engine is closed")
        if self._drawing:
            await asyncio.wait([self._drawing])
        await asyncio.to_thread(self._thread.shutdown)

    def _go_on(self) -> None:
        """Have the next batch drawn, if the model is free and somebody waits."""
        if self._drawing or self._closed:
            return
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = self.clock()
        match self._schedule.next(now):
            case Batch() as batch:
                self._drawing = asyncio.create_task(self._draw(batch))
            case float(until):
                self._timer = asyncio.get_running_loop().call_later(until - now, self._go_on)

    async def _draw(self, batch: Batch) -> None:
        taken = [self._waiting.pop(owner) for owner in batch.owners]
        self._worked = 0.0
        results = await self._attempt(batch.owners, [waiting.draft for waiting in taken])
        now, drawn = self.clock(), sum(isinstance(each, Drawn) for each in results)
        if drawn == len(taken):
            if not batch.shape.shown:  # what is shown takes a part of a step
                self._means.add(drawn, self._worked)
            self._schedule.answered(batch, self._worked, now)
        else:
            self._schedule.failed(now)
        self.stats.passes += 1
        self.stats.steps += drawn
        self.stats.batched += drawn if len(taken) > 1 else 0
        self.stats.failed += len(taken) - drawn
        for waiting, result in zip(taken, results, strict=True):
            if waiting.drawn.done():  # cancelled meanwhile
                continue
            if isinstance(result, Drawn):
                waiting.drawn.set_result(result)
            else:
                waiting.drawn.set_exception(result)
        self._drawing = None
        self._go_on()

    async def _attempt(self, owners: Sequence[Hashable], drafts: Sequence[Draft]) -> list[Drawn | BaseException]:
        """What was drawn, or why not: if a batch fails, each of it is tried by itself."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._work, owners, drafts)
        await asyncio.wait([running])
        error = running.exception()
        if error is None:
            return [*running.result()]
        if len(owners) == 1:
            return [error]
        by_one = [await self._attempt([owner], [draft]) for owner, draft in zip(owners, drafts, strict=True)]
        return [result for (result,) in by_one]

    def _work(self, owners: Sequence[Hashable], drafts: Sequence[Draft]) -> list[Drawn]:
        """Draw, in the model's thread: waiting until it is done with something else is no part of a step."""
        began = self.clock()
        try:
            return self._easel.draw(owners, drafts)
        finally:
            self._worked += self.clock() - began


def _refuse(waiting: _Waiting, why: str) -> None:
    if not waiting.drawn.done():
        waiting.drawn.set_exception(Unavailable(why))
