"""What is remembered while the store is slow, full or away: nothing immutable is lost, and no step waits for long."""

import asyncio
from collections.abc import Collection

import pytest
import torch

from tests.remembering import (
    RAW,
    SPEC,
    Held,
    Toy,
    down,
    kv_of,
    memory_of,
    numbers,
    part_of,
    recall,
    remember,
    same,
    tasks,
    until,
)
from worldkv.coding import KV, Coding
from worldkv.errors import Conflict, DeadlineExceeded, NonFinite, OverBudget, WorldKVError
from worldkv.format import Frame
from worldkv.memory import Kept, Memory
from worldkv.store import Level, Miss, PartKey
from worldkv.window import WindowConfig

CHUNK = SPEC.raw_bytes
ROOM = 100 * CHUNK


def behind(store: Held | None = None, **config: object) -> Toy:
    """A memory that puts everything behind the caller's back."""
    return memory_of(store, **{"keep_seconds": 0.0, "queue_bytes": ROOM, **config})


def listening(memory: Toy) -> list[Kept]:
    """What was kept each time that the memory had news."""
    heard: list[Kept] = []
    memory.listener = lambda: heard.append(memory.kept)
    return heard


async def test_a_step_does_not_wait_for_a_slow_store_and_what_it_drew_is_kept_later() -> None:
    memory = behind()
    gate, heard = memory.store.hold("put part"), listening(memory)
    await remember(memory, 0, 1)
    assert memory.unkept == 2
    assert memory.kept == Kept(0, Level.ONE)
    assert memory.finder.told == [(0, False), (1, False)], "the index is not told of what is not kept"
    gate.set()
    await memory.settle()
    assert memory.finder.told[2:] == [(0, True), (1, True)]
    assert memory.kept == heard[-1] == Kept(2, Level.ONE)
    assert memory.unkept == 0
    assert memory.store.put_keys.index(PartKey(memory.lineage.key(0), "part")) == 0
    assert memory.kv_bytes == 2 * CHUNK
    assert tasks() == set()


async def test_remember_waits_for_the_part_while_there_is_time() -> None:
    memory = behind(keep_seconds=20.0)
    memory.store.hold("put kv")
    await remember(memory, 0)
    assert memory.kept == Kept(1, Level.ONE)
    await until(lambda: memory.finder.told == [(0, False), (0, True)])
    await memory.close()
    assert tasks() == set()


async def test_an_index_that_does_not_answer_leaves_nothing_unkept_and_holds_up_no_put() -> None:
    memory = behind(budget_bytes=CHUNK, most_unkept=1)
    never = asyncio.Event()

    async def silent(*_: object, kept: bool = True) -> None:
        if kept:
            await never.wait()

    memory.finder.least_useful = memory.finder.add = silent
    await memory.remember(part_of(memory.lineage, 0), kv_of(0))
    await memory.remember(part_of(memory.lineage, 1), kv_of(1))
    await until(lambda: memory.kv_bytes == 2 * CHUNK)
    await memory.paused()
    assert (memory.unkept, memory.kept.end) == (0, 2)
    await memory.close()
    assert tasks() == set()


@pytest.mark.parametrize("error", [down(), DeadlineExceeded("slow"), OverBudget("full")])
async def test_a_part_that_the_store_does_not_take_is_put_again_until_it_does(error: WorldKVError) -> None:
    memory = behind()
    memory.store.errors = {"put part": error, "put kv": down()}
    await remember(memory, 0, 1, 2)
    await asyncio.sleep(10 * memory.config.retry_seconds)
    assert (memory.unkept, memory.kept.end) == (3, 0)
    memory.store.errors = {}
    await memory.settle()
    assert (memory.unkept, memory.kept.end) == (0, 3)
    assert memory.stats.dropped == 0
    assert memory.refused is None


async def test_a_chunk_is_found_and_recalled_before_it_is_kept() -> None:
    coding = Coding("int8", "int4")
    kept, memory = memory_of(coding=coding), behind(coding=coding)
    memory.store.hold("put kv")
    memory.store.hold("put part")
    for each in (kept, memory):
        await remember(each, *range(3))
    (now,), (later,) = await recall(memory, 1), await recall(kept, 1)
    assert same(now.entry, later.entry.kv), "as the store will have it, not as it was drawn"
    assert memory.store.asked == []
    assert memory.stats.at_hand == 1
    await memory.close()
    assert tasks() == set()


