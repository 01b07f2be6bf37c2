"""A replica over a store: what it answers, what it reads back, and what it forgets."""

import asyncio
from dataclasses import replace

import pytest

from services.retriever.config import ServingConfig
from tests.wire.replica import keep, meta, metas, oracle, query, retriever
from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OverBudget,
    SpecMismatch,
    Unavailable,
)
from worldkv.select import SELECTORS
from worldkv.store import Miss, PartKey
from worldkv.wire_retriever import Found, Lookup

ROOT = Lineage.begin(b"r" * 16)


def lookup(lineage: Lineage = ROOT, count: int = 4, **fields) -> Lookup:
    return Lookup(lineage, query(), count, **fields)


async def one(client, asked: Lookup, **limits) -> Found:
    (found,) = await client.nearest([asked], **limits)
    assert isinstance(found, Found), found
    return found


@pytest.mark.parametrize("name", ["pose", "fov", "coverage", "random", "latest", "oldest", "nothing"])
async def test_answers_are_those_of_an_index_in_process(name):
    known = metas(ROOT, 40)
    async with retriever(stored=False) as made:
        assert await made.client.add(ROOT, known) == 40
        assert await made.client.add(ROOT, known) == 0
        asked = lookup(selector=name, seed=5, spares=3, exclude=[1, 2, 39])
        found = await one(made.client, asked)
        assert found == Found(oracle(known, asked), 37, 0)
        assert name == "nothing" or len(found.hits) > 1
    assert name in SELECTORS


async def test_a_fork_sees_its_own_chunks_and_those_before_it():
    fork = ROOT.fork(10, b"f" * 16)
    known = metas(ROOT, 20) + metas(fork, 25, begin=10)
    async with retriever(stored=False) as made:
        await made.client.add(ROOT, known)
        for lineage in (ROOT, fork, fork.fork(22), ROOT.fork(0)):
            asked = lookup(lineage, 30, selector="pose")
            found = await one(made.client, asked)
            assert found.hits == oracle(known, asked)
            assert all(lineage.covers(hit.key) for hit in found.hits)


async def test_several_queries_are_answered_in_their_order_and_fail_alone():
    other = Lineage.begin(b"o" * 16)
    known, others = metas(ROOT, 5), metas(other, 6)
    lost = lookup(Lineage.begin(b"l" * 16), published=3)
    async with retriever() as made:
        await made.client.add(ROOT, known + others)
        asked = [lookup(), lost, lookup(other), lookup(spec="f" * 32)]
        first, second, third, fourth = await made.client.nearest(asked)
        assert (first.hits, third.hits) == (oracle(known, asked[0]), oracle(others, asked[2]))
        assert isinstance(second, NotFound)
        assert isinstance(fourth, SpecMismatch)
        with pytest.raises(NotFound):
            await made.client.nearest([lost])
        assert made.figure("failed_total", error="NotFound") == 2
        assert await made.client.nearest([]) == []


async def test_pending_chunks_are_ranked_and_not_kept():
    known, new = metas(ROOT, 10), metas(ROOT, 14, begin=10)
    async with retriever() as made:
        await made.client.add(ROOT, known)
        asked = lookup(count=14, selector="pose", published=14, pending=new)
        found = await one(made.client, asked)
        assert found == Found(oracle(known, asked), 14, 0)
        assert (await made.client.stats())[made.address].chunks == 10


@pytest.mark.slow
async def test_an_unknown_world_is_read_from_the_store_once():
    async with retriever() as made:
        known = metas(ROOT, 50)
        await keep(made.store, known)
        asked = lookup(published=50)
        made.store.gate.clear()
        calls = [asyncio.create_task(one(made.client, asked)) for _ in range(100)]
        while not made.store.calls:  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(0.01)
        made.store.gate.set()
        assert all(found == Found(oracle(known, asked), 50, 0) for found in await asyncio.gather(*calls))
        assert made.store.calls["scan"] == 1
        assert (await made.client.stats())[made.address].rebuilt == 1
        assert made.figure("rebuilds_total", outcome="read") == 1


async def test_only_what_is_missing_is_read_and_no_further_than_the_lineage_goes():
    fork = ROOT.fork(10, b"f" * 16)
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 30) + metas(fork, 20, begin=10))
        await made.client.add(ROOT, metas(ROOT, 4))
        found = await one(made.client, lookup(fork, 50, selector="pose", published=18))
        assert (found.candidates, found.missing) == (18, 0)
        assert sorted(made.store.ranges) == [(b"f" * 16, 10, 18), (b"r" * 16, 4, 10)]


async def test_a_gap_is_looked_for_once_and_found_when_it_is_added():
    async with retriever() as made:
        await keep(made.store, [meta(ROOT.key(n)) for n in range(10) if n != 6])
        assert [(await one(made.client, lookup(published=10))).missing for _ in range(3)] == [1, 1, 1]
        assert made.store.calls["scan"] == 1
        await made.client.add(ROOT, [meta(ROOT.key(6))])
        assert (await one(made.client, lookup(published=10))).missing == 0
        assert (await one(made.client, lookup(published=11))).missing == 1
        assert made.store.ranges[1:] == [(b"r" * 16, 10, 11)]


