"""A shard to which bad things happen in the middle of another: damage, loss, want of threads, a shard that leaves."""

import asyncio
from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from services.kvstore import puts
from services.kvstore.leaving import Leaving
from services.kvstore.lower import Into, TierConfig
from services.kvstore.membership import Membership
from services.kvstore.ram import RamConfig
from tests.wire.shard import CONFIG, Caller, body, calling, inline, kv, part, until
from tests.wire.test_kvstore import staged
from tests.wire.test_kvstore_tiers import SMALL, Below, Described, delete, settled
from worldkv.client import ClientConfig, Holdings, fixed
from worldkv.shared import Staging
from worldkv.store import Level, Miss, PartKey


class Verifying(Below):
    """Takes what comes as it is while `flow` is set, and condemns what it reads and does not fit, as Redis does."""

    def __init__(self) -> None:
        super().__init__()
        self.flow, self.sums = asyncio.Event(), dict[PartKey, int]()

    async def put(self, tenant, key, views, checksum):
        await self._ask()
        if (tenant, key) not in self.held:
            self.held[tenant, key], self.sums[key] = b"".join(views), checksum
        await self.flow.wait()

    async def get(self, tenant: str, key: PartKey, into: Into) -> Described | Miss:
        data = self.held.get((tenant, key))
        if data is not None and xxh3_64_intdigest(data) != self.sums[key]:
            del self.held[tenant, key]
            return Miss.CORRUPT
        return await super().get(tenant, key, into)


def damage(caller: Caller, key: PartKey) -> None:
    """Turn a bit of what is in RAM."""
    held = caller.shard.tiers.ram.look("default", key)
    caller.shard.tiers.ram.arena.views(held.extents)[0][0] ^= 1


@pytest.mark.parametrize("sent", [True, False], ids=["sent before", "sent damaged"])
@pytest.mark.parametrize("key", [part(), kv()], ids=str)
async def test_damage_found_while_a_part_is_copied_up_deletes_nothing_for_good(key, sent):
    below = Verifying()
    async with calling(lower=below) as caller:
        below.down = True
        await caller.keep(key, body(1000))
        if not sent:
            damage(caller, key)
        below.down = False
        await until(lambda: below.held)
        if sent:
            damage(caller, key)
        assert await caller.get(key, verify=True) == [body(1000) if sent else "CORRUPT"]
        below.flow.set()
        await settled(caller)
        assert not below.gone
        assert (("default", key) in below.held) == sent
        await caller.keep(key, body(1000))
        await settled(caller)
        assert below.held["default", key] == body(1000)
        assert await caller.keep(key, body(1000)) == Level.REDIS


async def test_a_part_put_again_while_its_damaged_copy_was_on_its_way_is_copied_too():
    below = Verifying()
    async with calling(lower=below) as caller:
        below.down = True
        await caller.keep(part(), body(1000))
        damage(caller, part())
        below.down = False
        await until(lambda: below.held)
        caller.shard.tiers.ram.mark_corrupt("default", part())
        again = await caller.put(inline(0, part(), body(1000)), seconds=1)
        assert again == {0: Level.ONE}
        below.flow.set()
        await settled(caller)
        assert below.held["default", part()] == body(1000)
        assert caller.shard.tiers.ram.look("default", part()).below


async def test_a_lower_tier_that_lost_all_does_not_change_what_was_used_last():
    below = Below()
    config = replace(SMALL, tiers=TierConfig(writers=1, queue_bytes=700_000))
    async with calling(config, below) as caller:
        for n in range(4):
            await caller.keep(kv(n), body(200_000, n))
            await settled(caller)

        def by_use() -> list[PartKey]:
            held = caller.shard.tiers.ram._ledger.held
            return sorted(map(kv, range(4)), key=lambda key: held["default", key].used)

        below.held.clear()
        caller.shard.tiers.lost()
        assert by_use() == [*map(kv, range(4))]
        await settled(caller)
        assert by_use() == [*map(kv, range(4))]
        assert {key for _, key in below.held} == {kv(1), kv(2), kv(3)}, "the queue has room for the last ones"


async def test_what_redis_has_is_not_called_evicted_for_want_of_memory():
    below = Below()
    config = replace(CONFIG, ram=RamConfig(budget_bytes=1 << 20, prefix="worldkv-test"))
    async with calling(replace(config, tiers=replace(config.tiers, passing_bytes=1000)), below) as caller:
        await caller.keep(part(), body(500_000))
        below.full = True
        await caller.keep(part(1), body(900_000))
        assert await caller.get(part(), part(2)) == ["TIER_DOWN", "NEVER_STORED"]
        below.full = False
        await settled(caller)
        assert await caller.get(part()) == [body(500_000)]
        assert await delete(caller, part(1)) == 1
        assert await caller.get(part(1)) == ["DELETED"]


async def test_an_item_that_no_thread_copies_is_refused_and_its_room_comes_back(monkeypatch, caplog):
    def no_thread(*_, **__):
        raise RuntimeError("can't start new thread")

    async with calling() as caller:
        with Staging(1 << 20, prefix="worldkv-test-staging") as staging, staging.fill(body(1000)) as filled:
            assert filled
            room, checksum = filled
            frames = staged(kv(), staging, room.extents, checksum)
            with monkeypatch.context() as patched:
                patched.setattr(puts, "copy_checked", no_thread)
                assert await caller.put(frames, inline(1, kv(1), body(10))) == {0: "UNSPECIFIED", 1: Level.ONE}
            assert caller.shard.tiers.ram.stats().reserved_bytes == 0
            assert "can't start new thread" in caplog.text
            assert await caller.put(frames) == {0: Level.ONE}


@pytest.mark.parametrize("lower", [True, False])
async def test_a_part_that_another_shard_took_is_not_said_to_be_in_redis(lower):
    below = Below()
    below.down = True
    async with calling(lower=below if lower else None) as caller, calling() as other:
        await caller.keep(part(), body(1000))
        tiers = caller.shard.tiers

        async def holdings() -> Holdings:
            return Holdings(parts=tiers.ram.last_copies())

        members = fixed(other.address)
        done = await Leaving("a", members, Membership(), tiers.ram, holdings, ClientConfig(), 10).hand_over()
        assert done is not None
        assert (done.parts, tiers.ram.last_copies()) == (1, [])
        assert await caller.keep(part(), body(1000)) == Level.ONE
        below.down = False
        if lower:
            await settled(caller)
            assert await caller.keep(part(), body(1000)) == Level.REDIS