async def test_what_was_dropped_is_made_again_from_latents_that_are_not_kept_yet() -> None:
    memory = behind(queue_bytes=CHUNK - 1)
    memory.store.hold("put part")
    await remember(memory, *range(3))
    assert memory.stats.dropped == 3
    assert numbers(await recall(memory, 1)) == [1]
    assert (memory.stats.reencoded, memory.stats.missed) == (1, {Miss.NEVER_STORED: 1})
    assert memory.finder.removed == []
    await memory.close()


async def test_a_full_queue_drops_keys_and_values_and_nothing_else() -> None:
    memory = behind(queue_bytes=2 * CHUNK)
    gate = memory.store.hold("put kv")
    await remember(memory, *range(4))
    assert memory.stats.dropped == 2
    gate.set()
    await memory.settle()
    held = [(key.chunk.index, key.kind) async for key in memory.store.scan(memory.lineage.head)]
    assert held == [(0, "part"), (0, "kv"), (1, "part"), (1, "kv"), (2, "part"), (3, "part")]
    assert memory._queue.used_bytes == 0
    await remember(memory, 4)
    await memory.settle()
    assert memory.kv_bytes == 3 * CHUNK


async def test_what_had_not_begun_to_be_kept_is_given_up_too() -> None:
    memory = behind()
    assert memory._queue.add(memory.lineage.key(0), kv_of(0))
    await memory.close()
    assert [*memory._queue] == []
    assert memory._queue.used_bytes == 0
    await memory.settle()


async def test_what_is_coded_takes_less_room_in_the_queue() -> None:
    memory = behind(coding=Coding("int4", "int4"), queue_bytes=2 * CHUNK)
    gate = memory.store.hold("put kv")
    for index in range(1, 5):
        await remember(memory, index)
        await until(lambda: memory._queue.used_bytes < CHUNK)
    assert memory.stats.dropped == 0
    gate.set()
    await memory.settle()


async def test_a_session_pauses_when_too_much_is_not_kept_and_goes_on_by_itself() -> None:
    memory = behind(most_unkept=2)
    await memory.paused()
    gate = memory.store.hold("put part")
    await remember(memory, 0)
    await memory.paused()
    await remember(memory, 1)
    paused = asyncio.create_task(memory.paused())
    await asyncio.sleep(0)
    assert not paused.done()
    gate.set()
    await paused
    assert memory.unkept < 2
    await memory.settle()


async def test_parts_kept_at_a_lower_level_are_put_again_when_a_better_one_returns() -> None:
    memory = behind(keep_seconds=None, queue_bytes=0)
    store, heard = memory.store, listening(memory)
    store.level = Level.REDIS
    await remember(memory, 0)
    store.level = Level.ONE
    await remember(memory, 1, 2)
    assert memory.kept == Kept(3, Level.ONE)
    store.level = Level.REDIS
    await remember(memory, 3)
    await until(lambda: memory.kept == Kept(4, Level.REDIS))
    assert heard[-1] == memory.kept
    await until(lambda: not tasks())


