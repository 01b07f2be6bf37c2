"""The whole service on a Ray cluster of three nodes on this machine, and ways to hurt it.

The head has the supervisor and the gateways, each of the other nodes generators, by the GPUs that it declares, shards
and replicas. Nodes count as hosts of their own: between them bytes travel as streams.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from benchmarks.faults.nodes import Nodes, nodes
from benchmarks.faults.redis import RedisServer, redis_server
from services.cluster.rundir import RunDir
from services.generator.processes import free_addresses
from worldkv import rpc
from worldkv.client import MembershipFile
from worldkv.errors import DeadlineExceeded, Unavailable
from worldkv.service import host_port
from worldkv.shared import remove_stale
from worldkv.v1 import fleet_pb2 as pb
from worldkv.v1.fleet_pb2_grpc import FleetStub

DOOR, WORKS = "door", "works"
"""Resources of Ray: what the head has, and what the other nodes have."""
NODES = ("one", "other")
PATIENCE = 180.0
"""Seconds that something may take on a slow machine."""
LOOK_SECONDS = 0.1
SHARD_BYTES = 128 << 20


class Counts(NamedTuple):
    """How many parts of each kind there are."""

    kvstore: int = 2
    retriever: int = 1
    generator: int = 2
    gateway: int = 1


class Stage:
    """A service that runs.

    addresses  of its gateways
    prefix     that names of its shared memory begin with
    """

    def __init__(
        self, nodes: Nodes, redis: RedisServer, run_dir: RunDir, addresses: Sequence[str], prefix: str, counts: Counts
    ) -> None:
        self.nodes, self.redis, self.addresses, self.prefix, self.counts = nodes, redis, addresses, prefix, counts
        self._run_dir = run_dir

    @property
    def address(self) -> str:
        """Of its first gateway."""
        return self.addresses[0]

    @property
    def members(self) -> MembershipFile:
        """Of the store's shards."""
        return MembershipFile(self._run_dir.path / "kvstore.toml")

    async def parts(self) -> dict[str, pb.FleetPart]:
        """How every part is, by name; none if the supervisor does not say."""
        up = self._run_dir.read()
        if up is None:
            return {}
        try:
            with rpc.translated():
                async with rpc.channel(up.fleet) as channel:
                    answer = await FleetStub(channel).FleetStatus(pb.FleetStatusRequest(), timeout=5.0)
        except (Unavailable, DeadlineExceeded):
            return {}
        return {part.name: part for part in answer.parts}

    async def ready(self) -> None:
        """Wait until every part serves, and the gateways have found the generators. Raises Unavailable in words."""

        async def all_serve() -> bool:
            parts = await self.parts()
            return len(parts) == sum(self.counts) and all(part.state == pb.PART_STATE_READY for part in parts.values())

        await self.until(all_serve, "all parts serve")

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until something is so. Raises Unavailable, with the ends of all logs, if it does not come."""
        end = monotonic() + PATIENCE
        while not await true():
            if monotonic() > end:
                raise Unavailable(f"it was not so that {what}: {await self.parts()}{self.logs()}")
            await asyncio.sleep(LOOK_SECONDS)

    def logs(self) -> str:
        """The end of every log."""
        return "".join(
            f"\n--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-1500:]}"
            for log in sorted(self._run_dir.logs.glob("*.log"))
        )

    def keep_logs(self) -> Path:
        """Keep all logs in a folder that stays; where that is."""
        kept = Path(tempfile.mkdtemp(prefix="worldkv-logs-"))
        return Path(shutil.copytree(self._run_dir.logs, kept / "logs"))

    def pids(self) -> dict[str, int]:
        """Processes of the parts and of the supervisor, by name: each writes a log that is called so."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                log = Path(os.readlink(process / "fd" / "1"))
                if log.parent == self._run_dir.logs and log != self._run_dir.log:
                    found[log.stem] = int(process.name)
        return found

    def node_of(self, name: str) -> str:
        """Name of the node that a part runs on; empty: the head."""
        pid = self.pids()[name]
        return next((each for each in self.nodes.names if pid in self.nodes.pids(each)), "")

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a part a signal; harmless if it is just being started."""
        pid = self.pids().get(name)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def stage(counts: Counts, settings: Mapping[str, str]) -> Iterator[Stage]:
    """A service that is being started, and ends with the block; see `Stage.ready`.

    settings  of the cluster, by the names of their variables without `WORLDKV_CLUSTER_`
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wkv-")))  # short: Ray makes sockets in it
        redis = stack.enter_context(redis_server())
        ray = stack.enter_context(nodes(folder / "ray", {DOOR: 1}))
        run_dir = RunDir(folder / "run")
        run_dir.make()
        prefix = f"worldkv-{secrets.token_hex(4)}"
        stack.callback(remove_stale, prefix)
        host, port = host_port(*free_addresses(1))
        chosen = {
            "HOST": host,
            "APART": "true",
            "DOOR__PORT": str(port),
            "DOOR__WEB_PORT": "0",
            "PARTS__GATEWAY__RESOURCE": DOOR,
            "PARTS__KVSTORE__RESOURCE": WORKS,
            "PARTS__RETRIEVER__RESOURCE": WORKS,
            "PARTS__GENERATOR__GPUS": "1",
            "PARTS__GENERATOR__THREADS": "1",
            "GENERATOR__THREADS": "1",
            "KVSTORE__REDIS__URL": redis.url,
            "KVSTORE__RAM__BUDGET_BYTES": str(SHARD_BYTES),
            "KVSTORE__RAM__PREFIX": f"{prefix}-arena",
            "KVSTORE__SERVING__STAGING_PREFIX": f"{prefix}-staging",
            **{f"PARTS__{kind.upper()}__COUNT": str(count) for kind, count in counts._asdict().items()},
            **settings,
        }
        stack.enter_context(_supervised(ray.address, run_dir, chosen))
        for name in NODES:  # parts wait for them
            ray.add(name, {WORKS: 1}, gpus=counts.generator)
        addresses = [f"{host}:{port + 2 * number}" for number in range(counts.gateway)]
        yield Stage(ray, redis, run_dir, addresses, prefix, counts)


@contextmanager
def _supervised(ray: str, run_dir: RunDir, settings: Mapping[str, str]) -> Iterator[None]:
    """The program that puts a supervisor on a cluster, and ends it."""
    variables = {f"WORLDKV_CLUSTER_{name}": text for name, text in settings.items()}
    with run_dir.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.cluster", "--address", ray],
            env={**os.environ, **variables, "WORLDKV_RUN_DIR": str(run_dir.path)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE / 3)
        process.kill()
        process.wait()
