"""A shard over a lower tier: where parts are read from, what is told of their level, and what happens meanwhile."""

import asyncio
import tomllib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xxhash

from services.kvstore.config import KVStoreConfig
from services.kvstore.gets import Gets
from services.kvstore.lower import Into, TierConfig
from services.kvstore.ram import RamConfig
from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_tier import RedisTier
from tests.example_files import complete
from tests.redis_process import connected
from tests.wire.shard import BRANCH, CONFIG, Caller, body, calling, inline, kv, part, until
from worldkv import rpc, wire
from worldkv.chunk import Branch
from worldkv.errors import Conflict, OverBudget, Unavailable
from worldkv.format import Kind
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb


class Described(NamedTuple):
    size: int
    checksum: int


class Below:
    """A lower tier in memory that may be down, full, or slow. Parts by tenant and key."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, PartKey], bytes] = {}
        self.gone: set[Any] = set()
        self.down = self.full = False
        self.slow = 0.0
        self.asked = 0

    @property
    def available(self) -> bool:
        return not self.down

    async def _ask(self) -> None:
        self.asked += 1
        await asyncio.sleep(self.slow)
        if self.down:
            raise Unavailable("down")

    async def put(self, tenant: str, key: PartKey, views: Sequence[memoryview], checksum: int) -> None:
        await self._ask()
        if (tenant, key.chunk) in self.gone:
            raise Conflict("deleted")
        if self.full:
            raise OverBudget("full")
        self.held[tenant, key] = b"".join(views)
        assert xxhash.xxh3_64_intdigest(self.held[tenant, key]) == checksum

    async def get(self, tenant: str, key: PartKey, into: Into) -> Described | Miss:
        await self._ask()
        if (tenant, key) not in self.held:
            return Miss.DELETED if (tenant, key.chunk) in self.gone else Miss.NEVER_STORED
        data = self.held[tenant, key]
        checksum, at = xxhash.xxh3_64_intdigest(data), 0
        for view in into(len(data), checksum) or ():
            view[:] = data[at : at + view.nbytes]
            at += view.nbytes
        return Described(len(data), checksum)

    async def first_bytes(self, tenant: str, keys: Collection[PartKey], count: int) -> dict[PartKey, bytes]:
        await self._ask()
        return {key: self.held[tenant, key][:count] for key in keys if (tenant, key) in self.held}

    async def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        await self._ask()
        chunks = {key.chunk for key in keys if key.kind == "part"}
        self.gone |= {(tenant, chunk) for chunk in chunks}
        doomed = [(who, key) for who, key in self.held if who == tenant and (key in keys or key.chunk in chunks)]
        for name in doomed:
            del self.held[name]
        return len(doomed)

    async def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        await self._ask()
        for _, key in sorted(self.held, key=lambda name: (name[1].chunk.index, name[1].kind != "part")):
            if begin <= key.chunk.index and (end is None or key.chunk.index < end) and kind in (None, key.kind):
                yield key


@pytest.fixture
def below() -> Below:
    return Below()


SMALL = replace(CONFIG, ram=RamConfig(budget_bytes=1 << 20, prefix="worldkv-test"))


async def settled(caller: Caller) -> None:
    behind = caller.shard.tiers.behind
    assert behind is not None
    await until(lambda: behind.idle)


async def delete(caller: Caller, *keys: PartKey) -> int:
    answer = await caller.stub.Delete(pb.DeleteRequest(keys=map(wire.key_message, keys)))
    return int(answer.dropped)


async def test_immutable_parts_are_in_the_lower_tier_when_acknowledged_and_kv_soon(below):
    async with calling(lower=below) as caller:
        assert await caller.keep(part(), body(1000)) == Level.REDIS
        assert below.held["default", part()] == body(1000)
        assert await caller.keep(kv(), body(5000)) == Level.ONE
        await settled(caller)
        assert below.held["default", kv()] == body(5000)
        assert await caller.keep(kv(), body(5000)) == Level.REDIS
        assert await caller.keep(kv(1), body(10), level=chunk_pb2.LEVEL_REDIS) == Level.REDIS
        assert caller.shard.tiers.counts["behind"] == 1


async def test_what_made_room_is_read_through_and_promoted(below):
    async with calling(SMALL, below) as caller:
        for n in range(4):
            await caller.keep(kv(n), body(400_000, n))
            await settled(caller)
        asked = below.asked
        assert await caller.get(*(kv(n) for n in range(4))) == [body(400_000, n) for n in range(4)]
        assert below.asked > asked
        asked = below.asked
        assert await caller.get(kv(3)) == [body(400_000, 3)]
        assert below.asked == asked


async def test_many_readers_of_one_part_read_it_once(below):
    async with calling(lower=below) as caller:
        below.held["default", kv()] = body(100_000)
        below.slow = 0.05
        found = await asyncio.gather(*(caller.get(kv()) for _ in range(20)))
        assert found == [[body(100_000)]] * 20
        assert below.asked == 1


async def test_a_part_that_ram_has_no_room_for_passes_through(below):
    async with calling(SMALL, below) as caller:
        below.held["default", kv()] = body(2_000_000)
        assert await caller.get(kv()) == [body(2_000_000)]
        assert caller.shard.tiers.ram.stats().parts == 0
        assert caller.shard.tiers._passing_bytes == 0
    config = replace(SMALL, tiers=TierConfig(passing_bytes=1000))
    async with calling(config, below) as caller:
        assert await caller.get(kv(), kv(1)) == ["TIER_DOWN", "NEVER_STORED"], "not gone, and not here"


async def test_a_lower_tier_that_is_down_lowers_the_level_and_gets_it_all_when_it_is_back(below):
    async with calling(lower=below) as caller:
        assert (await caller.stats()).level == chunk_pb2.LEVEL_REDIS
        below.down = True
        assert (await caller.stats()).level == chunk_pb2.LEVEL_ONE
        assert await caller.keep(part(), body(1000)) == Level.ONE
        assert await caller.keep(kv(), body(1000)) == Level.ONE
        assert await caller.keep(part(1), body(1000), level=chunk_pb2.LEVEL_REDIS) == "LEVEL_DOWN"
        assert (await caller.stats()).waiting == 1
        assert await caller.get(part(), kv(), kv(7), part(1)) == [body(1000), body(1000), "TIER_DOWN", "TIER_DOWN"]
        below.down = False
        await settled(caller)
        assert (await caller.stats()).waiting == 0
        assert below.held.keys() == {("default", part()), ("default", kv())}
        assert await caller.keep(part(), body(1000)) == Level.REDIS


async def test_a_full_lower_tier_leaves_kv_out_and_immutable_parts_waiting(below):
    async with calling(lower=below) as caller:
        below.full = True
        assert await caller.put(inline(0, part(), body(10)), inline(1, kv(), body(10))) == {0: 1, 1: 1}
        await until(lambda: caller.shard.tiers.counts["dropped"])
        assert (await caller.stats()).waiting == 1
        below.full = False
        await settled(caller)
        assert below.held.keys() == {("default", part())}


async def test_a_full_queue_leaves_kv_out_and_says_so(below):
    config = replace(CONFIG, tiers=TierConfig(queue_bytes=2500, retry_seconds=0.02, flush_seconds=0.1))
    async with calling(config, below) as caller:
        below.down = True
        for n in range(5):
            assert await caller.keep(kv(n), body(1000)) == Level.ONE
        assert caller.shard.tiers.counts["dropped"] == 3
        assert caller.shard.tiers.behind.queued_bytes == 2000


async def test_what_was_deleted_while_the_lower_tier_was_down_does_not_come_back(below):
    async with calling(lower=below) as caller:
        for n in range(3):
            await caller.put(inline(0, part(n), body(10)), inline(1, kv(n), body(10)))
        await settled(caller)
        below.down = True
        with pytest.raises(Unavailable, match=r"1 chunks are deleted here, but not for good: down"), rpc.translated():
            await delete(caller, part(0))
        assert await delete(caller, kv(1)) == 1, "no promise is made of KV"
        assert await caller.get(part(0), kv(0), kv(1)) == ["DELETED", "DELETED", "EVICTED"]
        assert await caller.keep(kv(1), body(20)) == Level.ONE
        below.down = False
        await settled(caller)
        assert below.held.keys() == {("default", key) for key in (part(1), kv(1), part(2), kv(2))}
        assert below.held["default", kv(1)] == body(20)
        assert await delete(caller, part(1)) == 2
        assert await caller.keep(part(0), body(10)) == "DELETED"


async def test_what_another_shard_deleted_is_deleted_here_too(below):
    async with calling(lower=below) as caller:
        await caller.keep(part(), body(10))
        below.gone.add(("default", part(1).chunk))
        assert await caller.get(kv(1)) == ["DELETED"]
        assert await caller.keep(part(1), body(10)) == "DELETED"
        assert await caller.keep(kv(1), body(10)) == "DELETED"


async def test_a_lower_tier_that_lost_all_is_filled_again(below):
    async with calling(lower=below) as caller:
        await caller.put(inline(0, part(), body(10)), inline(1, kv(), body(10)))
        await settled(caller)
        below.held.clear()
        caller.shard.tiers.lost()
        await settled(caller)
        assert below.held.keys() == {("default", part()), ("default", kv())}


async def test_scan_joins_both_tiers_and_does_not_answer_by_halves(below):
    async with calling(lower=below) as caller:
        await caller.keep(part(0), body(10))
        below.held["default", part(3)] = body(10)
        below.held["default", kv(0)] = body(10)

        async def scan() -> list[PartKey]:
            with rpc.translated():
                some = [each async for each in caller.stub.Scan(pb.ScanRequest(branch=BRANCH))]
            return [wire.key_of(key) for each in some for key in each.keys]

        assert await scan() == [part(0), kv(0), part(3)]
        below.down = True
        with pytest.raises(Unavailable):
            await scan()


async def test_a_deadline_gives_what_has_come_and_late_for_the_rest(below):
    async with calling(lower=below) as caller:
        await caller.keep(part(0), body(1000))
        below.held["default", kv(0)] = body(10)
        below.slow = 0.6
        assert await caller.get(part(0), kv(0), part(1), seconds=0.4) == [body(1000), "LATE", "LATE"]
        await until(lambda: caller.shard.tiers.counts["promoted"])
        assert await caller.get(kv(0), seconds=0.4) == [body(10)]


async def test_a_plan_whose_bytes_come_too_late_is_taken_back():
    async with calling() as caller:
        await caller.put(inline(0, kv(0), body(3_000_000)), inline(1, kv(1), body(10)))
        gets = Gets(caller.shard.tiers, caller.shard.metrics, caller.shard.config.serving)
        wanted = gets.wanted(pb.GetRequest(keys=[wire.key_message(kv(n)) for n in range(2)]))
        answers = gets.serve("default", wanted, 0.4)
        assert isinstance(wire.get_response(await anext(answers)), pb.Plan)
        assert isinstance(wire.get_response(await anext(answers)), wire.Piece)
        await asyncio.sleep(0.4)
        rest = [wire.get_response(each) async for each in answers]
        assert rest == [pb.Miss(item=n, reason=chunk_pb2.MISS_REASON_LATE) for n in range(2)]


async def test_a_put_given_up_while_it_is_kept_is_kept(below):
    async with calling(lower=below) as caller:
        below.slow = 0.2
        call = caller.putting(inline(0, part(), body(1000)))
        await until(lambda: below.asked)
        call.cancel()
        await until(lambda: below.held)
        await until(lambda: caller.shard.tiers.ram.stats().parts)
        below.slow = 0
        assert await caller.get(part()) == [body(1000)]


@pytest.mark.redis
async def test_a_real_redis_below():
    async with connected() as server, calling(SMALL, RedisTier(server)) as caller:
        assert await caller.keep(part(), body(300_000)) == Level.REDIS
        for n in range(4):
            await caller.keep(kv(n), body(400_000, n))
            await settled(caller)
        assert await caller.get(part(), *map(kv, range(4))) == [body(300_000), *(body(400_000, n) for n in range(4))]
        assert await delete(caller, part(0)) == 2
        assert await caller.get(kv(0), kv(1)) == ["DELETED", body(400_000, 1)]
    async with connected(prefix=server.config.prefix) as server, calling(SMALL, RedisTier(server)) as caller:
        assert await caller.get(kv(3), kv(0), part(0)) == [body(400_000, 3), "DELETED", "DELETED"]


def test_the_example_names_every_setting_with_its_default():
    file = Path(__file__).parents[2] / "services" / "kvstore" / "kvstore.toml"
    text = complete(file, KVStoreConfig)
    shown = text.replace("# [redis]", "[redis]")
    _, redis = shown.split("[redis]")
    written = tomllib.loads(redis.replace("\n# ", "\n"))
    default = RedisConfig()
    assert written == {each.name: getattr(default, each.name) for each in fields(default)}
