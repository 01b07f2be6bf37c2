"""A shard as a process: `python -m services.kvstore`, and what tests ask of it."""

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.redis_process import RedisProcess
from tests.slow_proxy import SlowProxy
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, Retry, fixed
from worldkv.format import Frame, join
from worldkv.rpc import channel
from worldkv.shared import remove_stale
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

BRANCH = b"b" * 16
SERVES = re.compile(rb"kvstore serves on ([^ ,]+), metrics on ([^ ,\n\"]+)")
CONFIG = ClientConfig(
    deadline_seconds=10,
    stall_seconds=5,
    landing_bytes=32 << 20,
    staging_bytes=32 << 20,
    retry=Retry(rest_seconds=0.1),
)
STREAMED = ClientConfig(deadline_seconds=20, shared=False, landing_bytes=32 << 20)


def part(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "part")


def kv(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


def data(key: PartKey, size: int) -> bytes:
    return (f"{key} ".encode() * (size // 20 + 1))[:size]


class Process:
    """A shard: `python -m services.kvstore` with a prefix of shared memory of its own."""

    def __init__(self, **settings: str) -> None:
        self.address, self.metrics = "127.0.0.1:0", "127.0.0.1:0"
        self.prefix = f"worldkv-{secrets.token_hex(4)}"
        self._settings = {"RAM__PREFIX": self.prefix, "TIERS__RETRY_SECONDS": "0.05", **settings}
        self.process: Any = None

    async def start(self) -> None:
        chosen = {
            "RAM__BUDGET_BYTES": str(16 << 20),
            "SERVICE__ADDRESS": self.address,
            "SERVICE__METRICS": self.metrics,
            "SERVICE__LOG": "text",
            "SERVICE__DRAIN_SECONDS": "1",
            **self._settings,
        }
        environment = {**os.environ, **{f"WORLDKV_KVSTORE_{name}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", "services.kvstore"]
        self.process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
        said = b""
        while not (found := SERVES.search(said)):
            line = await self.process.stderr.readline()
            assert line, said.decode()
            said += line
        self.address, self.metrics = found[1].decode(), found[2].decode().strip("'")
        self._reading = asyncio.create_task(self.process.stderr.read())

    async def end(self, number: signal.Signals) -> str:
        """End it; answers what it said."""
        self.process.send_signal(number)
        if number is signal.SIGTERM:
            self.process.send_signal(signal.SIGCONT)
        said = await self._reading
        await self.process.wait()
        return str(said, errors="replace")

    async def page(self) -> str:
        """The page of metrics."""
        url = f"http://{self.metrics}/metrics"
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())

    async def gauge(self, name: str) -> float:
        """A figure of the page of metrics."""
        (line,) = [each for each in (await self.page()).splitlines() if each.startswith(f"worldkv_kvstore_{name} ")]
        return float(line.split()[1])

    async def at_rest(self) -> None:
        """Wait until nothing is reserved or pinned, by figures that were taken after the call."""
        await asyncio.sleep(1.2)  # they are taken once a second
        for name in ("reserved_bytes", "pinned_bytes"):
            async with asyncio.timeout(60):
                while await self.gauge(name):  # noqa: ASYNC110 - another process has no event
                    await asyncio.sleep(0.1)


@asynccontextmanager
async def shard(**settings: str) -> AsyncIterator[Process]:
    made = Process(**settings)
    await made.start()
    try:
        yield made
    finally:
        if made.process.returncode is None:
            await made.end(signal.SIGTERM)
        remove_stale(made.prefix)  # of a process that was killed


@asynccontextmanager
async def shard_over(redis: RedisProcess | SlowProxy, **settings: str) -> AsyncIterator[tuple[Process, KVClient]]:
    known = {"REDIS__URL": redis.url, "REDIS__TIMEOUT_SECONDS": "0.5", "REDIS__LONGEST_RETRY_SECONDS": "0.2"}
    async with shard(**known, **settings) as made, KVClient(fixed(made.address), CONFIG) as client:
        yield made, client


async def put(client: KVClient, *keys: PartKey, size: int = 50_000) -> set[Level]:
    return set((await client.put({key: Frame.of(data(key, size)) for key in keys})).values())


async def right(client: KVClient, *keys: PartKey, size: int = 50_000) -> list[Miss | None]:
    """Why each is missing, None if it has the bytes it should; anything else fails."""
    found = await client.get(keys)
    for key, each in found.items():
        assert isinstance(each, Miss) or join(each) == data(key, size), key
    return [each if isinstance(each, Miss) else None for each in (found[key] for key in keys)]


async def stats(address: str) -> pb.KVStoreStatsResponse:
    async with channel(address) as made:
        return await KVStoreStub(made).Stats(pb.KVStoreStatsRequest())


async def wait_until(ask: Any) -> None:
    async with asyncio.timeout(60):
        while not await ask():  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.05)


async def nothing_waits(made: Process) -> bool:
    return (await stats(made.address)).waiting == 0