async def test_gaps_are_looked_for_again_after_a_while():
    async with retriever(gap_seconds=0) as made:
        await keep(made.store, metas(ROOT, 5))
        assert (await one(made.client, lookup(published=6))).missing == 1
        await keep(made.store, metas(ROOT, 6))
        assert (await one(made.client, lookup(published=6))).missing == 0


async def test_a_store_that_is_down_is_no_empty_world():
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 9))
        made.store.down = True
        with pytest.raises(Unavailable, match="store is down"):
            await one(made.client, lookup(published=9))
        await made.client.add(ROOT, metas(ROOT, 4))
        asked = lookup(published=9)
        assert await one(made.client, asked) == Found(oracle(metas(ROOT, 4), asked), 4, 5)
        with pytest.raises(Unavailable):
            await made.client.least_useful(ROOT, 2, 8.0, published=9)
        made.store.down = False
        assert await one(made.client, asked) == Found(oracle(metas(ROOT, 9), asked), 9, 0)
        assert await one(made.client, lookup(Lineage.begin())) == Found([], 0, 0)
        assert made.client.counters["failures"] == 0


@pytest.mark.parametrize("known", [0, 3])
async def test_a_read_goes_on_when_the_deadline_of_who_asked_has_passed(known):
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 12))
        await made.client.add(ROOT, metas(ROOT, known))
        made.store.gate.clear()
        if known:
            found = await one(made.client, lookup(published=12), deadline_seconds=0.5)
            assert (found.candidates, found.missing) == (known, 12 - known)
        else:
            with pytest.raises(DeadlineExceeded):
                await one(made.client, lookup(published=12), deadline_seconds=0.5)
        made.store.gate.set()
        assert (await one(made.client, lookup(published=12))).candidates == 12
        assert made.store.calls["scan"] == 1
        assert made.client.counters["failures"] == 0


async def test_a_client_that_goes_away_does_not_end_a_read_that_others_wait_for():
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 12))
        made.store.gate.clear()
        first = asyncio.create_task(one(made.client, lookup(published=12)))
        while not made.store.calls:  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(0.01)
        second = asyncio.create_task(one(made.client, lookup(published=12)))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        made.store.gate.set()
        assert (await second).candidates == 12
        assert made.store.calls["scan"] == 1


async def test_tenants_never_see_each_other():
    async with retriever() as made, made.tenant("other") as other:
        mine, theirs = metas(ROOT, 5), [meta(ROOT.key(n), 1) for n in range(7)]
        await made.client.add(ROOT, mine)
        await other.add(ROOT, theirs)
        asked = lookup(count=9, selector="pose")
        assert (await one(made.client, asked)).hits == oracle(mine, asked)
        assert (await one(other, asked)).hits == oracle(theirs, asked)
        await keep(made.store, metas(ROOT, 9))
        assert (await one(other, lookup(published=9))).missing == 2
        assert await other.remove(branches=[b"r" * 16]) == 7
        assert (await one(made.client, asked)).hits == oracle(mine, asked)


async def test_damaged_parts_are_left_out_of_a_world():
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 9))
        made.store.misses = {ROOT.key(3): Miss.CORRUPT, ROOT.key(4): Miss.DELETED}
        assert (await one(made.client, lookup(published=9))).missing == 2
        made.store.misses = {ROOT.key(9): Miss.TIER_DOWN}
        await keep(made.store, metas(ROOT, 10))
        found = await one(made.client, lookup(published=10))
        assert (found.candidates, found.missing) == (7, 3)


async def test_chunks_are_forgotten_only_when_the_store_says_that_they_are_gone():
    async with retriever() as made:
        known = metas(ROOT, 8)
        await keep(made.store, known)
        await made.client.add(ROOT, known)
        await made.store.delete([PartKey(ROOT.key(n), "part") for n in (2, 3, 4, 5, 6)])
        made.store.misses = {ROOT.key(4): Miss.TIER_DOWN, ROOT.key(5): Miss.LATE, ROOT.key(6): Miss.CORRUPT}
        assert await made.client.remove([ROOT.key(n) for n in range(8)] + [ChunkKey(b"x" * 16, 1)]) == 2
        found = await one(made.client, lookup(count=9, selector="pose"))
        assert {hit.key.index for hit in found.hits} == {0, 1, 4, 5, 6, 7}
        made.store.down = True
        assert await made.client.remove(branches=[ROOT.root]) == 0
        made.store.down, made.store.misses = False, {}
        assert await made.client.remove(branches=[ROOT.root]) == 3
        assert made.figure("removed_total") == 5


async def test_a_shard_that_is_away_takes_nothing_from_the_index():
    async with retriever() as made:
        await made.client.add(ROOT, metas(ROOT, 4))
        made.store.down = True
        assert await made.client.remove([ROOT.key(1)]) == 0
        assert (await one(made.client, lookup())).candidates == 4


