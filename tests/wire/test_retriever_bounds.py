"""A replica at its bounds: of chunks, of time, of messages, of tenants."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from services.retriever import shards
from services.retriever.config import ServingConfig, StoreConfig
from tests.wire.replica import keep, meta, metas, oracle, query, retriever
from tests.wire.test_retriever import ROOT, lookup, one
from worldkv.chunk import Lineage
from worldkv.errors import DeadlineExceeded, OverBudget, Unavailable
from worldkv.wire_retriever import Found, Lookup


async def test_adding_at_the_bound_makes_room_and_tells_what_is_new():
    others = [Lineage.begin(bytes([n]) * 16) for n in range(2)]
    async with retriever(max_chunks=25) as made:
        for each in others:
            assert await made.client.add(each, metas(each, 12)) == 12
        assert await made.client.add(ROOT, metas(ROOT, 5)) == 5
        assert (await made.client.stats())[made.address].chunks == 17
        assert made.figure("added_total") == 29
        assert made.figure("failed_total") == made.client.counters["failures"] == 0


async def test_a_world_too_large_for_the_index_is_not_taken_for_a_small_one():
    async with retriever(max_chunks=20) as made:
        await keep(made.store, metas(ROOT, 30))
        finder = made.client.finder(ROOT, published=30)
        for _ in range(2):  # what was found out is remembered as it is
            with pytest.raises(Unavailable, match="more than there is room for"):
                await made.client.least_useful(ROOT, 3, 8.0, published=30)
            with pytest.raises(Unavailable):
                await finder.least_useful(3, 8.0)
            with pytest.raises(OverBudget):
                await one(made.client, lookup(published=30))
        assert made.client.counters["failures"] == 0


@pytest.mark.slow
async def test_what_is_compared_too_long_is_late_and_holds_nobody_up():
    async with retriever(serving=ServingConfig(inline_chunks=0)) as made:
        await made.client.add(ROOT, metas(ROOT, 40))
        made.replica.lookups._evicting.submit(time.sleep, 1.5)
        with pytest.raises(DeadlineExceeded):
            await made.client.least_useful(ROOT, 3, 8.0, deadline_seconds=0.3)
        asked = lookup()
        assert (await one(made.client, asked, deadline_seconds=1)).hits == oracle(metas(ROOT, 40), asked)
        assert len(await made.client.least_useful(ROOT, 3, 8.0, deadline_seconds=30)) == 3


async def test_exclusions_without_end_beside_pending_chunks_leave_those():
    async with retriever() as made:
        await made.client.add(ROOT, metas(ROOT, 70))
        asked = lookup(exclude=range(70), pending=[meta(ROOT.key(70))], selector="pose")
        assert [hit.key.index for hit in (await one(made.client, asked)).hits] == [70]
        assert (await one(made.client, lookup(exclude=range(70)))) == Found([], 0, 0)


async def test_a_part_of_the_store_that_is_late_keeps_what_it_was_asked_about_alone():
    other = Lineage.begin(b"o" * 16)
    async with retriever() as made:
        await keep(made.store, metas(ROOT, 3))
        await made.client.add(ROOT, metas(ROOT, 3))
        await made.client.add(other, metas(other, 3))
        scan = made.store.scan

        def late(branch, *rest):
            if branch == ROOT.root:
                raise DeadlineExceeded("late, on purpose")
            return scan(branch, *rest)

        vars(made.store)["scan"] = late
        assert await made.client.remove([*ROOT.keys(3), *other.keys(3)]) == 3
        assert (await made.client.stats())[made.address].chunks == 3


async def test_lookups_with_large_descriptors_fit_their_messages():
    descriptor = np.ones(20_000, np.float32)
    view = replace(query(), descriptor=descriptor)
    async with retriever() as made:
        known = metas(ROOT, 5)
        await made.client.add(ROOT, known)
        found = await made.client.nearest([Lookup(ROOT, view, 3) for _ in range(100)])
        assert all(isinstance(each, Found) for each in found)
        finder = made.client.finder(ROOT, "pose")
        finder._pending = {
            key: replace(meta(key), descriptor=np.ones(200_000, np.float32)) for key in [*ROOT.keys(20)][5:]
        }
        assert await finder.nearest(query(), 4)


async def test_connections_of_tenants_that_do_not_ask_are_ended(monkeypatch):
    monkeypatch.setattr(shards, "TICK_SECONDS", 0.01)
    made = shards.Shards(StoreConfig(shards=("127.0.0.1:1",), deadline_seconds=0.05), idle_seconds=0)
    busy = {"busy"}
    first = {tenant: made(tenant) for tenant in ("idle", "busy")}
    async with aclosing(made):
        keeping = asyncio.create_task(made.keep_few(lambda: busy))
        async with asyncio.timeout(30):
            while made._known.keys() != {"busy"}:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.01)
        assert made("busy") is first["busy"]
        assert made("idle") is not first["idle"]
        keeping.cancel()
