"""The Redis tier against a real server, beyond the store's contract: what lies where, damage, orphans, promises."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_pieces import Manifest
from services.kvstore.redis_server import connect
from services.kvstore.redis_tier import RedisTier
from tests.redis_process import (
    PATIENCE,
    RedisProcess,
    RedisStore,
    become,
    connected,
    manifest_of,
    redis_process,
    redis_store,
    shared_process,
)
from worldkv.chunk import ChunkKey
from worldkv.errors import ChunkCorrupt, Conflict, InvalidConfig, InvalidInput, OverBudget
from worldkv.format import Frame, join
from worldkv.store import Miss, PartKey, RamStore

pytestmark = pytest.mark.redis

TENANT = "tenant"
BRANCH = b"b" * 16


def part(index: int = 0, branch: bytes = BRANCH) -> PartKey:
    return PartKey(ChunkKey(branch, index), "part")


def kv(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


async def put(tier: RedisTier, key: PartKey, data: bytes) -> None:
    await tier.put(TENANT, key, [memoryview(data)], xxh3_64_intdigest(data))


async def get(tier: RedisTier, key: PartKey) -> bytes | Miss:
    found = (await RedisStore(tier, TENANT).get([key]))[key]
    return found if isinstance(found, Miss) else join(found)


@pytest.fixture
async def tier() -> AsyncIterator[RedisTier]:
    async with connected(piece_bytes=100) as server:
        yield RedisTier(server)


def names(tier: RedisTier, pattern: str = "p:*") -> list[bytes]:
    """Names of the tier's keys, behind its back."""
    with shared_process().client() as client:
        return sorted(client.scan_iter(f"{tier._prefix}:{pattern}", count=1000))


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000, 12345])
async def test_bytes_come_back_from_pieces_into_any_buffers(tier: RedisTier, size: int):
    data = os.urandom(size)
    views = [memoryview(data[:7]), memoryview(b""), memoryview(data[7:150]), memoryview(data[150:])]
    await tier.put(TENANT, kv(), views, xxh3_64_intdigest(data))
    assert await get(tier, kv()) == data
    assert len(names(tier)) == -(-size // 100)


async def test_more_buffers_than_a_system_call_takes(tier: RedisTier):
    async with connected() as server:
        tier = RedisTier(server)
        data = os.urandom(9000)
        views = [memoryview(data)[n : n + 3] for n in range(0, len(data), 3)]
        await tier.put(TENANT, kv(), views, xxh3_64_intdigest(data))
        room = bytearray(len(data))
        into = [memoryview(room)[n : n + 2] for n in range(0, len(room), 2)]
        await tier.get(TENANT, kv(), lambda size, checksum: into)
        assert room == data


async def test_a_reader_may_decline(tier: RedisTier):
    await put(tier, kv(), b"x" * 250)
    asked: list[tuple[int, int]] = []
    found = manifest_of(await tier.get(TENANT, kv(), lambda *head: asked.append(head)))
    assert asked == [(250, xxh3_64_intdigest(b"x" * 250))] == [(found.size, found.checksum)]


async def test_tenants_are_apart(tier: RedisTier):
    await put(tier, part(), b"mine")
    assert await tier.heads("other", [part()]) == {part(): Miss.NEVER_STORED}
    assert await tier.delete("other", [part(1)]) == 0
    assert [key async for key in tier.scan("other", BRANCH)] == []
    assert await get(tier, part()) == b"mine"


async def test_first_bytes_come_without_the_rest(tier: RedisTier):
    data = os.urandom(1000)
    await put(tier, part(0), data)
    await put(tier, part(1), data[:5])
    await put(tier, kv(2), data)
    await tier.delete(TENANT, [part(1)])
    wanted = [part(0), part(1), kv(2), part(3)]
    assert await tier.first_bytes(TENANT, wanted, 40) == {part(0): data[:40], kv(2): data[:40]}
    assert await tier.first_bytes(TENANT, [part(0)], 500) == {part(0): data[:100]}, "its first piece has no more"
    assert await tier.first_bytes(TENANT, [], 40) == {}
    assert tier.counters.hits == 0


@pytest.mark.parametrize("tenant", ["", "a{b", "a/b", "a:b", "a*", "ä"])
async def test_odd_tenants_are_refused(tier: RedisTier, tenant: str):
    with pytest.raises(InvalidInput, match="tenant"):
        await tier.put(tenant, part(), [], 0)
    with pytest.raises(InvalidInput, match="tenant"):
        await tier.heads(tenant, [part()])


@pytest.mark.parametrize("key", [part(-1), part(1 << 63), part(0, b"short")])
async def test_odd_keys_are_refused(tier: RedisTier, key: PartKey):
    with pytest.raises(InvalidInput):
        await tier.put(TENANT, key, [], 0)


async def test_no_value_is_much_larger_than_a_piece_nor_wastes_memory():
    async with connected() as server:
        tier = RedisTier(server)
        await put(tier, kv(), os.urandom(5 << 20))
        with shared_process().client() as client:
            sizes = [client.strlen(name) for name in names(tier)]
            used = [client.memory_usage(name) for name in names(tier)]
        assert max(sizes) < 1 << 20
        assert sum(used) < 1.02 * sum(sizes), "the server's allocator wastes memory at this size"


async def test_pieces_vanish_by_themselves_until_the_manifest_is_written(tier: RedisTier):
    manifest = await tier._pieces.write("tenant/x", [memoryview(bytes(250))], 0)
    with shared_process().client() as client:
        assert all(0 < client.ttl(name) <= 600 for name in names(tier))
    assert await tier.sweep_orphans() == 0, "who writes is not swept away"
    assert await tier._pieces.commit("tenant/x", "kv", manifest) == b"kept"
    with shared_process().client() as client:
        assert [client.ttl(name) for name in names(tier)] == [-1, -1, -1]


async def test_a_put_that_took_too_long_is_not_kept_by_halves(tier: RedisTier):
    manifest = await tier._pieces.write("tenant/x", [memoryview(bytes(250))], 0)
    with shared_process().client() as client:
        client.delete(names(tier)[1])
    assert await tier._pieces.commit("tenant/x", "kv", manifest) == b"lost"
    assert names(tier) == names(tier, "h:*") == []


async def test_of_several_puts_of_one_key_one_stays_and_nothing_is_left_over(tier: RedisTier):
    texts = [bytes([n]) * 250 for n in range(6)]
    await asyncio.gather(*(put(tier, kv(), text) for text in texts))
    assert await get(tier, kv()) in texts
    assert len(names(tier)) == 3


async def test_a_chunk_deleted_while_it_is_put_stays_deleted(tier: RedisTier):
    manifest = await tier._pieces.write(f"{TENANT}/{BRANCH.hex()}/0", [memoryview(bytes(250))], 0)
    await tier.delete(TENANT, [part()])
    assert await tier._pieces.commit(f"{TENANT}/{BRANCH.hex()}/0", "kv", manifest) == b"deleted"
    assert names(tier) == []
    with pytest.raises(Conflict):
        await put(tier, part(), b"late")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda client, name: client.setrange(name, 50, b"\xff"), Miss.CORRUPT),
        (lambda client, name: client.append(name, b"!"), Miss.CORRUPT),
        (lambda client, name: client.set(name, b"short"), Miss.CORRUPT),
        (lambda client, name: client.delete(name), Miss.EVICTED),
    ],
)
@pytest.mark.parametrize("piece", [0, 1, 2])
async def test_damage_is_a_counted_miss_and_the_part_may_come_again(
    tier: RedisTier, harm: Any, reason: Miss, piece: int
):
    data = bytes(250)
    await put(tier, part(), data)
    with shared_process().client() as client:
        harm(client, names(tier)[piece])
    assert await get(tier, part()) is reason
    assert tier.counters.misses[reason] == 1
    assert await tier.heads(TENANT, [part()]) == {part(): reason}
    assert [key async for key in tier.scan(TENANT, BRANCH)] == []
    await put(tier, part(), data)
    assert await get(tier, part()) == data
    await become(lambda: len(names(tier)) == 3)


