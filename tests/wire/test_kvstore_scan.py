"""What a shard lists of a branch, message by message: keys in order, and the first bytes of their parts."""

from typing import Any

import pytest

from tests.wire.shard import BRANCH, Caller, body, calling, inline, kv, part
from tests.wire.test_kvstore_tiers import Below
from worldkv import rpc, wire
from worldkv.errors import InvalidInput, Unavailable
from worldkv.store import PartKey
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb


async def test_scan_is_in_order_and_filters():
    async with calling() as caller:
        keys = [each(n) for n in range(5) for each in (part, kv)]
        for key in reversed(keys):
            await caller.keep(key, body(10))

        async def scan(**fields: Any) -> list[PartKey]:
            request = pb.ScanRequest(branch=BRANCH, **fields)
            return [wire.key_of(key) async for some in caller.stub.Scan(request) for key in some.keys]

        assert await scan() == keys
        assert await scan(begin=1, end=3) == keys[2:6]
        assert await scan(part=chunk_pb2.PART_KV, begin=3) == [kv(3), kv(4)]
        with pytest.raises(InvalidInput, match="16 bytes"), rpc.translated():
            async for _ in caller.stub.Scan(pb.ScanRequest(branch=b"abc")):
                pass


async def test_a_long_scan_comes_in_several_messages(monkeypatch):
    monkeypatch.setattr("services.kvstore.servicer.SCAN_KEYS", 7)
    async with calling() as caller:
        await caller.put(*(inline(n, kv(n), b"x") for n in range(20)))
        some = [len(each.keys) async for each in caller.stub.Scan(pb.ScanRequest(branch=BRANCH))]
        assert some == [7, 7, 6]


async def listed(caller: Caller, **fields: Any) -> list[tuple[PartKey, bytes]]:
    """Keys and heads of a scan; no message has keys without heads or is too large."""
    found: list[tuple[PartKey, bytes]] = []
    async for some in caller.stub.Scan(pb.ScanRequest(branch=BRANCH, **fields)):
        assert some.ByteSize() < 2 << 20
        found += zip(map(wire.key_of, some.keys), some.heads, strict=True)
    return found


@pytest.mark.parametrize("count", [1, 1000, 64 << 10])
async def test_heads_come_with_the_keys_of_a_scan_and_are_no_use_of_a_part(count):
    data = {part(n): body(1 + 3000 * n, n) for n in range(40)} | {kv(0): body(2_000_000)}
    async with calling() as caller:
        await caller.put(*(inline(n, key, each) for n, (key, each) in enumerate(data.items())))
        uses = {key: held.used for (_, key), held in caller.shard.tiers.ram._ledger.held.items()}
        order = sorted(data, key=lambda key: key.place)
        assert await listed(caller, head_bytes=count) == [(key, data[key][:count]) for key in order]
        assert {key: held.used for (_, key), held in caller.shard.tiers.ram._ledger.held.items()} == uses


async def test_a_head_has_an_end():
    async with calling() as caller:
        await caller.keep(kv(), body(200_000))
        assert await listed(caller, head_bytes=1 << 20) == [(kv(), body(200_000)[: 64 << 10])]


async def test_heads_of_what_redis_alone_has_come_from_there_and_are_not_promoted():
    below = Below()
    async with calling(lower=below) as caller:
        await caller.keep(part(0), body(2000))
        below.held["default", part(1)] = body(2000, 1)
        assert await listed(caller, head_bytes=500) == [(part(0), body(500)), (part(1), body(2000, 1)[:500])]
        assert await listed(caller, head_bytes=500) == [(part(0), body(500)), (part(1), body(2000, 1)[:500])]
        assert caller.shard.tiers.counts["promoted"] == 0
        assert (await caller.stats()).parts == 1


async def test_a_tier_that_fails_between_keys_and_heads_leaves_heads_out(monkeypatch):
    below = Below()
    async with calling(lower=below) as caller:
        await caller.keep(part(0), body(2000))
        below.held["default", part(1)] = body(2000, 1)

        async def unavailable(*_: Any) -> dict[PartKey, bytes]:
            raise Unavailable("gone")

        monkeypatch.setattr(below, "first_bytes", unavailable)
        assert await listed(caller, head_bytes=500) == [(part(0), body(500)), (part(1), b"")]
