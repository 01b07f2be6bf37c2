"""What a shard in another process costs over bare gRPC: streams, small calls, memory beside the payload.

The other side of every ratio is `benchmarks.kv_bare`, a process with no store behind it: the same library, the same
size of frames, each landing in touched memory, nothing verified. Rounds alternate, and one ratio is taken of each pair.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from worldkv import rpc
from worldkv.chunk import ChunkKey, new_branch
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.format import Frame
from worldkv.store import PartKey
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

MIB = 1 << 20
PIECE = MIB
SIZES = (64 * MIB, 256 * MIB)
"""Bytes of a part that is streamed."""
ROUNDS, WARM = 7, 2
CALLS = 400
"""Small calls of each kind."""
LARGE = 1 << 30
"""Bytes that stream while memory is watched."""
DEADLINE = 120.0

Move = Callable[[], Awaitable[object]]


@asynccontextmanager
async def _bare() -> AsyncIterator[str]:
    """The address of a bare server."""
    command = [sys.executable, "-m", "benchmarks.kv_bare"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _client(size: int) -> AsyncIterator[tuple[str, KVClient]]:
    """A shard with room for two parts of this size, and a client that treats it as if it were on another host."""
    config = ClientConfig(deadline_seconds=DEADLINE, shared=False, landing_bytes=2 * size, piece_bytes=PIECE)
    async with shard(2 * size + 8 * MIB, SERVICE__LOG_LEVEL="info") as address:
        async with KVClient(fixed(address), config) as client:
            yield address, client


async def _timed(move: Move) -> float:
    begin = perf_counter()
    await move()
    return perf_counter() - begin


async def _paired(size: int, bare: Move, ours: Move, after: Move | None = None) -> Case:
    """Speed of `ours` over that of `bare`; `after` is not timed."""
    ratios, speeds = [], []
    for round in range(WARM + ROUNDS):
        base, seconds = await _timed(bare), await _timed(ours)
        if after is not None:
            await after()
        if round >= WARM:
            ratios.append(base / seconds)
            speeds.append(size / base / 1e9)
    about = f"{size // MIB} MiB; baseline: bare stream, GB/s"
    return Case(about, statistics.median(ratios), "ratio", statistics.median(speeds), ratios)


async def _get(size: int) -> Case:
    async with _bare() as address, rpc.channel(address) as channel, _client(size) as (_, client):
        key, room = PartKey(ChunkKey(new_branch(), 0), "kv"), memoryview(bytearray(size))
        await client.put({key: Frame.of(np.random.default_rng(0).integers(0, 255, size, np.uint8))})
        down: Any = channel.unary_stream("/bare/Down")

        async def bare() -> None:
            at = 0
            async for frame in down(f"{size} {PIECE}".encode(), timeout=DEADLINE):
                room[at : at + len(frame)] = frame
                at += len(frame)

        async def ours() -> None:
            assert isinstance((await client.get([key]))[key], Frame)

        return await _paired(size, bare, ours)


async def _put(size: int) -> Case:
    async with _bare() as address, rpc.channel(address) as channel, _client(size) as (_, client):
        key, data = PartKey(ChunkKey(new_branch(), 0), "kv"), np.random.default_rng(0).integers(0, 255, size, np.uint8)
        view = memoryview(data)  # type: ignore[arg-type]
        up: Any = channel.stream_unary("/bare/Up")

        async def frames() -> AsyncIterator[bytes]:
            for begin in range(0, size, PIECE):
                yield bytes(view[begin : begin + PIECE])

        async def bare() -> None:
            await up(frames(), timeout=DEADLINE)

        async def ours() -> None:
            await client.put({key: Frame.of(data)})

        async def after() -> None:
            assert await client.delete([key]) == 1

        return await _paired(size, bare, ours, after)


@bench("kv.stream.get", bar=">= 0.85", about="streamed get between processes, verified, over a bare gRPC stream")
def stream_get() -> Iterator[Case]:
    for size in SIZES:
        yield asyncio.run(_get(size))


@bench("kv.stream.put", bar=">= 0.85", about="streamed put between processes, verified, over a bare gRPC stream")
def stream_put() -> Iterator[Case]:
    for size in SIZES:
        yield asyncio.run(_put(size))


async def _small() -> Case:
    async with _bare() as address, rpc.channel(address) as channel, _client(MIB) as (other, _):
        async with rpc.channel(other) as to_shard:
            empty: Any = channel.unary_unary("/bare/Empty")
            stub, request = KVStoreStub(to_shard), pb.KVStoreStatsRequest()
            base, ours = [], []
            for call in range(CALLS + 20):
                pair = await _timed(lambda: empty(b"")), await _timed(lambda: stub.Stats(request))
                if call >= 20:
                    base.append(pair[0])
                    ours.append(pair[1])
    p50 = statistics.median(base)
    ratios = [statistics.median(ours[n::5]) / p50 for n in range(5)]
    return Case("p50; baseline: empty call, ms", statistics.median(ours) / p50, "ratio", p50 * 1e3, ratios)


@bench("kv.small", bar="<= 1.5", about="Stats of a shard over an empty unary call, p50")
def small() -> Iterator[Case]:
    yield asyncio.run(_small())


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Bytes by which a process grows at most while the block runs: one number, there at the end."""
    page, stop, grown = os.sysconf("SC_PAGE_SIZE"), threading.Event(), [0]
    statm = Path(f"/proc/{pid}/statm")
    begin = int(statm.read_text().split()[1]) * page

    def watch() -> None:
        while not stop.wait(0.002):
            grown[0] = max(grown[0], int(statm.read_text().split()[1]) * page - begin)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield grown
    finally:
        stop.set()
        thread.join()


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


async def _extra_memory() -> list[Case]:
    before = _children()
    async with _client(LARGE) as (_, client):
        (server,) = _children() - before
        key, data = PartKey(ChunkKey(new_branch(), 0), "kv"), np.ones(LARGE, np.uint8)
        warm = PartKey(ChunkKey(new_branch(), 0), "kv")
        await client.put({warm: Frame.of(data[: 16 * MIB])})
        await client.get([warm])
        with _peak(server) as shard_in, _peak(os.getpid()) as client_out:
            await client.put({key: Frame.of(data)})
        with _peak(server) as shard_out, _peak(os.getpid()) as client_in:
            frame = (await client.get([key]))[key]
        assert isinstance(frame, Frame)
    grown = {
        "put, shard": shard_in[0],
        "put, client": client_out[0],
        "get, shard": shard_out[0],
        "get, client": client_in[0] - LARGE,  # where the frame landed
    }
    return [Case(f"1 GiB: {name}", nbytes / MIB, "MiB") for name, nbytes in grown.items()]


@bench("kv.extra_memory", bar="<= 64", about="memory beyond the payload while 1 GiB streams in or out, MiB")
def extra_memory() -> Iterator[Case]:
    yield from asyncio.run(_extra_memory())
