"""What was put counts as kept when the world is known to be nobody else's."""

import asyncio

import pytest

from tests.remembering import down, memory_of, remember, tasks
from tests.unit.test_memory_keeping import behind
from worldkv.errors import Conflict, DeadlineExceeded
from worldkv.memory import Kept, keeping
from worldkv.store import Level


async def test_what_was_put_is_kept_once_the_world_is_known_to_be_ours_and_no_step_waits_for_that() -> None:
    memory, known, asked = behind(keep_seconds=20.0, most_unkept=1), asyncio.Event(), list[int]()

    async def ours() -> None:
        asked.append(memory.kept.end)
        await known.wait()

    memory._keeper.ours = ours
    await remember(memory, 0, 1, 2)
    await memory.paused()
    assert (memory.unkept, memory.kept.end) == (0, 0)
    settling = asyncio.create_task(memory.settle())
    await asyncio.sleep(0.01)
    assert not settling.done()
    known.set()
    await settling
    assert memory.kept == Kept(3, Level.ONE)
    assert asked == [0, 1], "one question for all that came meanwhile"
    assert tasks() == set()


async def test_a_walk_pauses_when_nobody_says_for_long_whose_its_world_is(monkeypatch) -> None:
    monkeypatch.setattr(keeping, "UNASKED", 2)
    memory, known = behind(keep_seconds=20.0, most_unkept=2), asyncio.Event()

    async def ours() -> None:
        await known.wait()

    memory._keeper.ours = ours
    await remember(memory, 0, 1, 2)
    await memory.paused()
    await remember(memory, 3)
    assert memory.unkept == 2
    pausing = asyncio.create_task(memory.paused())
    await asyncio.sleep(0.01)
    assert not pausing.done()
    known.set()
    await pausing
    await memory.settle()
    assert (memory.unkept, memory.kept.end) == (0, 4)


async def test_whether_a_world_is_ours_is_asked_again_until_somebody_knows() -> None:
    memory, answers = behind(), [down(), DeadlineExceeded("slow")]

    async def ours() -> None:
        if answers:
            raise answers.pop()

    memory._keeper.ours = ours
    await remember(memory, 0, 1)
    await memory.settle()
    assert (memory.kept.end, memory.refused, answers) == (2, None, [])


@pytest.mark.parametrize("lockstep", [False, True])
async def test_nothing_that_is_put_into_a_world_that_was_taken_over_counts_as_kept(lockstep: bool) -> None:
    memory = memory_of() if lockstep else behind()
    await remember(memory, 0)
    await memory.settle()

    async def ours() -> None:
        raise Conflict("taken over")

    memory._keeper.ours = ours
    if lockstep:
        with pytest.raises(Conflict, match="taken over"):
            await remember(memory, 1)
    else:
        await remember(memory, 1, 2)
        await memory.settle()
        assert isinstance(memory.refused, Conflict)
    assert memory.kept == Kept(1, Level.ONE)
    await memory.close()
    assert tasks() == set()
