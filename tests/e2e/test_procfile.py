"""The topology of the containers as plain processes, from the Procfile."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.redis_process import redis_program
from worldkv.client import WalkClient
from worldkv.errors import Unavailable
from worldkv.shared import remove_stale

ROOT = Path(__file__).parents[2]
PORTS = ("REDIS", "KVSTORE_0", "KVSTORE_1", "RETRIEVER", "GENERATOR", "GATEWAY", "WEB")
PATIENCE = 240.0
"""Seconds, for six processes that start at once on a busy machine."""


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on just now, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


async def walked(address: str) -> list[tuple[int, int]]:
    """Numbers and pictures of two chunks, as soon as somebody draws them."""
    while True:
        async with WalkClient(address) as client:
            try:
                async with client.open(scene="rooms:7", lockstep=True) as walk:
                    return [(drawn.key.index, len(drawn.pictures)) async for drawn in walk.path("R45")]
            except Unavailable:
                await asyncio.sleep(0.5)


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(300)
async def test_the_processes_of_the_procfile_serve_a_walk(tmp_path):
    programs = {Path(redis_program()).parent, Path(sys.executable).parent}
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    prefix = f"wkv-procfile-{ports['REDIS']}"
    environment = {
        **os.environ,
        **{f"{name}_PORT": port for name, port in ports.items()},
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "REDIS_DATA": str(tmp_path / "redis"),
        "WORLDKV_KVSTORE_RAM__BUDGET_BYTES": str(64 << 20),
        "WORLDKV_KVSTORE_RAM__PREFIX": prefix,
        "WORLDKV_GENERATOR_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "honcho", "-f", str(ROOT / "deploy" / "Procfile"), "-d", str(ROOT), "start"]
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
    try:
        walking = asyncio.create_task(walked(f"127.0.0.1:{ports['GATEWAY']}"))
        ending = asyncio.create_task(process.wait())
        await asyncio.wait([walking, ending], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        said = (tmp_path / "log").read_text(errors="replace")
        assert walking.done(), said
        assert walking.result() == [(0, 3), (1, 3)], said
    finally:
        walking.cancel()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        log.close()
        for each in (prefix, "worldkv-staging"):
            remove_stale(each)
    assert not any(map(listens, ports.values()))
