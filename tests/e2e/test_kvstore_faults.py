"""One shard as a process, and what may happen to it, to its callers and to its Redis."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.shard_process import (
    CONFIG,
    STREAMED,
    Process,
    data,
    kv,
    nothing_waits,
    part,
    put,
    right,
    shard,
    shard_over,
    stats,
    wait_until,
)
from tests.redis_process import become, redis_process
from worldkv import worlds
from worldkv.chunk import ChunkKey
from worldkv.client import KVClient, fixed
from worldkv.errors import Conflict, OverBudget, Unavailable, WorldKVError
from worldkv.format import Frame
from worldkv.store import Level, Miss, PartKey
from worldkv.v1.chunk_pb2 import LEVEL_ONE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def redis():
    with redis_process() as made:
        yield made


@pytest.mark.redis
async def test_kill_in_the_middle_of_puts_and_gets_loses_nothing_that_was_acknowledged(redis):
    async with shard_over(redis) as (made, client):
        safe: set[PartKey] = set()

        async def churn(n: int) -> None:
            for index in range(n, 400, 4):
                try:
                    levels = await client.put({part(index): Frame.of(data(part(index), 50_000))})
                    await right(client, part(index), part(max(0, index - 8)))
                except WorldKVError:
                    return
                safe.update(key for key, level in levels.items() if level is Level.REDIS)

        walkers = asyncio.gather(*map(churn, range(4)))
        await become(lambda: len(safe) > 20)
        await made.end(signal.SIGKILL)
        await walkers
        await made.start()
        async with KVClient(fixed(made.address), CONFIG) as again:
            assert await right(again, *safe) == [None] * len(safe)
            assert (await again.put({kv(): Frame.of(b"x")})) == {kv(): Level.ONE}
        await made.at_rest()


WRITER = """
import asyncio, sys
from tests.wire.shard import body, inline, kv
from worldkv import rpc
async def main():
    async with rpc.channel(sys.argv[1]) as channel:
        frames = inline(0, kv(), body(12_000_000))
        async def some():
            for frame in frames[:4]:
                yield frame
            print("under way", flush=True)
            await asyncio.sleep(60)
        call = channel.stream_stream("/worldkv.v1.KVStore/Put")
        async for _ in call(some(), timeout=float(sys.argv[2])):
            pass
asyncio.run(main())
"""


@pytest.mark.parametrize(("signal_", "seconds"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 2)])
async def test_a_writer_that_dies_or_freezes_in_the_middle_leaves_nothing(signal_, seconds):
    async with shard() as made, KVClient(fixed(made.address), STREAMED) as client:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, made.address, str(seconds), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert await writer.stdout.readline() == b"under way\n"
            writer.send_signal(signal_)
            await asyncio.sleep(0.5)

            async def all_of_the_budget_is_there() -> bool:
                try:
                    return await put(client, kv(1), size=16 << 20) == {Level.ONE}
                except OverBudget:
                    return False

            await wait_until(all_of_the_budget_is_there)
            assert (await stats(made.address)).parts == 1
            await made.at_rest()
        finally:
            with suppress(ProcessLookupError):
                writer.kill()
            await writer.wait()


READER = """
import asyncio, sys
from tests.wire.shard import kv
from worldkv import rpc, wire
from worldkv.v1 import kvstore_pb2 as pb
async def main():
    async with rpc.channel(sys.argv[1]) as channel:
        call = channel.unary_stream("/worldkv.v1.KVStore/Get", pb.GetRequest.SerializeToString)
        answers = call(pb.GetRequest(keys=[wire.key_message(kv())]), timeout=float(sys.argv[2]))
        await answers.read()
        print("under way", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize(("signal_", "seconds"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 3)])
