"""Fetches ahead of the camera: they come before they are wanted, hold up no step, and push out nothing needed."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from tests.remembering import (
    SPEC,
    Held,
    Named,
    Toy,
    again,
    down,
    memory_of,
    numbers,
    query,
    recall,
    remember,
    tasks,
    until,
)
from worldkv.actions import Action
from worldkv.errors import DeadlineExceeded, SpecMismatch, WorldKVError
from worldkv.index import Hit
from worldkv.memory import Recalled
from worldkv.pose import camera
from worldkv.select import Query
from worldkv.store import PartKey

CHUNK = SPEC.raw_bytes
TURN = Action(turn=9.0)


async def walking(**config: object) -> Toy:
    """A memory of 12 chunks that fetches ahead, and has been asked once: it knows the lens."""
    memory = memory_of(**{"prefetch": True, **config})
    await remember(memory, *range(12))
    await recall(memory)
    return memory


async def ahead(memory: Toy, step: int, *names: int, recalled: tuple[Recalled, ...] = ()) -> None:
    """Chunk 12 + `step` is drawn, turning; the index names these chunks for what comes next."""
    memory.finder.names = list(names)
    poses = np.stack([camera(0, 0, 0, 27 * step + 9 * i) for i in range(3)])
    visible = np.stack([camera(0, 0, 0, 27 * step)])
    await memory.ahead(12 + step, poses, TURN, recalled, visible, {0, 12 + step})


async def test_what_will_be_recalled_is_at_hand_by_then() -> None:
    memory = await walking()
    await ahead(memory, 0, 3, 4)
    await until(lambda: not tasks())
    assert memory.store.asked_kv() == [3, 4]
    found = await recall(memory, 3, 4)
    assert memory.store.asked_kv() == []
    assert (numbers(found), memory.stats.at_hand) == ([3, 4], 2)
    await ahead(memory, 1, recalled=tuple(found))
    assert (memory.stats.ahead.requested, memory.stats.ahead.used) == (2, 2)
    await memory.close()


async def test_an_index_that_named_chunks_for_a_view_beforehand_is_not_asked_again() -> None:
    memory = await walking(recall_seconds=20.0)
    memory.finder.spares = [5, 6, 7, 8]
    await ahead(memory, 0, 3, 4)
    await until(lambda: not tasks())
    memory.finder.answers.clear()  # who asks now waits
    hits = memory._ahead.answer(view(0), 2, {12, 0}, 2)
    assert [(hit.key.index, hit.spare) for hit in hits] == [(3, False), (4, False), (5, True), (6, True)]
    found = await memory.recall(view(0), {0, 12}, again)
    assert numbers(found) == [3, 4]
    assert memory.stats.unanswered == 0
    memory.finder.answers.set()
    await memory.close()


@pytest.mark.parametrize("what", ["view", "window", "count", "selector", "later", "silent"])
async def test_an_index_is_asked_again_when_anything_is_other_than_was_foreseen(what: str) -> None:
    memory = await walking()
    if what == "silent":
        memory.finder.nearest, nearest = silent, memory.finder.nearest
    await ahead(memory, 0, 3, 4)
    await until(lambda: not tasks())
    if what == "silent":
        memory.finder.nearest = nearest
    if what == "later":
        await ahead(memory, 1, 3, 4)
    if what in ("count", "selector"):
        memory.configure(replace(memory.config, recalled=1 if what == "count" else 2))
    memory.finder.names = [9]
    found = await memory.recall(view(0, off=0.1 * (what == "view")), {0, 11 if what == "window" else 12}, again)
    assert numbers(found) == [9]
    await memory.close()


async def test_what_comes_after_it_was_forgotten_answers_nothing() -> None:
    memory = await walking(recall_seconds=20.0)
    memory.finder.answers.clear()
    await ahead(memory, 0, 3, 4)
    await asyncio.sleep(0.01)
    memory.configure(replace(memory.config, recalled=2))
    memory.finder.answers.set()
    await until(lambda: not tasks())
    memory.finder.names = [9]
    assert numbers(await memory.recall(view(0), {0, 12}, again)) == [9]
    await memory.close()


def view(step: int, off: float = 0.0) -> Query:
    """What chunk 13 + `step` sees if the camera goes on turning, or by so many degrees beside it."""
    poses = np.stack([camera(0, 0, 0, 27 * (step + 1) + 9 * i + off) for i in range(3)])
    return Query(poses, 1.1, 0.75, SPEC.view_range, np.stack([camera(0, 0, 0, 27 * step)]))


async def silent(*_: object) -> list[Hit]:
    raise down()


async def test_a_step_joins_a_fetch_that_is_still_under_way() -> None:
    memory = await walking()
    gate = memory.store.hold("get kv")
    await ahead(memory, 0, 3, 4)
    await until(lambda: len(memory.store.asked) == 2)
    step = asyncio.create_task(recall(memory, 3, 4))
    await asyncio.sleep(0)
    gate.set()
    found = await step
    assert memory.store.asked_kv() == [3, 4]
    await ahead(memory, 1, recalled=tuple(found))
    assert memory.stats.ahead.used == 2, "they have come by the time that the step tells of them"
    await memory.close()


async def test_neither_ahead_nor_the_next_step_waits_for_the_index() -> None:
    memory = await walking(recall_seconds=0.0)
    memory.finder.answers.clear()
    await ahead(memory, 0, 3)
    assert await recall(memory, 3) == []
    await ahead(memory, 1, 3)
    await ahead(memory, 2, 3)
    assert len(tasks()) < 10
    memory.finder.answers.set()
    await until(lambda: memory.lineage.key(3) in memory._hot)
    await memory.close()
    assert tasks() == set()


async def test_what_a_step_wants_goes_before_what_is_fetched_ahead() -> None:
    memory = await walking()
    gate = memory.store.hold("get kv")
    memory.finder.spares = [5, 6, 7]
    await ahead(memory, 0, 3, 4)
    await until(lambda: len(memory.store.asked) == 2)
    step = asyncio.create_task(recall(memory, 6, 8))
    await until(lambda: len(memory.store.asked) == 4)
    assert memory.store.asked_kv() == [3, 4, 6, 8]
    gate.set()
    await step
    await memory.close()


async def test_turning_back_gives_up_what_nobody_waits_for() -> None:
    memory = await walking(recall_seconds=0.0)
    gate = memory.store.hold("get kv")
    await ahead(memory, 0, 3, 4)
    await until(lambda: len(memory.store.asked) == 2)
    await recall(memory, 4)
    await ahead(memory, 1, 9)
    await until(lambda: memory.stats.ahead.cancelled == 2)
    gate.set()
    await until(lambda: memory.lineage.key(9) in memory._hot)
    await until(lambda: memory.lineage.key(4) in memory._hot)  # a step has asked for it
    assert memory.lineage.key(3) not in memory._hot
    await memory.close()
    assert tasks() == set()


async def test_guesses_push_out_neither_what_was_recalled_nor_what_will_be() -> None:
    memory = await walking(hot_bytes=4 * CHUNK)
    found = await recall(memory, 1, 2)
    memory.finder.spares = [6, 7, 8, 9]
    await ahead(memory, 0, 2, 3, recalled=tuple(found))
    await until(lambda: not tasks())
    assert {memory.lineage.key(i) for i in (1, 2, 3)} <= {*memory._hot}
    assert memory._hot.used_bytes <= 4 * CHUNK
    assert len(memory.store.asked_kv()) <= 2 + 2, "no more are fetched than there is room for"


async def test_what_the_next_step_needs_pushes_out_what_stands_in_the_window_already() -> None:
    memory = await walking(hot_bytes=2 * CHUNK)
    found = await recall(memory, 1, 2)
    memory.finder.spares = [6, 7]
    await ahead(memory, 0, 3, 4, recalled=tuple(found))
    await until(lambda: not tasks())
    assert {memory.lineage.key(i) for i in (3, 4)} == {*memory._hot}
    await memory.close()


async def test_without_room_nothing_is_fetched_ahead() -> None:
    memory = await walking(hot_bytes=0)
    await ahead(memory, 0, 3, 4)
    await until(lambda: not tasks())
    assert memory.store.asked == []


async def test_what_is_gone_is_not_fetched_again_and_what_failed_is() -> None:
    memory = await walking()
    await memory.store.delete([PartKey(memory.lineage.key(3), "kv")])
    await ahead(memory, 0, 3)
    await until(lambda: not tasks())
    memory.store.errors = {"get kv": down()}
    await ahead(memory, 1, 3, 4)
    await until(lambda: not tasks())
    memory.store.errors = {}
    await ahead(memory, 2, 3, 4)
    await until(lambda: not tasks())
    assert memory.store.asked_kv() == [3, 4, 4]
    assert (memory.stats.ahead.gone, memory.stats.ahead.failed) == (1, 1)


@pytest.mark.parametrize("error", [down(), DeadlineExceeded("slow"), SpecMismatch("another")])
async def test_an_index_that_does_not_answer_only_ends_the_looking_ahead(error: WorldKVError) -> None:
    class Silent(Named):
        async def nearest(self, *_: object) -> list[Hit]:
            raise error

    memory = await walking()
    memory.finder = memory._keeper.finder = Silent(memory.lineage)
    await ahead(memory, 0, 3)
    await until(lambda: not tasks())
    assert memory.store.asked == []


async def test_what_waits_to_be_kept_is_not_fetched() -> None:
    memory = await walking(queue_bytes=10 * CHUNK)
    await memory.settle()
    memory.store.hold("put kv")
    await remember(memory, 12)
    await ahead(memory, 1, 12, 3)
    await until(lambda: memory.lineage.key(3) in memory._hot)
    assert memory.store.asked_kv() == [3]
    await memory.close()


async def test_nothing_is_fetched_ahead_unless_told_so_or_before_the_lens_is_known() -> None:
    silent, fresh = memory_of(Held()), memory_of(prefetch=True)
    await remember(silent, 0, 1)
    await silent.recall(query(), (), lambda *_: None)
    for memory in (silent, fresh):
        await ahead(memory, 0, 0)
        assert tasks() == set()
