"""What a step waits for: what is at hand, under way, late, layered, damaged or gone."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.remembering import (
    SPEC,
    Held,
    Layers,
    again,
    down,
    kv_of,
    memory_of,
    numbers,
    part_of,
    query,
    recall,
    remember,
    same,
    tasks,
    until,
)
from worldkv.chunk import ChunkKey, Part, Segment
from worldkv.coding import KV, Coding
from worldkv.errors import SpecMismatch, UnknownCodec
from worldkv.memory.hot import HotSet
from worldkv.prune import Pruning
from worldkv.store import Miss, PartKey
from worldkv.window import Entry

CHUNK = SPEC.raw_bytes
CODED = Coding("int8", "int8")
"""What comes layer by layer: raw chunks are used as they have landed."""


async def test_a_step_fetches_only_what_is_not_at_hand() -> None:
    memory = memory_of()
    await remember(memory, *range(5))
    assert numbers(await recall(memory, 1, 2)) == [1, 2]
    assert memory.store.asked_kv() == [1, 2]
    found = await recall(memory, 2, 3)
    assert memory.store.asked_kv() == [3]
    assert [same(each.entry, kv_of(each.hit.key.index)) for each in found] == [True, True]
    assert (memory.stats.recalled, memory.stats.at_hand) == (4, 1)
    assert memory.stats.fetched_bytes == 3 * CHUNK


async def test_what_was_drawn_lately_is_at_hand_as_the_store_would_give_it() -> None:
    coding = Coding("int8", "int4")
    here, there = memory_of(coding=coding), memory_of(coding=coding, hot_bytes=0)
    for memory in (here, there):
        await memory.remember(part_of(memory.lineage, 1), kv_of(1))
    (now,), (fetched,) = await recall(here, 1), await recall(there, 1)
    assert (here.store.asked_kv(), there.store.asked_kv()) == ([], [1])
    assert same(now.entry, fetched.entry.kv)


async def test_what_is_late_is_left_out_and_at_hand_when_it_has_come() -> None:
    memory = memory_of(recall_seconds=0.0, hot_bytes=2 * CHUNK)
    await remember(memory, *range(5))
    gate = memory.store.hold("get kv")
    assert await recall(memory, 1, 2) == []
    assert await recall(memory, 2, 3) == []
    assert memory.stats.missed == {Miss.LATE: 4}
    assert memory.stats.reencoded == 0, "what is on its way is not made again"
    gate.set()
    await until(lambda: not tasks())
    assert memory.store.asked_kv() == [1, 2, 3], "a fetch that is under way is joined"
    assert numbers(await recall(memory, 2, 3)) == [2, 3]
    assert memory.store.asked_kv() == []


async def test_in_lockstep_a_step_waits_for_everything() -> None:
    memory = memory_of()
    await remember(memory, *range(3))
    gate, memory.finder.answers = memory.store.hold("get kv"), asyncio.Event()
    step = asyncio.create_task(recall(memory, 1, 2))
    await asyncio.sleep(0)
    memory.finder.answers.set()
    await until(lambda: len(memory.store.asked) == 2)
    gate.set()
    assert numbers(await step) == [1, 2]
    assert not memory.stats.missed


async def test_an_index_that_is_late_recalls_nothing() -> None:
    memory = memory_of(recall_seconds=0.0)
    await remember(memory, *range(3))
    memory.finder.answers.clear()
    assert await recall(memory, 1, 2) == []
    assert (memory.stats.unanswered, memory.stats.abstained) == (1, 0)


async def test_a_recall_that_is_cancelled_cancels_no_fetch_that_others_wait_for() -> None:
    memory = memory_of()
    await remember(memory, *range(3))
    gate = memory.store.hold("get kv")
    first, second = (asyncio.create_task(recall(memory, 1, 2)) for _ in range(2))
    await until(lambda: len(memory.store.asked) == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert numbers(await second) == [1, 2]
    assert memory.store.asked_kv() == [1, 2]
    assert tasks() == set()


async def test_spares_at_hand_stand_in_for_what_is_late() -> None:
    memory = memory_of(recall_seconds=5.0)
    await remember(memory, *range(5))
    await recall(memory, 3)
    memory.config = replace(memory.config, recall_seconds=0.0)
    memory.store.hold("get kv")
    assert numbers(await recall(memory, 1, spares=[3, 4])) == [3]
    assert 4 not in memory.store.asked_kv(), "there is no time for another fetch"
    await memory.close()


async def test_what_is_gone_is_made_again_on_time_and_what_cannot_be_is_left_out() -> None:
    memory = memory_of(recall_seconds=20.0)
    await remember(memory, *range(4))
    await memory.store.delete([PartKey(memory.lineage.key(i), "kv") for i in (1, 2)])
    found = await recall(memory, 1, 2)
    assert numbers(found) == [1]
    assert found[0].entry.tag == (memory.lineage.key(1), True)
    assert torch.equal(found[0].entry.kv.keys, kv_of(1).keys + 1)
    assert memory.stats.missed == {Miss.EVICTED: 2}
    await memory.store.delete([PartKey(memory.lineage.key(2), "part")])
    assert numbers(await recall(memory, 2)) == []
    assert memory.finder.removed == [memory.lineage.key(2)]


async def test_keys_and_values_may_be_made_again_elsewhere() -> None:
    memory = memory_of()
    await remember(memory, *range(3))
    await memory.store.delete([PartKey(memory.lineage.key(1), "kv")])

    async def elsewhere(part: Part, before: Sequence[Entry]) -> KV:
        await asyncio.sleep(0)
        return again(part, before)

    memory.finder.names = [1]
    assert numbers(await memory.recall(query(), (), elsewhere)) == [1]
    assert memory.stats.reencoded == 1


async def test_no_step_waits_past_its_deadline_for_what_is_made_again() -> None:
    memory = memory_of(recall_seconds=0.05)
    await remember(memory, *range(4))
    await memory.store.delete([PartKey(memory.lineage.key(i), "kv") for i in (1, 2)])
    gate, begun = asyncio.Event(), list[int]()

    async def slowly(part: Part, before: Sequence[Entry]) -> KV:
        begun.append(part.meta.key.index)
        await gate.wait()
        return again(part, before)

    memory.finder.names = [1, 2]
    async with asyncio.timeout(20):
        assert [await memory.recall(query(), (), slowly) for _ in range(2)] == [[], []]
    assert begun == [1], "one at a time"
    assert memory.stats.missed == {Miss.LATE: 2, Miss.EVICTED: 2}
    gate.set()
    await until(lambda: not tasks())
    (found,) = await recall(memory, 1)
    assert (found.entry.tag, memory.stats.reencoded) == ((memory.lineage.key(1), True), 1)
    gate.clear()
    memory.finder.names = [2]
    assert await memory.recall(query(), (), slowly) == []
    await memory.close()
    assert (tasks(), begun) == (set(), [1, 2])


async def test_a_store_that_does_not_answer_leaves_holes_and_says_so() -> None:
    memory = memory_of()
    await remember(memory, *range(4))
    await recall(memory, 1)
    memory.store.errors = {"get kv": down(), "get part": down()}
    assert numbers(await recall(memory, 1, 2)) == [1]
    assert memory.stats.missed == {Miss.TIER_DOWN: 1}
    memory.store.errors = {}
    assert numbers(await recall(memory, 1, 2)) == [1, 2]


@pytest.mark.parametrize(
    "coding", [Coding("raw", "int8"), Coding("int8", "int4"), Coding("hadamard4", "int3", Pruning(0.25))]
)
async def test_layer_by_layer_gives_the_same_entries_bit_for_bit(coding: Coding) -> None:
    whole, layered = memory_of(Held(), coding=coding), memory_of(Layers(), coding=coding, layered_bytes=0)
    for memory in (whole, layered):
        await remember(memory, *range(3))
    # The first chunk is kept raw.
    for a, b in zip(await recall(whole, 0, 2), await recall(layered, 0, 2), strict=True):
        assert same(a.entry, b.entry.kv)
        assert a.entry.kv.keys.dtype == b.entry.kv.keys.dtype
        assert a.entry._replace(tag=0, kv=0) == b.entry._replace(tag=0, kv=0)
        assert a.entry.tag == (whole.lineage.key(a.hit.key.index), False)
        assert b.entry.tag == (layered.lineage.key(b.hit.key.index), False)
    assert whole.stats.fetched_bytes == layered.stats.fetched_bytes


async def test_what_was_made_again_says_so_layer_by_layer_too() -> None:
    memory = memory_of(Layers(), coding=CODED, layered_bytes=0, hot_bytes=0)
    await remember(memory, *range(3))
    await memory.store.delete([PartKey(memory.lineage.key(1), "kv")])
    for _ in range(2):
        (found,) = await recall(memory, 1)
        assert found.entry.tag == (memory.lineage.key(1), True)
    assert memory.stats.reencoded == 1


async def test_a_layer_is_decoded_before_the_next_one_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    from worldkv.memory import layers

    decoded: list[int] = []
    add = layers.Layers.add

    def noted(self: layers.Layers, segments: Sequence[Segment]) -> None:
        add(self, segments)
        decoded.append(segments[0].layer)

    async def before(layer: int) -> None:
        come.append(layer)
        await gates[layer].wait()

    monkeypatch.setattr(layers.Layers, "add", noted)
    come: list[int] = []
    gates = [asyncio.Event() for _ in range(SPEC.layers)]
    memory = memory_of(Layers(), coding=CODED, layered_bytes=0)
    await remember(memory, 0, 1)
    memory.store.before_layer = before
    step = asyncio.create_task(recall(memory, 1))
    gates[0].set()
    await until(lambda: come == [0, 1])
    await until(lambda: decoded == [0])
    gates[1].set()
    assert numbers(await step) == [1]
    assert decoded == [0, 1]


async def test_raw_chunks_are_not_taken_apart() -> None:
    memory = memory_of(Layers(), layered_bytes=0)
    await remember(memory, 0, 1)
    memory.store.spoil = lambda segment: Miss.LATE
    assert same((await recall(memory, 1))[0].entry, kv_of(1))


def other_layer(segment: Segment) -> Segment:
    return replace(segment, layer=segment.layer + 1)


def short(segment: Segment) -> Segment:
    return replace(segment, data=segment.data[:-4])


@pytest.mark.parametrize(
    "spoil",
    [
        other_layer,
        short,
        lambda segment: None if segment.layer else segment,
        lambda segment: None if segment.kind == "v" else segment,
        lambda segment: replace(segment, head_group=1),
        lambda segment: replace(segment, dtype="float16") if segment.layer else segment,
    ],
)
async def test_layers_that_do_not_fit_together_are_a_miss(spoil: object) -> None:
    memory = memory_of(Layers(), coding=CODED, layered_bytes=0, reencode=False)
    await remember(memory, 0, 1)
    memory.store.spoil = spoil
    assert await recall(memory, 1) == []
    assert memory.stats.missed == {Miss.CORRUPT: 1}


async def test_layers_that_stop_coming_are_a_miss_for_that_reason() -> None:
    memory = memory_of(Layers(), coding=CODED, layered_bytes=0, reencode=False)
    await remember(memory, 0, 1)
    memory.store.spoil = lambda segment: Miss.LATE if segment.layer else segment
    assert await recall(memory, 1) == []
    assert memory.stats.missed == {Miss.LATE: 1}


@pytest.mark.parametrize("layered", [False, True])
async def test_a_chunk_of_another_model_is_an_error_and_not_a_miss(layered: bool) -> None:
    memory = memory_of(Layers() if layered else Held(), coding=CODED, layered_bytes=0)
    await remember(memory, 0, 1)
    memory._coder.spec = replace(SPEC, model="another")
    with pytest.raises(SpecMismatch, match="another"):
        await recall(memory, 1)
    assert tasks() == set()


async def test_a_chunk_that_cannot_be_decoded_here_is_an_error() -> None:
    memory = memory_of(Layers(), coding=CODED, layered_bytes=0)
    await remember(memory, 0, 1)
    memory.store.spoil = lambda segment: replace(segment, codec="klt9")
    with pytest.raises(UnknownCodec, match="klt9"):
        await recall(memory, 1)
    assert tasks() == set()


async def test_the_hot_set_keeps_what_was_used_last_within_its_bytes() -> None:
    memory = memory_of(hot_bytes=2 * CHUNK)
    await remember(memory, *range(5))
    await recall(memory, 1, 2)
    await recall(memory, 2, 3)
    assert [key.index for key in memory._hot] == [2, 3]
    assert memory._hot.used_bytes == 2 * CHUNK


@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from("kngd"), st.integers(0, 7)), max_size=40))
def test_a_hot_set_stays_within_its_bytes_and_lets_go_of_needed_chunks_last(room, commands) -> None:
    hot, branch = HotSet(room * CHUNK), bytes(16)
    entries = [Entry(i, 0, 3, KV(*[torch.empty(CHUNK // 8)] * 2)) for i in range(8)]
    needed: set[int] = set()
    for command, i in commands:
        key, before = ChunkKey(branch, i), {each.index for each in hot}
        if command == "k":
            hot.keep(key, entries[i])
            gone = before - {each.index for each in hot} - {i}
            assert not gone & needed or {each.index for each in hot} <= needed
        elif command == "n":
            needed = {i, (i + 1) % 8}
            hot.need([ChunkKey(branch, each) for each in needed])
        elif command == "g":
            assert (hot.get(key) is None) == (i not in before)
        else:
            hot.drop(key)
        assert hot.used_bytes == len(hot) * CHUNK <= hot.room_bytes
