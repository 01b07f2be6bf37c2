"""What a shard over a lower tier promises, and what it does not do for the sake of speed."""

import asyncio
from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from services.kvstore.lower import Into, TierConfig
from services.kvstore.ram import RamConfig
from tests.wire.shard import CONFIG, body, calling, inline, kv, part, until
from tests.wire.test_kvstore_tiers import Below, Described, delete, settled
from worldkv import rpc
from worldkv.errors import Unavailable
from worldkv.store import Level, Miss, PartKey

SMALL = replace(CONFIG, ram=RamConfig(budget_bytes=1 << 20, prefix="worldkv-test"))


@pytest.fixture
def below() -> Below:
    return Below()


async def test_what_comes_from_the_lower_tier_never_takes_the_room_of_a_last_copy(below):
    async with calling(SMALL, below) as caller:
        below.full = True
        for n in range(2):
            await caller.keep(kv(n), body(400_000, n))
        await until(lambda: caller.shard.tiers.counts["dropped"] == 2)
        below.held["default", kv(7)] = body(400_000, 7)
        assert await caller.get(kv(7)) == [body(400_000, 7)], "it passes through"
        assert await caller.get(kv(0), kv(1)) == [body(400_000, 0), body(400_000, 1)]
        assert caller.shard.tiers.ram.stats().evicted == 0
        below.full = False
        for n in range(2):
            assert await caller.keep(kv(n), body(400_000, n)) == Level.ONE
        await settled(caller)
        assert await caller.get(kv(7)) == [body(400_000, 7)]
        assert caller.shard.tiers.ram.stats().evicted == 1, "now it may make room"
        assert await caller.get(kv(0), kv(1)) == [body(400_000, 0), body(400_000, 1)]


@pytest.mark.slow
async def test_an_immutable_part_is_answered_in_time_and_reaches_a_slow_tier_later(below):
    async with calling(lower=below) as caller:
        below.slow = 3
        assert (await caller.put(inline(0, part(), body(1000)), seconds=1))[0] == Level.ONE
        assert await caller.get(part()) == [body(1000)]
        assert (await caller.stats()).waiting == 1
        assert (await caller.put(inline(0, part(), body(1000)), seconds=1))[0] == Level.ONE, "still on its way"
        await settled(caller)
        assert below.held.keys() == {("default", part())}
        assert below.asked == 1, "what was on its way was not begun again"
        assert await caller.keep(part(), body(1000)) == Level.REDIS
        assert caller.shard.tiers.counts["copied_up"] == 0


class Throttled(Below):
    """Bytes come only when `flow` is set, into room that was made long before."""

    def __init__(self) -> None:
        super().__init__()
        self.flow, self.begun = asyncio.Event(), 0

    async def get(self, tenant: str, key: PartKey, into: Into) -> Described | Miss:
        data = self.held[tenant, key]
        views = into(len(data), xxh3_64_intdigest(data))
        self.begun += 1
        await self.flow.wait()
        at = 0
        for view in views or ():
            view[:] = data[at : at + view.nbytes]
            at += view.nbytes
        return Described(len(data), xxh3_64_intdigest(data))


async def test_a_slow_tier_leaves_room_for_who_puts():
    below = Throttled()
    async with calling(SMALL, below) as caller:
        for n in range(8):
            below.held["default", kv(n)] = body(200_000, n)
        gets = [asyncio.create_task(caller.get(kv(n))) for n in range(8)]
        await until(lambda: below.begun == 8)
        assert await caller.keep(kv(9), body(700_000)) == Level.ONE
        below.flow.set()
        assert await asyncio.gather(*gets) == [[body(200_000, n)] for n in range(8)]
        assert caller.shard.tiers._promoting_bytes == 0
        assert await caller.get(kv(9)) == [body(700_000)]


async def test_a_slow_tier_is_written_behind_within_bounds(below):
    config = replace(CONFIG, tiers=TierConfig(queue_bytes=25_000, retry_seconds=0.02, flush_seconds=0.1))
    async with calling(config, below) as caller:
        below.slow = 0.1
        for n in range(50):
            await caller.keep(kv(n), body(10_000, n))
        tiers = caller.shard.tiers
        assert tiers.behind is not None
        assert tiers.behind.queued_bytes <= 25_000
        assert tiers.counts["dropped"] >= 40
        below.slow = 0.0
        await settled(caller)
        assert tiers.counts["behind"] == len(below.held) == 50 - tiers.counts["dropped"]


async def test_a_chunk_is_not_called_deleted_until_it_stays_so(below):
    async with calling(lower=below) as caller:
        await caller.put(inline(0, part(), body(10)), inline(1, kv(), body(10)))
        await settled(caller)
        below.down = True
        with pytest.raises(Unavailable, match="not for good"), rpc.translated():
            await delete(caller, part())
        assert await caller.get(part(), kv()) == ["DELETED", "DELETED"], "nobody reads it here meanwhile"
        with pytest.raises(Unavailable, match="not for good"), rpc.translated():
            await delete(caller, part())
        below.down = False
        await delete(caller, part())
    async with calling(lower=below) as caller:
        assert await caller.get(part()) == ["DELETED"]
