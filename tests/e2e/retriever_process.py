"""Replicas of the index as processes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

SERVES = re.compile(rb"retriever serves on ([^ ,]+)")


class ReplicaProcess:
    """`python -m services.retriever`; started again it has its old address."""

    def __init__(self, **settings: str) -> None:
        self.address, self._settings = "127.0.0.1:0", settings
        self.process: Any = None

    async def start(self) -> None:
        chosen = {"SERVICE__ADDRESS": self.address, "SERVICE__LOG": "text", "SERVICE__DRAIN_SECONDS": "1"}
        chosen |= self._settings
        environment = {**os.environ, **{f"WORLDKV_RETRIEVER_{name}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", "services.retriever"]
        self.process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
        said = b""
        while not (found := SERVES.search(said)):
            line = await self.process.stderr.readline()
            assert line, said.decode()
            said += line
        self.address = found[1].decode()
        self._reading = asyncio.create_task(self.process.stderr.read())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it; answers what it said."""
        self.send(number)
        if number is signal.SIGTERM:
            self.send(signal.SIGCONT)
        said = await self._reading
        await self.process.wait()
        return str(said, errors="replace")


@asynccontextmanager
async def replica(shards: str = "", **settings: str) -> AsyncIterator[ReplicaProcess]:
    """A replica over the shards of a store, or over none."""
    made = ReplicaProcess(**({"STORE__SHARDS": shards} if shards else {}), **settings)
    await made.start()
    try:
        yield made
    finally:
        if made.process.returncode is None:
            await made.end()
