"""Room that frames are put into for shards: as much as there may be, and nobody else's while it is written."""

import asyncio
import os
import threading
from contextlib import contextmanager

import pytest

from worldkv.client.staging import Stages
from worldkv.format import Frame, join
from worldkv.shared import Staging, copy_checked

SIZE = 2 << 20
"""Bytes of a frame that a thread copies."""


def frame(fill: int, size: int = SIZE) -> Frame:
    return Frame.of(bytes([fill]) * size)


class Gate:
    """Lets work begin or end in a thread when the test says so."""

    def __init__(self) -> None:
        self.reached, self.may = threading.Event(), threading.Event()

    def passed(self) -> None:
        self.reached.set()
        assert self.may.wait(30)


async def holding(stages: Stages, given: Frame, leave: asyncio.Event) -> bytes | None:
    """What lies in shared memory when `leave` is set."""
    async with stages.filled(given) as filled:
        await leave.wait()
        return None if filled is None else bytes(filled.staged.views[0])


async def cancelled(task: asyncio.Task[bytes | None], gate: Gate) -> None:
    """Cancel a task whose thread is at the gate, before it passes."""
    assert await asyncio.to_thread(gate.reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def made(monkeypatch, gate):
    """The segments that are made, each when its thread has passed the gate."""
    seen: list[Staging] = []

    def make(room: int) -> Staging:
        gate.passed()
        seen.append(Staging(room, "worldkv-test-staging"))
        return seen[-1]

    monkeypatch.setattr("worldkv.client.staging.Staging", make)
    yield seen
    assert [each.name for each in seen if each.name in os.listdir("/dev/shm")] == []


@pytest.fixture
def gate():
    return Gate()


async def test_a_segment_that_nobody_waits_for_any_more_is_used_by_the_next(made, gate):
    stages, leave = Stages(64 << 20), asyncio.Event()
    task = asyncio.create_task(holding(stages, frame(1), leave))
    await cancelled(task, gate)
    leave.set()
    others = [asyncio.create_task(holding(stages, frame(n), leave)) for n in range(4)]
    gate.may.set()
    assert await asyncio.gather(*others) == [join(frame(n)) for n in range(4)]
    assert len(made) == 1
    await stages.close()


async def test_a_segment_that_is_made_while_all_are_removed_is_removed(made, gate):
    stages = Stages(64 << 20)
    await cancelled(asyncio.create_task(holding(stages, frame(1), asyncio.Event())), gate)
    closing = asyncio.create_task(stages.close())
    await asyncio.sleep(0)
    gate.may.set()
    await closing
    assert len(made) == 1


@pytest.mark.parametrize("closed", [False, True])
async def test_room_is_nobody_elses_while_a_thread_writes_into_it(made, gate, monkeypatch, closed):
    def slowly(*given, **more):
        gate.passed()
        return copy_checked(*given, **more)

    stages, leave = Stages(SIZE), asyncio.Event()
    leave.set()
    gate.may.set()
    assert await holding(stages, frame(0), leave) == join(frame(0))
    gate.reached.clear()
    gate.may.clear()
    monkeypatch.setattr("worldkv.client.staging.copy_checked", slowly)
    await cancelled(asyncio.create_task(holding(stages, frame(1), leave)), gate)
    monkeypatch.setattr("worldkv.client.staging.copy_checked", copy_checked)
    if closed:
        await stages.close()
        gate.may.set()
        return
    other = asyncio.create_task(holding(stages, frame(2), leave))
    await asyncio.sleep(0.1)
    assert not other.done()
    gate.may.set()
    assert await other == join(frame(2))
    await stages.close()


async def test_copying_is_busy_and_waiting_for_room_is_not(made, gate):
    gate.may.set()
    stages, entered, left = Stages(SIZE), [], []

    @contextmanager
    def busy():
        entered.append(1)
        yield
        left.append(1)

    async def second() -> bool:
        async with stages.filled(frame(2), busy) as filled:
            return filled is not None

    async with stages.filled(frame(1), busy):
        before = len(entered)
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert len(entered) == len(left) == before > 0
    assert await waiting
    assert len(entered) == len(left) > before
    await stages.close()
