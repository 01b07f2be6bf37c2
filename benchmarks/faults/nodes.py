"""Nodes of a Ray cluster, all of them on this machine, which die and freeze with everything that runs on them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.registry import Skipped

# Before Ray is imported, as `worldkv up` has it; and it looks every second whether a node is there.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_worker_niceness="0",
    RAY_health_check_period_ms="1000",
    MALLOC_ARENA_MAX="1",
)

NODE_BYTES = 80 << 20
"""Of a node's object store: nothing is put there."""
TRIES = 3
T = TypeVar("T")


class Nodes:
    """A head, and nodes beside it by name.

    address  of the cluster
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._nodes: dict[str, Any] = {}
        self.address = str(cluster.address)

    @property
    def names(self) -> frozenset[str]:
        """Of the nodes beside the head."""
        return frozenset(self._nodes)

    def add(self, name: str, resources: Mapping[str, float], gpus: int) -> None:
        """Add a node that declares so many GPUs, whether there are any or not."""
        given = {"num_cpus": 1, "num_gpus": gpus, "object_store_memory": NODE_BYTES}
        self._nodes[name] = _patiently(lambda: self._cluster.add_node(**given, resources=dict(resources)))

    def kill(self, name: str) -> None:
        """End everything on a node at once, as if its power failed."""
        node = self._nodes.pop(name)
        for pid in _pids(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send everything on a node a signal."""
        for pid in _pids(self._nodes[name]):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pids(self, name: str) -> set[int]:
        """All processes of a node."""
        return set(_pids(self._nodes[name]))


def _pids(node: Any) -> list[int]:
    """Of a node's own processes and all that they began, those that begin others first."""
    own = [each.process.pid for infos in node.all_processes.values() for each in infos]
    return [*own, *(child for pid in own for child in _below(pid))]


def _below(pid: int) -> list[int]:
    """Processes that this one began, and those that they did."""
    found = list[int]()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, tasks.read_text(encoding="ascii").split()):
                found += [child, *_below(child)]
    return found


@contextmanager
def nodes(folder: Path, resources: Mapping[str, float]) -> Iterator[Nodes]:
    """A cluster whose head has these resources and no GPUs; Ray writes to `folder`. Raises Skipped without Ray."""
    try:
        from ray.cluster_utils import Cluster
    except ModuleNotFoundError as error:
        raise Skipped("ray is not installed") from error
    cluster: Any = Cluster()
    head = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": NODE_BYTES}
    head |= {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}  # less to start
    try:
        _patiently(lambda: cluster.add_node(**head, resources=dict(resources), temp_dir=str(folder)))
        yield Nodes(cluster)
    finally:
        cluster.shutdown()


def _patiently(start: Callable[[], T]) -> T:
    """Start something of Ray, again if it is not there within the time that Ray gives itself: machines are busy."""
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:  # what Ray raises then is just this
            if type(error) is not Exception or not left:
                raise
    raise AssertionError("the last try returns or raises")