async def test_a_damaged_manifest_is_a_miss_and_the_part_may_come_again(tier: RedisTier):
    await put(tier, part(), bytes(250))
    head = names(tier, "h:*")[0]
    with shared_process().client() as client:
        packed = bytearray(client.hget(head, "part"))
        packed[3] ^= 1
        client.hset(head, "part", bytes(packed))
    assert await get(tier, part()) is Miss.CORRUPT
    await put(tier, part(), bytes(250))
    assert await get(tier, part()) == bytes(250)
    assert await tier.sweep_orphans() == 3, "nobody knew the names of the pieces"
    assert await get(tier, part()) == bytes(250)
    assert tier.counters.orphans == 3


async def test_a_sweep_takes_what_nobody_names_and_nothing_else(tier: RedisTier):
    for n in range(5):
        await put(tier, part(n), bytes(250))
    with shared_process().client() as client:
        client.hdel(names(tier, "h:*")[2], "part")
        client.rename(names(tier, "h:*")[0], f"{tier._prefix}:elsewhere")
    assert await tier.sweep_orphans() == 6
    assert await tier.sweep_orphans() == 0
    assert len(names(tier)) == 9


async def test_a_tier_sweeps_by_itself():
    async with connected(piece_bytes=100, sweep_seconds=0.01) as server:
        tier = RedisTier(server)
        await put(tier, part(), bytes(250))
        with shared_process().client() as client:
            client.delete(*names(tier, "h:*"))
        sweeping = asyncio.create_task(tier.keep_swept())
        await become(lambda: not names(tier))
        sweeping.cancel()