async def test_a_part_that_is_damaged_wherever_it_is_keeps_no_other_from_a_better_level(monkeypatch) -> None:
    memory = memory_of()
    damaged, get = PartKey(memory.lineage.key(0), "part"), memory.store.get

    async def spoiled(keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        return {key: Miss.CORRUPT if key == damaged else frame for key, frame in (await get(keys)).items()}

    monkeypatch.setattr(memory.store, "get", spoiled)
    await remember(memory, 0, 1, 2)
    memory.store.level = Level.REDIS
    await remember(memory, 3)
    again = [PartKey(memory.lineage.key(n), "part") for n in (1, 2)]
    await until(lambda: all(memory.store.put_keys.count(key) == 2 for key in again))
    assert memory.kept == Kept(4, Level.ONE)
    monkeypatch.undo()  # one that has it answers again
    await until(lambda: memory.kept == Kept(4, Level.REDIS))
    await until(lambda: not tasks())


async def test_a_better_level_than_ever_before_is_wanted_for_all() -> None:
    memory = memory_of()
    for index, level in enumerate([Level.ONE, Level.TWO, Level.REDIS]):
        memory.store.level = level
        await remember(memory, index)
    await until(lambda: memory.kept == Kept(3, Level.REDIS))
    await until(lambda: not tasks())


async def test_where_all_have_one_level_nothing_is_put_again() -> None:
    memory = memory_of()
    await remember(memory, *range(3))
    assert tasks() == set()
    assert memory.kept == Kept(3, Level.ONE)


async def test_a_part_that_is_gone_is_not_put_again() -> None:
    memory = memory_of()
    memory.store.level = Level.REDIS
    await remember(memory, 0)
    memory.store.level = Level.ONE
    await remember(memory, 1)
    await memory.store.delete([PartKey(memory.lineage.key(1), "part")])
    memory.store.level = Level.REDIS
    await remember(memory, 2)
    await until(lambda: not tasks())
    assert memory.kept == Kept(3, Level.REDIS)


async def test_a_world_that_is_gone_stops_nothing_and_is_told() -> None:
    memory = behind()
    keys = [PartKey(memory.lineage.key(i), "part") for i in range(3)]
    await memory.store.delete(keys)
    await remember(memory, *range(3))
    await memory.settle()
    assert (memory.unkept, memory.kept.end, memory.stats.dropped) == (0, 0, 3)
    assert isinstance(memory.refused, Conflict)
    memory._hot.clear()
    assert await recall(memory, 1) == []
    assert tasks() == set()


async def test_in_lockstep_a_refused_part_is_raised_and_lost_keys_and_values_are_not() -> None:
    memory = memory_of()
    memory.store.errors = {"put part": down()}
    with pytest.raises(type(down())):
        await remember(memory, 0)
    assert memory.finder.told == []
    memory.store.errors = {"put kv": Conflict("deleted")}
    await remember(memory, 0)
    assert memory.stats.dropped == 1


async def test_keys_and_values_that_are_no_numbers_are_dropped_and_the_part_is_kept() -> None:
    memory, bad = behind(), KV(torch.full_like(kv_of(1).keys, float("nan")), kv_of(1).values)
    await memory.remember(part_of(memory.lineage, 0), bad)
    await memory.settle()
    assert (memory.stats.dropped, memory.kept.end) == (1, 1)
    assert isinstance(memory.refused, NonFinite)


async def test_a_chunk_that_is_remembered_twice_is_kept_once() -> None:
    memory = behind()
    gate = memory.store.hold("put part")
    await remember(memory, 0, 0)
    gate.set()
    await memory.settle()
    await remember(memory, 0, 1)
    await memory.settle()
    assert (memory.kept, memory.kv_bytes) == (Kept(2, Level.ONE), 2 * CHUNK)


async def test_a_budget_is_kept_behind_the_callers_back() -> None:
    memory = behind(budget_bytes=2 * CHUNK)
    memory.finder.useless = [1, 2, 3]
    gate = memory.store.hold("put kv")
    await remember(memory, *range(4))
    await recall(memory, 1)
    assert memory.stats.demoted == 0
    gate.set()
    await memory.settle()
    assert memory.kv_bytes <= 2 * CHUNK
    assert memory.stats.demoted == 2
    assert memory.lineage.key(1) not in memory._hot


async def test_what_a_memory_is_told_is_kept_counts() -> None:
    memory = memory_of()
    other = Memory(
        SPEC, WindowConfig(), memory.config, memory.store, memory.finder, memory.lineage, Kept(7, Level.REDIS)
    )
    assert other.kept == Kept(7, Level.REDIS)
    await remember(other, 8)
    assert other.kept == Kept(7, Level.ONE)
    await remember(other, 7)
    assert other.kept == Kept(9, Level.ONE)


async def test_closing_ends_everything_at_once() -> None:
    memory = behind(recall_seconds=0.0, coding=RAW)
    await remember(memory, 0, 1)
    await memory.settle()
    for what in ("put part", "put kv", "get kv"):
        memory.store.hold(what)
    await remember(memory, 2, 3)
    await recall(memory, 1)
    assert tasks()
    await memory.close()
    assert tasks() == set()


@pytest.mark.parametrize("queue_bytes", [0, ROOM])
async def test_a_budget_of_chunks_is_kept_with_a_queue_and_without(queue_bytes: int) -> None:
    memory = behind(queue_bytes=queue_bytes, budget_chunks=2)
    memory.finder.useless = [*range(5)]
    for index in range(5):
        await remember(memory, index)
        await memory.settle()
    assert memory.kv_bytes == 2 * CHUNK
    assert memory.let_go() == tuple(map(memory.lineage.key, (1, 2, 3)))
    assert memory.let_go() == ()
    await memory.close()
