"""What sessions cost a generator, how fast one begins, how exactly it goes on elsewhere, and that worlds stay apart.

Real processes on this machine: a shard of the store, a replica of the index, and generators with the shipped model.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.machine import Kept, Ways, machines
from benchmarks.registry import Case, bench
from services.generator.processes import Process, Service, service
from services.generator.server import TICK_SECONDS
from worldkv import rpc
from worldkv.actions import Action, parse_path
from worldkv.client import ClientConfig, KVClient, WalkClient, fixed
from worldkv.client.walk import Walk
from worldkv.v1.generator_pb2 import ResumeRequest, SuspendRequest
from worldkv.v1.generator_pb2_grpc import GeneratorStub

ACTIVE, OPEN = 8, 64
"""Sessions that walk, and sessions that are open in all."""
WARM = 20
"""Chunks that an active session has drawn before anything is measured: what it holds grows no more after 15."""
HOT_BYTES = 8 << 20
"""That a session keeps at hand, decoded: five chunks."""
READINGS = 5
"""Of memory; the median counts."""
REST_SECONDS = 3 * TICK_SECONDS
"""Between the last chunk and a reading: what is on its way to be kept is not what sessions cost."""
SCENES = (7, 8, 9)
OPENINGS = 12
SOAKS = (1, 2)
ROUNDS = 25
"""Commands of each tenant."""
TENANTS = ("one", "other")
TURN = Action(turn=24.0)
"""A full turn takes five chunks: from then on there is something to recall."""


class Generators(NamedTuple):
    """Generators over one tier: where they serve, and the numbers of their processes."""

    addresses: list[str]
    pids: list[int]


@contextmanager
def generators(count: int, **settings: str) -> Iterator[Generators]:
    """So many generators over a shard and a replica of their own."""
    with ExitStack() as stack:
        tier = stack.enter_context(service({}, shards=1, generators=0, gateways=0))
        found = {"STORE__SHARDS": tier.shards[0], "INDEX__REPLICAS": tier.replica}
        made = [stack.enter_context(Process("generator", {**found, **settings})) for _ in range(count)]
        yield Generators([each.address() for each in made], [each.running.pid for each in made])


@bench("gen.idle", bar="<= 1", about="memory of a generator per suspended session, 64 open and 8 active, MB")
def idle() -> Iterator[Case]:
    # What the active ones keep at hand is full before it is measured: only suspended sessions come and go after that.
    settings = {"LIVE__IDLE_SECONDS": "600", "ENGINE__ROUND_SECONDS": "0", "MEMORY__HOT_BYTES": str(HOT_BYTES)}
    with generators(1, **settings) as made:
        runs, awake = asyncio.run(_idle(made))
    yield Case(f"{OPEN} open, {ACTIVE} active", statistics.median(runs), "MB", awake, runs)


async def _idle(made: Generators) -> tuple[list[float], float]:
    """Growth of memory per suspended session by several readings, and per active session; MB."""
    (address,), (pid,) = made.addresses, made.pids
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(WalkClient(address))
        stub = GeneratorStub(await stack.enter_async_context(rpc.channel(address)))

        async def opened(chunks: int) -> Walk:
            walk = await stack.enter_async_context(client.open(scene="rooms:7"))
            for _ in range(chunks):
                await walk.move(TURN)
            return walk

        async def suspended() -> None:
            walk = await opened(2)
            await walk.leave()
            await stub.Suspend(SuspendRequest(session=walk.session))

        await suspended()  # what only the first one takes
        none = _resident(pid)
        active = [await opened(WARM) for _ in range(ACTIVE)]
        await suspended()
        await asyncio.sleep(REST_SECONDS)
        before = _resident(pid)
        for n in range(OPEN - ACTIVE):
            await asyncio.gather(suspended(), active[n % ACTIVE].move(TURN))
        runs = []
        for _ in range(READINGS):
            await asyncio.sleep(REST_SECONDS)
            runs.append((_resident(pid) - before) / (OPEN - ACTIVE))
        return runs, (before - none) / ACTIVE


def _resident(pid: int) -> float:
    """Resident memory of a process' own, MB; not what it sees of a shard's arena."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (found,) = re.findall(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found) / 1e3


