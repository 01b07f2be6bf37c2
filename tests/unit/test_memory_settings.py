"""What a memory is told, while it remembers too, and what it tells of a recall."""

from dataclasses import replace
from time import perf_counter

import pytest

from tests.remembering import memory_of, numbers, recall, remember
from worldkv.coding import Coding
from worldkv.errors import InvalidConfig, OverBudget
from worldkv.memory import MemoryConfig
from worldkv.prune import Pruning
from worldkv.store import Miss, PartKey


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hot_bytes", -1),
        ("queue_bytes", -1),
        ("layered_bytes", -1),
        ("recall_seconds", -0.1),
        ("keep_seconds", float("nan")),
        ("retry_seconds", 0.0),
        ("most_unkept", 0),
        ("ahead", 4),
        ("least", 1.5),
        ("order", "random"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=field):
        MemoryConfig(**{field: value})


async def test_a_recall_says_what_did_not_come_and_why() -> None:
    memory = memory_of(hot_bytes=0)
    await remember(memory, 0, 1, 2)
    await memory.store.delete([PartKey(memory.lineage.key(i), kind) for i in (0, 1) for kind in ("kv", "part")])
    assert numbers(await recall(memory, 0, 1, spares=[2])) == [2]
    assert memory.latest.missed == dict.fromkeys(map(memory.lineage.key, (0, 1)), Miss.DELETED)
    assert numbers(await recall(memory, 2)) == [2]
    assert memory.latest.missed == {}


async def test_what_a_step_waits_for_is_split_into_bytes_and_decoding() -> None:
    memory = memory_of(hot_bytes=0)
    await remember(memory, 0, 1)
    began = perf_counter()
    await recall(memory, 0, 1)
    waited = perf_counter() - began
    fetch, decode = memory.latest.fetch_seconds, memory.latest.decode_seconds
    assert min(fetch, decode) > 0
    assert fetch + decode <= waited
    memory.config = replace(memory.config, recall_seconds=0.01)
    memory.store.hold("get kv")
    await recall(memory, 0)
    assert memory.latest.decode_seconds < memory.latest.fetch_seconds
    assert memory.latest.missed == {memory.lineage.key(0): Miss.LATE}
    await memory.close()


async def test_fewer_are_recalled_if_it_is_told_so_and_no_slot_counts_as_left_empty() -> None:
    memory = memory_of()
    await remember(memory, 0, 1)
    memory.configure(replace(memory.config, recalled=1))
    assert numbers(await recall(memory, 0, 1)) == [0]
    assert memory.stats.abstained == 0
    memory.configure(replace(memory.config, recalled=0))
    assert numbers(await recall(memory, 0, 1)) == []
    memory.configure(replace(memory.config, recalled=None))
    assert numbers(await recall(memory, 0, 1)) == [0, 1]


async def test_slots_stay_as_they_were_made_and_chunks_that_do_not_fit_are_refused() -> None:
    half = Coding("int8", "int8", Pruning(0.5))
    memory = memory_of(coding=half)
    slots, tokens = memory.slots, memory.slot_tokens
    with pytest.raises(OverBudget, match=f"do not fit slots of {tokens}"):
        memory.configure(replace(memory.config, coding=Coding("int8", "int8")))
    memory.configure(replace(memory.config, coding=Coding("int4", "int4", Pruning(0.25))))
    await remember(memory, 0, 1)
    assert (memory.slots, memory.slot_tokens) == (slots, tokens)
    assert (await recall(memory, 1))[0].entry.kv.tokens < tokens