async def test_deleted_parts_leave_only_a_tombstone(tier: RedisTier):
    for n in range(3):
        await put(tier, part(n), bytes(250))
        await put(tier, kv(n), bytes(250))
    assert await tier.delete(TENANT, [part(n) for n in range(3)]) == 6
    assert names(tier) == names(tier, "b:*") == []
    with shared_process().client() as client:
        assert [client.hgetall(name) for name in names(tier, "h:*")] == [{b"deleted": b"1"}] * 3


async def test_a_long_branch_is_listed_in_order(tier: RedisTier):
    wanted = [0, 255, 256, 257, 700, 65536, 1 << 40, (1 << 63) - 1]
    await asyncio.gather(*(put(tier, part(n), b"x") for n in [*wanted, *range(300, 600)]))
    listed = [key.chunk.index async for key in tier.scan(TENANT, BRANCH)]
    assert listed == sorted([*wanted, *range(300, 600)])


keys = st.builds(PartKey, st.builds(ChunkKey, st.just(BRANCH), st.integers(0, 3)), st.sampled_from(["part", "kv"]))
commands = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=9)),
    st.tuples(st.just("get"), keys, st.just(b"")),
    st.tuples(st.just("delete"), keys, st.just(b"")),
    st.tuples(st.just("scan"), keys, st.just(b"")),
)


@settings(max_examples=20)
@given(st.lists(commands, max_size=25))
def test_random_commands_agree_with_a_store_in_memory(steps: list[tuple[str, PartKey, bytes]]):
    async def both() -> None:
        async with redis_store(piece_bytes=2) as redis:
            ram = RamStore(1 << 20)
            for verb, key, data in steps:
                assert await _done(redis, verb, key, data) == await _done(ram, verb, key, data), (verb, key)
            assert await redis.tier.sweep_orphans() == 0

    asyncio.run(both())


