"""Generators as processes: `python -m services.generator`, with a very small model."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from pocket.model import PocketModel
from pocket.weights_file import save
from tests.toys import TOY

SERVES = re.compile(rb"generator serves on ([^ ,]+)")


def toy_weights(folder: Path) -> Path:
    """A file of weights that mean nothing."""
    torch.manual_seed(0)
    file = folder / "toy.safetensors"
    save(file, PocketModel(TOY), {})
    return file


class GeneratorProcess:
    """One generator; `said` is what it logged, once it has ended."""

    def __init__(self, **settings: str) -> None:
        self.address, self._settings = "", settings
        self.process: Any = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        chosen = {
            "SERVICE__ADDRESS": "127.0.0.1:0",
            "SERVICE__LOG": "text",
            "SERVICE__DRAIN_SECONDS": "5",
            "THREADS": "1",
            "MEMORY__CODEC": "int8",
            "MEMORY__SELECTOR": "pose",
            **self._settings,
        }
        environment = {**os.environ, **{f"WORLDKV_GENERATOR_{name}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", "services.generator"]
        self.process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
        said = b""
        while not (found := SERVES.search(said)):
            line = await self.process.stderr.readline()
            assert line, said.decode()
            said += line
        self.address = found[1].decode()
        self._reading = asyncio.create_task(self.process.stderr.read())

    async def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it; answers what it said."""
        self.process.send_signal(number)
        said = await self._reading
        await self.process.wait()
        return str(said, errors="replace")


@asynccontextmanager
async def generator(
    weights: Path, shards: str = "", replicas: str = "", **settings: str
) -> AsyncIterator[GeneratorProcess]:
    """A generator over the shards of a store and the replicas of an index, or over nothing."""
    tier = {"STORE__SHARDS": shards, "INDEX__REPLICAS": replicas} if shards else {}
    made = GeneratorProcess(WEIGHTS=str(weights), **tier, **settings)
    await made.start()
    try:
        yield made
    finally:
        if made.process.returncode is None:
            await made.end()