@bench(
    "gen.resume.suspend",
    bar="<= 1e-5",
    about="suspended and resumed on another generator against an uninterrupted walk, largest difference of pictures",
)
def resume_suspend() -> Iterator[Case]:
    settings = {"ENGINE__BATCH": "1", "ENGINE__ROWS": "1", "THREADS": "1"}
    with generators(2, **settings) as made:
        for seed in SCENES:
            value, baseline = asyncio.run(_resumed(made, seed))
            yield Case(f"rooms:{seed}, 12 chunks, then 9 elsewhere", value, "of 0..1", baseline)


async def _resumed(made: Generators, seed: int) -> tuple[float, float]:
    """Largest difference of the walk that moved, and of one that did not, to an uninterrupted one."""
    path = [*parse_path("R270_L270")]
    chunks = [path[n : n + 3] for n in range(0, 63, 3)]
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(WalkClient(address)) for address in made.addresses]
        stubs = [GeneratorStub(await stack.enter_async_context(rpc.channel(each))) for each in made.addresses]

        async def uninterrupted(client: WalkClient) -> NDArray[np.float64]:
            async with client.open(f"rooms:{seed}", seed=seed, lockstep=True, pictures="rgb32f") as walk:
                return np.concatenate([(await walk.move(each)).pictures for each in chunks]).astype(np.float64)

        whole, again = await uninterrupted(here), await uninterrupted(there)
        walk = await stack.enter_async_context(here.open(f"rooms:{seed}", seed=seed, lockstep=True, pictures="rgb32f"))
        drawn = [(await walk.move(each)).pictures for each in chunks[:12]]
        await walk.leave()
        await stubs[0].Suspend(SuspendRequest(session=walk.session))
        await stubs[1].Resume(ResumeRequest(session=walk.session))
        async with there.join(walk.session) as further:
            drawn += [(await further.move(each)).pictures for each in chunks[12:]]
            await further.close()
    moved = np.concatenate(drawn).astype(np.float64)
    return float(np.max(np.abs(moved - whole))), float(np.max(np.abs(again - whole)))


@bench("gen.first_frame", bar="<= 1", about="from opening a session to its first pictures, warm service, worst")
def first_frame() -> Iterator[Case]:
    with generators(1) as made:
        seconds, steps = asyncio.run(_first_frames(made.addresses[0]))
    yield Case(f"worst of {OPENINGS}, one after the other", max(seconds), "s", statistics.median(steps), seconds)


async def _first_frames(address: str) -> tuple[list[float], list[float]]:
    """Seconds from each opening to its first pictures, and from a later move to its pictures."""
    seconds, steps = [], []
    async with WalkClient(address) as client:
        for n in range(-1, OPENINGS):
            began = time.perf_counter()
            async with client.open(f"rooms:{n + 1}") as walk:
                await walk.move(TURN)
                first = time.perf_counter() - began
                began = time.perf_counter()
                await walk.move(TURN)
                if n >= 0:
                    seconds.append(first)
                    steps.append(time.perf_counter() - began)
    return seconds, steps


@bench("gen.isolation", bar="== 0", about="chunks recalled from outside a session's lineage or tenant, seeded soak")
def isolation() -> Iterator[Case]:
    settings = {"MEMORY__SELECTOR": "pose", "ENGINE__ROUND_SECONDS": "0", "LIVE__IDLE_SECONDS": "1"}
    with service(settings, shards=1, gateways=0) as made:
        for seed in SOAKS:
            strays, chunks, recalled = asyncio.run(_isolated(made, seed))
            yield Case(f"seed {seed}: two tenants, {chunks} chunks, all commands", strays, "strays", recalled)


async def _isolated(made: Service, seed: int) -> tuple[int, int, int]:
    """Strays, chunks drawn and chunks recalled of two tenants."""

    async def generators() -> tuple[str, ...]:
        return made.generators

    async with AsyncExitStack() as stack:
        configs = [ClientConfig(tenant=tenant, landing_bytes=32 << 20) for tenant in TENANTS]
        clients = [await stack.enter_async_context(KVClient(fixed(*made.shards), each)) for each in configs]
        kept = [Kept(each.config.tenant, each, each.worlds) for each in clients]
        tenants = machines([made.address], kept, generators, seed, Ways(lockstep=True))
        seen = await asyncio.gather(*(each.run(lambda number: number < ROUNDS) for each in tenants))
    return sum(each.strays for each in seen), sum(each.chunks for each in seen), sum(each.recalled for each in seen)
