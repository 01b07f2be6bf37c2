"""Real Redis servers for tests: started on a socket of their own, stopped, frozen and started again."""

import asyncio
import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from xxhash import xxh3_64_intdigest

from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_pieces import Manifest
from services.kvstore.redis_server import RedisServer, connect
from services.kvstore.redis_tier import RedisTier
from worldkv.chunk import Branch
from worldkv.format import Frame, Kind, join
from worldkv.store import Level, Miss, PartKey

PATIENCE = 30.0
"""Seconds that something may take on a slow machine."""


def redis_program(name: str = "redis-server") -> str:
    """The program, or the test is skipped. REDIS_SERVER in the environment is one to take instead, such as Valkey's."""
    name = os.environ.get("REDIS_SERVER", name)
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"no {name} program: `make redis` finds one")
    return found


class RedisProcess:
    """A Redis server on a unix socket, without persistence unless options say so."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket, self.url = folder / "redis.sock", f"unix://{folder / 'redis.sock'}"
        base = ["--save", "", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder)]
        self._command = [redis_program(), *base, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.answers() or self._process.poll() is not None)
        if self._process.poll() is not None:
            raise OSError(f"redis-server did not start: {' '.join(self._command)}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (RedisError, OSError):
                return False

    @contextmanager
    def client(self) -> Iterator[Any]:
        made = Redis.from_url(self.url, protocol=2)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def redis_process(*options: str) -> Iterator[RedisProcess]:
    """A server of a test's own."""
    with TemporaryDirectory(prefix="wkv-") as folder:  # short: a socket's path has at most a hundred characters
        made = RedisProcess(Path(folder), *options)
        try:
            made.start()
            yield made
        finally:
            made.kill()


@contextmanager
def redis_cluster(count: int = 3) -> Iterator[str]:
    """The URL of a cluster of so many nodes, without replicas."""
    ports, processes = [_free_port() for _ in range(count)], []
    with TemporaryDirectory(prefix="wkv-") as folder:
        try:
            for port in ports:
                place = Path(folder) / str(port)
                place.mkdir()
                command = [redis_program(), "--save", "", "--port", str(port), "--bind", "127.0.0.1"]
                command += ["--dir", str(place), "--cluster-enabled", "yes"]
                processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            _join(ports)
            yield f"redis://127.0.0.1:{ports[0]}"
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _join(ports: list[int]) -> None:
    clients: list[Any] = [Redis(port=port, protocol=2) for port in ports]
    try:
        for n, client in enumerate(clients):
            wait_for(partial(_quietly, client.ping))
            begin, end = n * 16384 // len(ports), (n + 1) * 16384 // len(ports)
            client.execute_command("CLUSTER", "ADDSLOTS", *range(begin, end))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        for client in clients:
            wait_for(partial(_complete, client, len(ports)))
    finally:
        for client in clients:
            client.close()


def _complete(client: Any, count: int) -> bool:
    found = client.cluster("INFO")
    return bool(found["cluster_state"] == "ok" and found["cluster_known_nodes"] == str(count))


def _quietly(ask: Callable[[], object]) -> bool:
    try:
        return bool(ask())
    except RedisError:
        return False


def _free_port() -> int:
    """A port that is free, and 10,000 above it another for the nodes' own talk."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def wait_for(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


async def become(true: Callable[[], bool]) -> None:
    """Wait until something is so, while other tasks run."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


@cache
def shared_process() -> RedisProcess:
    """A server for all tests that leave it as it is; lives as long as this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(redis_process())


@cache
def shared_cluster() -> str:
    """The URL of a cluster of three nodes for all tests that leave it as it is; lives as long as this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(redis_cluster())


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[RedisServer]:
    """A connection to the shared server or cluster, with names of its own; patient, for machines are slow."""
    url = shared_cluster() if settings.get("cluster") else shared_process().url
    config = RedisConfig(url, prefix=secrets.token_hex(4), timeout_seconds=PATIENCE)
    async with connect(replace(config, **settings)) as server:
        yield server


@asynccontextmanager
async def redis_store(**settings: Any) -> AsyncIterator["RedisStore"]:
    """The tier of the shared server or cluster as a store."""
    async with connected(**settings) as server:
        yield RedisStore(RedisTier(server))


class RedisStore:
    """A store over one tenant's parts of a tier."""

    def __init__(self, tier: RedisTier, tenant: str = "tenant") -> None:
        self.tier, self.tenant = tier, tenant

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        return {key: await self._get(key) for key in keys}

    async def _get(self, key: PartKey) -> Frame | Miss:
        buffers: list[bytearray] = []

        def into(size: int, checksum: int) -> list[memoryview]:
            buffers[:] = [bytearray(size // 3), bytearray(size - size // 3)]
            return [memoryview(buffer) for buffer in buffers]

        found = await self.tier.get(self.tenant, key, into)
        if isinstance(found, Miss):
            return found
        frame = Frame.of(*buffers)
        assert xxh3_64_intdigest(join(frame)) == found.checksum
        return frame

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        heads = await self.tier.heads(self.tenant, items)
        for key, frame in items.items():
            if Miss.DELETED in heads.values():  # the contract's batches are all or nothing, the tier's puts are single
                key = next(key for key, head in heads.items() if head is Miss.DELETED)
            await self.tier.put(self.tenant, key, frame.buffers, xxh3_64_intdigest(join(frame)))
        return dict.fromkeys(items, Level.REDIS)

    async def delete(self, keys: Collection[PartKey]) -> int:
        return await self.tier.delete(self.tenant, keys)

    async def scan(
        self, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        async for key in self.tier.scan(self.tenant, branch, begin, end, kind):
            yield key


def manifest_of(found: Manifest | Miss) -> Manifest:
    """The manifest that a key is known to have."""
    assert isinstance(found, Manifest), found
    return found


def slow_clusters(names: Collection[str]) -> list[Any]:
    """The parameters of a contract, those called after a cluster marked slow: three servers have to find each other."""
    return [pytest.param(name, marks=[pytest.mark.slow] if "cluster" in name else []) for name in names]