async def test_a_reader_that_dies_or_freezes_in_the_middle_holds_nothing(signal_, seconds):
    key = PartKey(ChunkKey(bytes(range(16)), 0), "kv")
    async with shard() as made, KVClient(fixed(made.address), STREAMED) as client:
        await put(client, key, size=12 << 20)
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, made.address, str(seconds), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert await reader.stdout.readline() == b"under way\n"
            reader.send_signal(signal_)
            assert await client.delete([key]) == 1
            await made.at_rest()
            assert await put(client, kv(1), size=16 << 20) == {Level.ONE}, "all of the room is there"
        finally:
            with suppress(ProcessLookupError):
                reader.kill()
            await reader.wait()


@pytest.mark.redis
async def test_a_byte_flipped_in_redis_is_never_data(redis):
    async with shard_over(redis) as (made, client):
        await put(client, part(), kv())
        await made.end(signal.SIGTERM)
        with redis.client() as direct:
            for name in direct.keys("wkv:p:*"):
                direct.setrange(name, 777, bytes((direct.getrange(name, 777, 777)[0] ^ 1,)))
        await made.start()
        async with KVClient(fixed(made.address), CONFIG) as again:
            assert await right(again, part(), kv()) == [Miss.CORRUPT] * 2
            assert await put(again, part(), kv()) == {Level.REDIS, Level.ONE}
            assert await right(again, part(), kv()) == [None] * 2
        await made.at_rest()


async def test_late_writes_to_a_world_that_was_removed_are_refused_or_swept():
    async with shard() as made, KVClient(fixed(made.address), CONFIG) as client:
        before = await stats(made.address)
        lineage = (await worlds.begin(client.worlds, "harbour")).world.lineage
        branch = lineage.head
        written = [PartKey(ChunkKey(branch, n), kind) for n in range(4) for kind in ("part", "kv")]
        await put(client, *written)
        assert (await worlds.remove(client, client.worlds, "harbour")).frames == 8
        with pytest.raises(Conflict):
            await put(client, written[0])
        late = PartKey(ChunkKey(branch, 4), "part")
        await put(client, late)
        assert (await worlds.sweep(client, client.worlds)).frames == 1
        after = await stats(made.address)
        assert (after.used_bytes, after.parts) == (before.used_bytes, before.parts)
        assert [each async for each in client.worlds.list()] != [], "until a sweep found nothing"
        await worlds.sweep(client, client.worlds)
        assert [each async for each in client.worlds.list()] == []


@pytest.mark.redis
async def test_redis_that_dies_and_comes_back_empty_is_filled_again(redis):
    async with shard_over(redis) as (made, client):
        assert await put(client, part(0)) == {Level.REDIS}
        redis.kill()
        assert await put(client, part(1), kv(1)) == {Level.ONE}
        assert await right(client, part(0), part(1), kv(1), kv(7)) == [None, None, None, Miss.TIER_DOWN]
        told = await stats(made.address)
        assert (told.level, told.waiting) == (LEVEL_ONE, 1)
        with pytest.raises(Unavailable):
            await client.put({part(2): Frame.of(b"x")}, least=Level.REDIS)
        redis.start()

        async def copied() -> bool:
            with redis.client() as direct:
                manifests = [key for key in direct.keys("*") if b":h:" in key]
            return len(manifests) >= 2 and (await stats(made.address)).waiting == 0

        await wait_until(copied)
        assert await put(client, part(2)) == {Level.REDIS}
        await made.end(signal.SIGKILL)
        await made.start()
        async with KVClient(fixed(made.address), CONFIG) as again:
            assert await right(again, part(0), part(1), part(2)) == [None] * 3


@pytest.mark.redis
async def test_a_frozen_redis_costs_one_timeout_and_then_nothing(redis):
    async with shard_over(redis) as (made, client):
        assert await put(client, part(0)) == {Level.REDIS}
        redis.freeze()
        try:
            assert await put(client, part(1)) == {Level.ONE}
            assert await put(client, *map(part, range(2, 20))) == {Level.ONE}
            assert await right(client, part(0), part(5)) == [None, None]
            assert (await stats(made.address)).waiting == 19
        finally:
            redis.thaw()
        await wait_until(lambda: nothing_waits(made))
        assert await put(client, part(30)) == {Level.REDIS}


