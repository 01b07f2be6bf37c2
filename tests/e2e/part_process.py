"""Parts of the service as processes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class PartProcess:
    """`python -m services.KIND`; started again it has its old address."""

    def __init__(self, kind: str, **settings: str) -> None:
        self.kind, self.address, self._settings = kind, "127.0.0.1:0", settings
        self.process: Any = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        chosen = {"SERVICE__ADDRESS": self.address, "SERVICE__LOG": "text", "SERVICE__DRAIN_SECONDS": "1"}
        chosen |= self._settings
        environment = {**os.environ, **{f"WORLDKV_{self.kind.upper()}_{name}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", f"services.{self.kind}"]
        self.process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
        said = b""
        while not (found := re.search(rb"%s serves on ([^ ,]+)" % self.kind.encode(), said)):
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
async def part(kind: str, **settings: str) -> AsyncIterator[PartProcess]:
    """A part that runs, and is ended at the end if it still does."""
    made = PartProcess(kind, **settings)
    await made.start()
    try:
        yield made
    finally:
        if made.runs:
            await made.end()