async def _done(store: Any, verb: str, key: PartKey, data: bytes) -> object:
    """What a command answers, or raises, without its level and words."""
    if verb == "put":
        try:
            return list(await store.put({key: Frame.of(data)}))
        except Conflict:
            return Conflict
    if verb == "get":
        found = (await store.get([key]))[key]
        return found if isinstance(found, Miss) else join(found)
    return await store.delete([key]) if verb == "delete" else [each async for each in store.scan(BRANCH)]


@given(st.integers(0, 2000), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.data())
def test_a_manifest_notices_every_flipped_byte(size: int, checksum: int, note: int, data: st.DataObject):
    manifest = Manifest(size, checksum, 100, "0a" * 8, bytes(8 * -(-size // 100)), note)
    packed = bytearray(manifest.pack())
    assert Manifest.unpack(bytes(packed)) == manifest
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ChunkCorrupt):
        Manifest.unpack(bytes(packed))


@given(st.binary(max_size=200))
def test_bytes_of_no_manifest_are_refused(noise: bytes):
    for data in (noise, noise + xxh3_64_intdigest(noise).to_bytes(8, "little")):
        with pytest.raises(ChunkCorrupt):
            Manifest.unpack(data)


async def test_a_server_that_may_drop_what_must_stay_is_told_of(caplog: pytest.LogCaptureFixture):
    with redis_process("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as process:
        async with connect(RedisConfig(process.url, timeout_seconds=PATIENCE)):
            assert "allkeys-lru" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "appendonly"),
        (["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync|WAITAOF"),
        (["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"], "rewrite|WAITAOF"),
    ],
)
async def test_a_server_that_cannot_promise_its_disk_is_refused_with_words(options: list[str], says: str):
    with redis_process(*options) as process:
        config = RedisConfig(process.url, durable="fsync", timeout_seconds=PATIENCE)
        if options and _waits_for_disk(process):
            async with connect(config) as server:  # WAITAOF makes the promise
                await put(RedisTier(server), kv(), b"safe")
                await put(RedisTier(server), kv(), b"held")
            return
        with pytest.raises(InvalidConfig, match=says):
            async with connect(config):
                pass


def _waits_for_disk(process: RedisProcess) -> bool:
    with process.client() as client:
        major, minor = client.info()["redis_version"].split(".")[:2]
    return (int(major), int(minor)) >= (7, 2)


async def test_what_was_acknowledged_as_on_disk_survives_a_crash():
    with redis_process("--appendonly", "yes", "--appendfsync", "always") as process:
        async with connect(RedisConfig(process.url, durable="fsync", timeout_seconds=PATIENCE)) as server:
            tier = RedisTier(server)
            await put(tier, part(), b"kept" * 1000)
            await tier.delete(TENANT, [part(1)])
            process.kill()
            process.start()
            await server.ask()
            assert await get(tier, part()) == b"kept" * 1000
            assert await get(tier, part(1)) is Miss.DELETED


async def test_a_full_server_refuses_and_keeps_nothing_of_it():
    with redis_process("--maxmemory", "24mb", "--maxmemory-policy", "noeviction") as process:
        async with connect(RedisConfig(process.url, timeout_seconds=PATIENCE)) as server:
            tier = RedisTier(server)
            await put(tier, part(), bytes(8 << 20))
            for _ in range(3):
                with pytest.raises(OverBudget, match="room"):
                    await put(tier, kv(1), bytes(40 << 20))
            assert tier.available, "a full server is not a dead one"
            assert await get(tier, kv(1)) is Miss.NEVER_STORED
            with process.client() as client:
                assert len(list(client.scan_iter("wkv:p:*"))) == 9
                client.config_set("maxmemory", 1)
            with pytest.raises(OverBudget):
                await put(tier, kv(2), b"")
            await put(tier, part(), b"held already")
            assert await tier.delete(TENANT, [part()]) == 1, "a full server can be emptied"
            assert await get(tier, part()) is Miss.DELETED
            with process.client() as client:
                client.config_set("maxmemory", 24 << 20)
            await put(tier, kv(1), bytes(8 << 20))
            assert await get(tier, kv(1)) == bytes(8 << 20)