async def test_without_a_store_what_is_removed_is_forgotten():
    async with retriever(stored=False) as made:
        await made.client.add(ROOT, metas(ROOT, 8))
        assert await made.client.remove([ROOT.key(3), ROOT.key(9)]) == 1
        assert (await one(made.client, lookup())).candidates == 7
        assert await made.client.remove(branches=[ROOT.root, b"x" * 16]) == 7
        with pytest.raises(NotFound):
            await one(made.client, lookup(published=8))


async def test_worlds_that_nobody_asks_for_make_room_and_come_back():
    worlds = [Lineage.begin(bytes([n]) * 16) for n in range(4)]
    async with retriever(max_chunks=25) as made:
        for lineage in worlds:
            await keep(made.store, metas(lineage, 10))
            assert (await one(made.client, lookup(lineage, published=10))).candidates == 10
        assert (await made.client.stats())[made.address].chunks == 20
        before = made.store.calls["scan"]
        assert (await one(made.client, lookup(worlds[3], published=10))).candidates == 10
        assert made.store.calls["scan"] == before
        assert (await one(made.client, lookup(worlds[0], published=10))).candidates == 10
        assert made.store.calls["scan"] == before + 1


async def test_a_world_that_is_larger_than_the_bound_is_answered_in_part():
    async with retriever(max_chunks=300) as made:
        await keep(made.store, metas(ROOT, 600))
        found = await one(made.client, lookup(published=600))
        assert (found.candidates, found.missing) == (256, 344)
        assert await one(made.client, lookup(published=600)) == found
        assert made.store.calls["scan"] == 1


async def test_without_a_store_nothing_is_forgotten_and_too_much_is_refused():
    other = Lineage.begin()
    async with retriever(stored=False, max_chunks=10) as made:
        await made.client.add(ROOT, metas(ROOT, 8))
        with pytest.raises(OverBudget):
            await made.client.add(other, metas(other, 3))
        assert await made.client.add(ROOT, metas(ROOT, 10)) == 2
        assert await made.client.add(ROOT, metas(ROOT, 10)) == 0
        assert (await one(made.client, lookup(count=20))).candidates == 10


async def test_what_contradicts_is_refused_and_what_came_before_it_stays():
    async with retriever(stored=False) as made:
        await made.client.add(ROOT, metas(ROOT, 3))
        with pytest.raises(AlreadyExists):
            await made.client.add(ROOT, [meta(ROOT.key(3)), meta(ROOT.key(1), 7), meta(ROOT.key(4))])
        with pytest.raises(SpecMismatch):
            await made.client.add(ROOT, [meta(ROOT.key(4)), meta(ROOT.key(5), spec="f" * 32)])
        assert (await one(made.client, lookup())).candidates == 5
        assert (await one(made.client, lookup(spec="0" * 32))).candidates == 5
        with pytest.raises(SpecMismatch):
            await one(made.client, lookup(spec="f" * 32))


async def test_a_branch_that_went_can_come_back_as_another_model_s():
    async with retriever(stored=False) as made:
        await made.client.add(ROOT, metas(ROOT, 3))
        await made.client.remove(branches=[ROOT.root])
        await made.client.add(ROOT, [meta(ROOT.key(0), spec="f" * 32)])
        assert (await one(made.client, lookup(spec="f" * 32))).candidates == 1


async def test_least_useful_names_only_what_the_world_owns():
    fork = ROOT.fork(10, b"f" * 16)
    known = metas(fork, 30)
    async with retriever() as made:
        await keep(made.store, known)
        everything = await made.client.least_useful(fork, 40, 8.0, published=30)
        assert sorted(everything) == sorted(each.key for each in known)
        own = await made.client.least_useful(fork, 40, 8.0, {29}, {12}, owned=[fork.head], published=30)
        assert {key.index for key in own} == set(range(10, 29)) - {12}
        assert {key.branch for key in own} == {fork.head}
        assert await made.client.least_useful(fork, 40, 8.0, owned=[], published=30) == []
        assert await made.client.least_useful(Lineage.begin(), 3, 8.0) == []


async def test_many_candidates_are_chosen_from_in_a_thread_with_the_same_answer():
    known = metas(ROOT, 300)
    async with retriever(stored=False, serving=ServingConfig(inline_chunks=10)) as made:
        await made.client.add(ROOT, known)
        asked = [replace(lookup(), query=query(n)) for n in range(8)]
        found = await made.client.nearest(asked)
        assert [each.hits for each in found] == [oracle(known, each) for each in asked]


async def test_malformed_requests_are_refused_by_value():
    async with retriever(stored=False) as made:
        for asked, words in (
            (lookup(selector="nearest"), "nearest"),
            (lookup(count=1025), "1025"),
            (lookup(spares=2000), "2000"),
            (lookup(exclude=[1 << 63]), str(1 << 63)),
            (lookup(published=1 << 63), str(1 << 63)),
            (lookup(spec="xyz"), "xyz"),
        ):
            with pytest.raises(InvalidInput, match=words):
                await made.client.nearest([lookup(), asked])
        with pytest.raises(InvalidInput, match="view_range"):
            await made.client.least_useful(ROOT, 1, 0.0)
        with pytest.raises(InvalidInput):
            await made.client.remove(branches=[b"short"])
