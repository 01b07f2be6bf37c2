"""The whole service on this machine, as plain processes: for demonstrations and measurements."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from worldkv.errors import Unavailable

SERVES = re.compile(r"serves on ([^ ,]+)")
LAST_LINES = 20
"""Of what a process said that are told if it ends by itself."""
END_SECONDS = 30.0
"""That a process has to end before it is killed."""
SHARD_BYTES = 256 << 20
"""Of memory for chunks, a shard."""


class Service(NamedTuple):
    """A service that runs here.

    address    host:port of its gateway; without gateways, of its first generator; empty: it has neither
    generators, shards  host:port of each
    replica    host:port of the index
    processes  that it is made of, by kind
    """

    address: str
    generators: tuple[str, ...]
    shards: tuple[str, ...]
    replica: str
    processes: dict[str, int]

    @property
    def words(self) -> str:
        """What it is made of, for people."""
        return ", ".join(f"{count} {kind}" for kind, count in self.processes.items())


@contextmanager
def service(
    generator: Mapping[str, str],
    shards: int = 2,
    generators: int = 1,
    gateways: int = 1,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[Service]:
    """A service of its own, ready to serve, that ends with the block.

    generator    settings of the generators, by the names of their variables without `WORLDKV_GENERATOR_`
    shard_bytes  of memory for chunks, a shard

    Raises Unavailable with what a process said, if one ends by itself before it serves.
    """
    with ExitStack() as stack:
        prefix = f"worldkv-{secrets.token_hex(4)}"  # of shared memory: nobody else's is taken for a killed process'
        ram = {"RAM__BUDGET_BYTES": str(shard_bytes), "SERVING__STAGING_PREFIX": f"{prefix}-staging"}
        *stores, index = free_addresses(shards + 1)  # chosen here, so that all can start at once
        found = {"STORE__SHARDS": ",".join(stores)}

        def start(kind: str, settings: Mapping[str, str]) -> Process:
            return stack.enter_context(Process(kind, settings))

        parts = [
            start("kvstore", {"SERVICE__ADDRESS": address, "RAM__PREFIX": f"{prefix}-{number}", **ram})
            for number, address in enumerate(stores)
        ]
        parts.append(start("retriever", {"SERVICE__ADDRESS": index, **found}))
        drawing = [start("generator", {**generator, **found, "INDEX__REPLICAS": index}) for _ in range(generators)]
        for each in parts:
            each.address()
        drawn = tuple(each.address() for each in drawing)
        doors = [start("gateway", {"GENERATORS": ",".join(drawn), "WEB__ADDRESS": ""}) for _ in range(gateways)]
        counts = {"kvstore": shards, "retriever": 1, "generator": generators, "gateway": gateways}
        address = next((each.address() for each in (*doors, *drawing)), "")
        yield Service(address, drawn, tuple(stores), index, {kind: count for kind, count in counts.items() if count})


def free_addresses(count: int) -> list[str]:
    """Addresses of this host that nobody serves on; somebody may be faster."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Process:
    """`python -m services.KIND`, as a context manager; it starts at once, and serves when `address` is known.

    running  the process itself
    """

    def __init__(self, kind: str, settings: Mapping[str, str]) -> None:
        self.kind = kind
        chosen = {"SERVICE__ADDRESS": "127.0.0.1:0", "SERVICE__LOG": "text", "SERVICE__DRAIN_SECONDS": "5", **settings}
        variables = {f"WORLDKV_{kind.upper()}_{name}": value for name, value in chosen.items()}
        self.running = subprocess.Popen(
            [sys.executable, "-m", f"services.{kind}"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **variables},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._said = deque[str](maxlen=LAST_LINES)
        self._address: str | None = None
        self._known = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.running.terminate()
        try:
            self.running.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
        self._reading.join()

    def address(self) -> str:
        """host:port, once it serves. Raises Unavailable if it has ended."""
        self._known.wait()
        if self._address is None:
            raise Unavailable(f"the {self.kind} ended: {''.join(self._said).strip()}")
        return self._address

    def _read(self) -> None:
        """Read all it says, or it would wait for room to say more."""
        assert self.running.stderr is not None
        with self.running.stderr as said:
            for line in said:
                self._said.append(line)
                if self._address is None and (found := SERVES.search(line)):
                    self._address = found[1]
                    self._known.set()
        self._known.set()