@pytest.mark.redis
async def test_a_full_redis_refuses_nobody():
    with redis_process("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as redis:
        async with shard_over(redis) as (made, client):
            levels = [await put(client, part(n), size=500_000) for n in range(12)]
            assert levels[0] == {Level.REDIS}
            assert levels[-1] == {Level.ONE}
            assert await right(client, *map(part, range(12)), size=500_000) == [None] * 12
            assert (await stats(made.address)).waiting > 0
            await client.delete([part(n) for n in range(11)])
            await wait_until(lambda: nothing_waits(made))


@pytest.mark.redis
async def test_a_shard_told_to_end_writes_what_waits(redis):
    async with shard_over(redis) as (made, client):
        keys = [kv(n) for n in range(20)]
        await put(client, *keys, size=400_000)
        said = await made.end(signal.SIGTERM)
        assert "Traceback" not in said
        await made.start()
        async with KVClient(fixed(made.address), CONFIG) as again:
            assert await right(again, *keys, size=400_000) == [None] * 20


async def flip(made: Process, key: PartKey) -> None:
    """Change a byte in the shard's memory, behind its back."""
    arena = Path("/dev/shm", (await stats(made.address)).arena.name)
    content = await asyncio.to_thread(arena.read_bytes)
    at = content.index(data(key, 50_000)) + 777
    fd = os.open(arena, os.O_RDWR)
    os.pwrite(fd, bytes((content[at] ^ 1,)), at)
    os.close(fd)


@pytest.mark.redis
@pytest.mark.parametrize("config", [CONFIG, STREAMED], ids=["shared", "streamed"])
async def test_a_byte_flipped_in_memory_is_never_data(redis, config):
    async with shard() as alone, KVClient(fixed(alone.address), config) as client:
        await put(client, kv())
        await flip(alone, kv())
        assert await right(client, kv()) == [Miss.CORRUPT]
        assert await put(client, kv()) <= {Level.ONE}
        assert await right(client, kv()) == [None]
    async with shard_over(redis) as (made, client):
        await put(client, part())
        await flip(made, part())
        assert await right(client, part()) == [None], "Redis has it"


async def test_a_full_arena_refuses_and_recovers():
    async with shard() as made, KVClient(fixed(made.address), CONFIG) as client:
        before = (await stats(made.address)).used_bytes
        for n in range(8):
            await put(client, part(n), size=2 << 20)
        for key in (part(8), kv(8)):
            with pytest.raises(OverBudget):
                await put(client, key, size=2 << 20)
        assert await right(client, *map(part, range(8)), size=2 << 20) == [None] * 8
        await client.delete([part(n) for n in range(8)])
        assert (await stats(made.address)).used_bytes == before
        assert await put(client, part(9), size=15 << 20) == {Level.ONE}


async def test_two_hundred_clients_at_once():
    async with shard(RAM__BUDGET_BYTES=str(64 << 20)) as made:

        async def one(n: int) -> None:
            async with KVClient(fixed(made.address), CONFIG if n % 50 == 0 else STREAMED) as client:
                await put(client, part(n), kv(n), size=20_000)
                assert await right(client, part(n), kv(n), size=20_000) == [None, None]
                assert await client.delete([part(n)]) == 2

        await asyncio.gather(*map(one, range(200)))
        told = await stats(made.address)
        assert (told.used_bytes, told.parts) == (0, 0)
        await made.at_rest()
        assert await made.gauge("slots_used") == 0


async def test_settings_that_are_wrong_stop_the_process_with_words():
    for name, value, words in (
        ("NO_SUCH_KEY", "1", "WORLDKV_KVSTORE_NO_SUCH_KEY"),
        ("RAM__BUDGET_BYTES", str(1 << 50), "bytes of memory"),
    ):
        environment = {**os.environ, f"WORLDKV_KVSTORE_{name}": value}
        command = [sys.executable, "-m", "services.kvstore"]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
        _, said = await process.communicate()
        assert (process.returncode, words in said.decode()) == (1, True), said.decode()
        assert "Traceback" not in said.decode()
