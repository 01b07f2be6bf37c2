"""What security lets through, and what it costs.

`sec.open` brings a whole service up as users do, with transport security and tokens, and tries every call of every
part and every route with tokens that are not for them. `tls.cost` streams a part between two processes with transport
security and without: rounds alternate, and one ratio is taken of each pair.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import probing
from benchmarks.certificates import self_signed
from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from services.cluster.rundir import RunDir, Up
from worldkv import rpc
from worldkv.chunk import ChunkKey, new_branch
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.errors import Unavailable
from worldkv.format import Frame
from worldkv.store import PartKey
from worldkv.v1 import fleet_pb2
from worldkv.v1.fleet_pb2_grpc import FleetStub

MIB = 1 << 20
SIZES = (64 * MIB, 256 * MIB)
"""Bytes of a part that is streamed."""
ROUNDS, WARM = 9, 2
DEADLINE = 120.0
SERVED = {
    fleet_pb2.PART_KIND_KVSTORE: ("worldkv.v1.KVStore",),
    fleet_pb2.PART_KIND_RETRIEVER: ("worldkv.v1.Retriever",),
    fleet_pb2.PART_KIND_GENERATOR: ("worldkv.v1.Generator", "worldkv.v1.Sessions"),
    fleet_pb2.PART_KIND_GATEWAY: ("worldkv.v1.Sessions",),
}


@contextmanager
def _up(folder: Path) -> Iterator[tuple[Up, Path]]:
    """A whole service that is secured, and its file of secrets."""
    tls, secret = self_signed(folder), folder / "secrets"
    secret.write_text(secrets.token_hex(32) + "\n")
    config = folder / "cluster.toml"
    config.write_text(
        f'[security]\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"\nauthority = "{tls.authority}"\n'
        f'secret = "{secret}"\n[door]\nport = 0\nweb_port = 0\n[kvstore.ram]\nbudget_bytes = {64 * MIB}\n'
    )
    environment = {**os.environ, "WORLDKV_RUN_DIR": str(folder / "run")}
    worldkv = [sys.executable, "-c", "from worldkv.cli import main; main()"]

    def run(*words: str) -> None:
        done = subprocess.run([*worldkv, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"worldkv {words[0]} failed: {done.stderr.strip()}")

    run("up", "--detach", "--config", str(config))
    try:
        up = RunDir.of(environment).read()
        assert up is not None
        run("walk", "--path", "R90", "--json")  # it does not refuse everybody
        yield up, secret
    finally:
        run("down")


async def _parts(up: Up) -> list[dict[str, str]]:
    """Where each server is, by the names of what it serves."""
    async with rpc.channel(up.fleet, up.tls) as channel:
        status = await FleetStub(channel).FleetStatus(fleet_pb2.FleetStatusRequest(), metadata=up.bearer.metadata())
    found = [dict.fromkeys(SERVED[part.kind], part.address) for part in status.parts]
    return [{**each, probing.REFLECTED: next(iter(each.values()))} for each in found] + [
        {"worldkv.v1.Fleet": up.fleet, probing.REFLECTED: up.fleet}
    ]


async def _open(up: Up, secret: Path) -> tuple[list[str], list[str], int]:
    """Calls and routes that answer though they should not; how many servers there are."""
    servers = await _parts(up)
    calls = [each for one in servers for each in await probing.open_calls(probing.Where(one, "", up.tls), secret)]
    return calls, await probing.open_routes(probing.Where({}, up.web[0], up.tls), secret), len(servers)


@bench("sec.open", bar="<= 0", about="RPCs and routes of a secured service that answer without the right token")
def sec_open() -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="wkv-sec-") as folder, _up(Path(folder)) as (up, secret):
        calls, routes, servers = asyncio.run(_open(up, secret))
    for words in (*calls, *routes):
        print(words, file=sys.stderr)
    yield Case(f"calls of {servers} servers", len(calls), "calls")
    yield Case("routes of a gateway", len(routes), "routes")


@asynccontextmanager
async def _client(size: int, tls: rpc.TLS) -> AsyncIterator[KVClient]:
    """A shard with room for a part of this size, and a client that treats it as if it were on another host."""
    settings: dict[str, Any] = {"SERVICE__LOG_LEVEL": "info"}
    if tls:
        settings |= {"SERVICE__TLS__CERTIFICATE": str(tls.certificate), "SERVICE__TLS__KEY": str(tls.key)}
    trusting = rpc.TLS(authority=tls.authority)
    config = ClientConfig(deadline_seconds=DEADLINE, shared=False, landing_bytes=2 * size, tls=trusting)
    async with shard(size + 8 * MIB, **settings) as address, KVClient(fixed(address), config) as client:
        yield client


async def _cost(size: int, tls: rpc.TLS) -> Case:
    key = PartKey(ChunkKey(new_branch(), 0), "kv")
    frame = Frame.of(np.random.default_rng(0).integers(0, 255, size, np.uint8))
    async with _client(size, rpc.TLS()) as plain, _client(size, tls) as secured:
        for client in (plain, secured):
            await client.put({key: frame})

        async def timed(client: KVClient) -> float:
            begin = perf_counter()
            assert isinstance((await client.get([key]))[key], Frame)
            return perf_counter() - begin

        pairs = [(await timed(plain), await timed(secured)) for _ in range(WARM + ROUNDS)][WARM:]
    ratios = [without / with_tls for without, with_tls in pairs]
    speed = statistics.median(size / without / 1e9 for without, _ in pairs)
    return Case(f"{size // MIB} MiB; baseline: without, GB/s", statistics.median(ratios), "ratio", speed, ratios)


@bench("tls.cost", bar=">= 0.4", about="streamed get between processes with TLS, verified, over without")
def tls_cost() -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="wkv-tls-") as folder:
        tls = self_signed(Path(folder))
        for size in SIZES:
            yield asyncio.run(_cost(size, tls))
