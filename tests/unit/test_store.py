"""The store in memory: what it drops to make room, in which order, and what it never drops; and the wrappers."""

import asyncio

import pytest

from worldkv.chunk import ChunkKey
from worldkv.errors import Conflict, InvalidInput, OverBudget, Unavailable
from worldkv.format import Frame
from worldkv.store import Level, Miss, PartKey, RamStore
from worldkv.store_wrappers import Faults, FaultyStore, ObservedStore

BRANCH = b"b" * 16


def part(index: int) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "part")


def kv(index: int) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


def ten() -> Frame:
    return Frame.of(bytes(10))


async def held(store: RamStore) -> list[str]:
    return [f"{key.kind}{key.chunk.index}" async for key in store.scan(BRANCH)]


async def test_the_frame_itself_is_kept_not_a_copy():
    store, frame = RamStore(100), ten()
    await store.put({part(0): frame})
    assert (await store.get([part(0)]))[part(0)] is frame


async def test_the_kv_used_longest_ago_goes_first():
    store = RamStore(30)
    for n in range(3):
        await store.put({kv(n): ten()})
    await store.get([kv(0)])
    await store.put({kv(1): ten()})
    await store.put({kv(3): ten()})
    assert await held(store) == ["kv0", "kv1", "kv3"]
    assert (await store.get([kv(2)]))[kv(2)] is Miss.EVICTED
    store.check_integrity()


async def test_immutable_parts_make_room_for_themselves_and_stay():
    store = RamStore(30)
    await store.put({part(0): ten(), kv(0): ten(), kv(1): ten()})
    await store.put({part(1): ten()})
    assert await held(store) == ["part0", "part1", "kv1"]
    await store.put({part(2): ten()})
    with pytest.raises(OverBudget, match="10 bytes to put are 10 more than a budget of 30"):
        await store.put({kv(2): ten()})
    with pytest.raises(OverBudget):
        await store.put({part(3): ten()})
    assert await held(store) == ["part0", "part1", "part2"]
    store.check_integrity()


async def test_a_batch_that_does_not_fit_leaves_everything_as_it_was():
    store = RamStore(30)
    await store.put({part(0): ten(), kv(0): ten()})
    with pytest.raises(OverBudget):
        await store.put({part(1): ten(), kv(1): ten(), kv(2): ten()})
    assert await held(store) == ["part0", "kv0"]
    assert store.used_bytes == 20


async def test_what_a_batch_names_is_not_dropped_for_its_sake():
    store = RamStore(20)
    await store.put({kv(0): ten(), kv(1): ten()})
    await store.put({kv(0): ten(), kv(2): ten()})
    assert await held(store) == ["kv0", "kv2"]


async def test_evicted_kv_may_come_again_and_then_counts_again():
    store = RamStore(10)
    await store.put({kv(0): ten()})
    await store.put({kv(1): ten()})
    await store.put({kv(0): ten()})
    assert (await held(store), store.used_bytes) == (["kv0"], 10)


async def test_a_budget_is_bytes_from_zero_on():
    with pytest.raises(InvalidInput, match="got -1"):
        RamStore(-1)
    with pytest.raises(OverBudget):
        await RamStore(0).put({part(0): ten()})


async def test_integrity_finds_a_wrong_count():
    store = RamStore(30)
    await store.put({part(0): ten()})
    store.used_bytes += 1
    with pytest.raises(AssertionError):
        store.check_integrity()


def test_levels_are_ordered_by_what_they_survive():
    assert max(Level) is Level.REDIS
    assert sorted(Level) == [Level.ONE, Level.TWO, Level.REDIS]


async def test_observing_counts_what_went_through():
    ticks = iter(range(100))
    store = ObservedStore(RamStore(20), clock=lambda: float(next(ticks)))
    await store.put({part(0): ten(), kv(0): ten()})
    await store.put({part(1): ten()})
    await store.get([part(0), kv(0), kv(9)])
    await store.delete([part(1)])
    with pytest.raises(Conflict):
        await store.put({part(1): ten()})
    assert [key async for key in store.scan(BRANCH)] == [part(0)]
    seen = store.counters
    assert seen.calls == {"put": 3, "get": 1, "delete": 1, "scan": 1}
    assert seen.seconds == {"put": 3.0, "get": 1.0, "delete": 1.0, "scan": 1.0}
    assert seen.errors == {("put", "Conflict"): 1}
    assert (seen.hits, seen.hit_bytes, seen.puts, seen.put_bytes, seen.deleted) == (1, 10, 3, 30, 1)
    assert seen.misses == {Miss.EVICTED: 1, Miss.NEVER_STORED: 1}
    assert seen.levels == {Level.ONE: 3}


async def outcomes(seed: int) -> list[str]:
    store = FaultyStore(RamStore(1000), Faults(refused=0.3, unanswered=0.2, dropped=0.3), seed)
    seen = []
    for n in range(30):
        try:
            await store.put({part(n): ten()})
            seen.append(type((await store.get([part(n)]))[part(n)]).__name__)
        except Unavailable as error:
            seen.append(str(error))
    return seen


async def test_the_same_seed_gives_the_same_faults():
    assert await outcomes(1) == await outcomes(1) != await outcomes(2)
    assert {"Frame", "Miss", "put was refused on purpose"} <= set(await outcomes(1))


async def test_a_refused_call_does_nothing_and_an_unanswered_one_was_done():
    inner = RamStore(100)
    with pytest.raises(Unavailable, match="refused"):
        await FaultyStore(inner, Faults(refused=1)).put({part(0): ten()})
    assert await held(inner) == []
    with pytest.raises(Unavailable, match="answer to put was lost"):
        await FaultyStore(inner, Faults(unanswered=1)).put({part(0): ten()})
    assert await held(inner) == ["part0"]


async def test_dropped_keys_are_misses_with_a_reason():
    store = FaultyStore(RamStore(100), Faults(dropped=1, reason=Miss.LATE))
    await store.put({part(0): ten()})
    assert await store.get([part(0), part(1)]) == {part(0): Miss.LATE, part(1): Miss.NEVER_STORED}


async def test_a_delayed_store_runs_into_its_callers_deadline():
    store = FaultyStore(RamStore(100), Faults(delay_seconds=1e6))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.get([part(0)])


@pytest.mark.parametrize("wrong", [{"refused": 1.1}, {"dropped": -0.1}, {"delay_seconds": float("inf")}])
def test_faults_are_shares_and_seconds(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Faults(**wrong)
