"""A Redis that keeps what it acknowledged, and that can be killed, frozen and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.registry import Skipped

PATIENCE = 30.0
"""Seconds that it may take to start."""


class RedisServer:
    """A server on a unix socket in a folder; every write is on disk before it is answered.

    url  of it
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--port", "0"]
        self._command = [program, *options, "--unixsocket", str(self._socket), "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with what it had; returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = monotonic() + PATIENCE
        while self.keys() is None:
            if self._process.poll() is not None or monotonic() > end:
                raise Skipped(f"Redis did not start: {' '.join(self._command)}")
            sleep(0.02)

    def kill(self) -> None:
        """End it at once; harmless if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it runs"
        self._process.send_signal(number)

    def keys(self) -> int | None:
        """How many keys it has; None if it does not answer."""
        client = Redis.from_url(self.url, protocol=2, socket_timeout=5.0)
        try:
            return int(client.dbsize())
        except (RedisError, OSError):
            return None
        finally:
            client.close()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A server of its own, that runs. Raises Skipped where there is no such program."""
    name = "redis-server"
    program = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        raise Skipped(f"no {name} program is at hand")
    with TemporaryDirectory(prefix="wkv-") as folder:  # short: a socket's path has at most a hundred characters
        made = RedisServer(Path(folder), program)
        try:
            made.start()
            yield made
        finally:
            made.kill()
