"""How fast parts go into and out of Redis, against what redis-benchmark, written in C, moves through the same socket.

The tier runs in this process, checks every piece, and commits; the other side only moves one value of 4 MB again and
again, over one connection or as many as the tier has, whichever is faster. Neither touches a disk. Both run directly
one after the other, and one ratio is taken of each pair.
"""

from __future__ import annotations

import asyncio
import csv
import shutil
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import numpy as np
from redis import Redis
from xxhash import xxh3_64_intdigest

from benchmarks.registry import Case, bench
from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_server import connect
from services.kvstore.redis_tier import RedisTier
from worldkv.chunk import ChunkKey, new_branch
from worldkv.errors import NotFound
from worldkv.store import PartKey

VALUE_BYTES = 4_000_000
"""Of a value that redis-benchmark moves."""
SIZES = (16 * VALUE_BYTES, 64 * VALUE_BYTES)
"""Bytes of a part: 64 and 256 MB."""
ROUNDS = 5
"""Measured, for every size; one more, unmeasured, touches memory."""
CONNECTIONS = RedisConfig().connections
TENANT = "bench"

Move = Callable[[], Awaitable[None]]


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise NotFound(f"this benchmark needs the program {name}; Debian's redis-server and redis-tools have it")
    return found


@contextmanager
def redis_server() -> Iterator[Path]:
    """The socket of a Redis of its own."""
    with TemporaryDirectory(prefix="wkv-") as folder:
        path = Path(folder) / "redis.sock"
        command = [_program("redis-server"), "--save", "", "--port", "0", "--unixsocket", str(path), "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                sleep(0.02)
            yield path
        finally:
            process.terminate()
            process.wait()


def _config(socket: Path) -> RedisConfig:
    return RedisConfig(f"unix://{socket}", timeout_seconds=30.0)


def _plain_speed(socket: Path, verb: str, size: int) -> float:
    """Bytes a second that redis-benchmark moves by SET or GET, `size` in all; the faster of two ways to ask it."""
    return max(_plain(socket, verb, size // VALUE_BYTES, clients) for clients in (1, CONNECTIONS))


def _plain(socket: Path, verb: str, count: int, clients: int) -> float:
    command = [_program("redis-benchmark"), "-s", str(socket), "-d", str(VALUE_BYTES), "-c", str(clients)]
    command += ["-n", str(count), "-t", verb.lower(), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = next(row for row in csv.reader(done.stdout.splitlines()) if row and row[0] == verb)
    return float(row[1]) * VALUE_BYTES


def _settled(socket: Path) -> None:
    """Wait until the server has given back what was dropped."""
    with Redis(unix_socket_path=str(socket)) as client:
        while client.info("memory")["lazyfree_pending_objects"]:
            pass


async def _against_plain(socket: Path, verb: str, size: int, move: Move, after: Move) -> Case:
    """The speed of `move`, which moves `size` bytes, over the other's; `after` is not timed."""
    ratios, plain = [], []
    for round in range(1 + ROUNDS):
        base = await asyncio.to_thread(_plain_speed, socket, verb, size)
        begin = perf_counter()
        await move()
        speed = size / (perf_counter() - begin)
        await after()
        await asyncio.to_thread(_settled, socket)
        if round:
            ratios.append(speed / base)
            plain.append(base / 1e9)
    name = f"{size // 1_000_000} MB, {CONNECTIONS} connections; baseline: redis-benchmark, GB/s"
    return Case(name, statistics.median(ratios), "ratio", statistics.median(plain), ratios)


def _puts(tier: RedisTier, size: int) -> tuple[Move, Move]:
    """What puts a part, and what drops it again."""
    data = memoryview(np.random.default_rng(0).bytes(size))
    checksum, key = xxh3_64_intdigest(data), PartKey(ChunkKey(new_branch(), 0), "kv")

    async def put() -> None:
        await tier.put(TENANT, key, [data], checksum)

    async def drop() -> None:
        await tier.delete(TENANT, [key])

    return put, drop


async def _gets(tier: RedisTier, size: int) -> tuple[Move, Move]:
    """What gets a part that it put, and what looks whether it came."""
    data, room = memoryview(np.random.default_rng(0).bytes(size)), memoryview(bytearray(size))
    key = PartKey(ChunkKey(new_branch(), 0), "kv")
    await tier.put(TENANT, key, [data], xxh3_64_intdigest(data))

    async def get() -> None:
        await tier.get(TENANT, key, lambda size, checksum: [room])

    async def look() -> None:
        assert room == data, "a wrong byte came back"

    return get, look


async def _putting(size: int) -> Case:
    with redis_server() as socket:
        async with connect(_config(socket)) as server:
            return await _against_plain(socket, "SET", size, *_puts(RedisTier(server), size))


async def _getting(size: int) -> Case:
    with redis_server() as socket:
        async with connect(_config(socket)) as server:
            get, look = await _gets(RedisTier(server), size)
            await asyncio.to_thread(_plain, socket, "SET", 1, 1)  # what is then got again and again
            return await _against_plain(socket, "GET", size, get, look)


@bench("kv.redis.get", bar=">= 0.6", about="verified get of the Redis tier over redis-benchmark with 4 MB values")
def redis_get() -> Iterator[Case]:
    for size in SIZES:
        yield asyncio.run(_getting(size))


@bench("kv.redis.put", bar=">= 0.6", about="committed put of the Redis tier over redis-benchmark with 4 MB values")
def redis_put() -> Iterator[Case]:
    for size in SIZES:
        yield asyncio.run(_putting(size))
