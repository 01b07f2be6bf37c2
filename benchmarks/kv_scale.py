"""Whether chunks stay readable while shards come and go: real processes, nothing but RAM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from benchmarks.registry import Case, bench
from services.kvstore.ram import RamConfig
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, MembershipFile, Retry
from worldkv.errors import WorldKVError
from worldkv.format import Frame, join
from worldkv.shared import remove_stale
from worldkv.store import PartKey

CHUNKS = 60
"""Chunks put before shards come, and again after; each has both parts."""
SIZES = {"part": 100_000, "kv": 1_000_000}
"""Bytes of the parts of a chunk."""
BRANCH = b"kv.scale" * 2
PATIENCE = 60.0
"""Seconds that a step may take, at most."""


class Shards:
    """Shard processes of one folder, and the membership file by which they and their clients know each other.

    redis  address of the server under them; empty: they have nothing but RAM
    """

    def __init__(self, folder: Path, budget_bytes: int = 512 << 20, redis: str = "") -> None:
        self.folder, self.members, self.redis = folder, folder / "members.toml", redis
        self._budget, self._number = budget_bytes, 0
        self._addresses: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        """Start shards; `become` makes them members."""
        for name in names:
            self._addresses[name] = address = f"127.0.0.1:{_free_port()}"
            config = self.folder / f"{name}.toml"
            config.write_text(
                f'shard = "{name}"\nmembers = "{self.members}"\n[service]\naddress = "{address}"\n'
                f"drain_seconds = 1\n[ram]\nbudget_bytes = {self._budget}\n"
                + (f'[redis]\nurl = "{self.redis}"\n' if self.redis else "")
            )
            command = [sys.executable, "-m", "services.kvstore", "--config", str(config)]
            log = open(self.folder / f"{name}.log", "wb")  # noqa: SIM115 - the process keeps it
            with log:
                self.running[name] = subprocess.Popen(command, stderr=log, stdout=log)

    def become(self, shards: Iterable[str], leaving: Iterable[str] = ()) -> None:
        """The next membership."""
        self._number += 1
        lists = [", ".join(f'"{name}={self._addresses[name]}"' for name in names) for names in (shards, leaving)]
        text = f"number = {self._number}\nshards = [{lists[0]}]\nleaving = [{lists[1]}]\n"
        temporary = self.members.with_suffix(".new")
        temporary.write_text(text)
        os.replace(temporary, self.members)

    async def end(self, *names: str) -> None:
        """Tell shards to end, and wait until they have; raises TimeoutError if one does not."""
        for name in names:
            self.running[name].send_signal(signal.SIGTERM)
        for name in names:
            await asyncio.wait_for(asyncio.to_thread(self.running.pop(name).wait), PATIENCE)

    def kill(self, *names: str) -> None:
        """Kill these shards, or all that still run: nothing is handed on."""
        for name in names or [*self.running]:
            process = self.running.pop(name)
            process.kill()
            process.wait()
        remove_stale(RamConfig().prefix)

    async def ready(self) -> None:
        """Wait until all members answer; raises TimeoutError if one does not, RuntimeError if one has ended."""
        config = ClientConfig(shared=False, retry=Retry(rest_seconds=0))
        async with asyncio.timeout(PATIENCE), KVClient(MembershipFile(self.members), config) as client:
            while not all((await client.stats(deadline_seconds=1)).values()):
                for name, process in self.running.items():
                    if process.poll() is not None:
                        log = (self.folder / f"{name}.log").read_text(encoding="utf-8")
                        raise RuntimeError(f"shard {name} has ended: {log}")
                await asyncio.sleep(0.05)


@asynccontextmanager
async def shards(budget_bytes: int = 512 << 20, redis: str = "") -> AsyncIterator[Shards]:
    """A place for shards; what still runs at the end is killed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Shards(Path(folder), budget_bytes, redis)
        try:
            yield made
        finally:
            made.kill()


def frame(key: PartKey) -> Frame:
    """What is put under a key."""
    seed = key.chunk.index * 2 + (key.kind == "kv")
    return Frame.of(np.random.default_rng(seed).integers(0, 256, SIZES[key.kind], np.uint8))


def keys(begin: int, end: int) -> list[PartKey]:
    return [PartKey(ChunkKey(BRANCH, n), kind) for n in range(begin, end) for kind in ("part", "kv")]


async def readable(client: KVClient, wanted: list[PartKey]) -> float:
    """Share of the keys whose bytes are there, and right."""
    try:
        found = await client.get(wanted)
    except WorldKVError:
        return 0.0
    good = sum(isinstance(each, Frame) and join(each) == join(frame(key)) for key, each in found.items())
    return good / len(wanted)


async def scale(chunks: int = CHUNKS) -> dict[str, float]:
    """Shares of chunks readable, by step, from one shard to three and back to one."""
    async with shards() as made:
        made.start("a")
        made.become("a")
        config = ClientConfig(staging_bytes=64 << 20, landing_bytes=64 << 20)
        async with KVClient(MembershipFile(made.members), config) as client:
            await made.ready()
            await client.put({key: frame(key) for key in keys(0, chunks)})
            made.start("b", "c")
            made.become("abc")
            await made.ready()
            await client.put({key: frame(key) for key in keys(chunks, 2 * chunks)})
            wanted = keys(0, 2 * chunks)
            shares = {"1 to 3": await readable(client, wanted)}
            made.become("a", leaving="bc")
            meanwhile = [await readable(client, wanted)]
            async with asyncio.timeout(PATIENCE):
                while (told := (await client.stats())["a"]) is None or told.parts < len(wanted):
                    meanwhile.append(await readable(client, wanted))
            shares["while 2 leave"] = min(meanwhile)
            made.become("a")
            await made.end("b", "c")
            shares["3 to 1"] = await readable(client, wanted)
            return shares


@bench("kv.scale", bar="== 1.0", about="chunks readable after 1 to 3 to 1 shards, RAM only, share of all")
def kv_scale() -> Iterator[Case]:
    for step, share in asyncio.run(scale()).items():
        yield Case(step, share, "ratio")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
