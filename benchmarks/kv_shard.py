"""A shard in a process of its own, for benchmarks."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worldkv.errors import Unavailable

_SERVES = re.compile(rb"kvstore serves on ([^ ,]+)")


@asynccontextmanager
async def shard(budget_bytes: int, **settings: str) -> AsyncIterator[str]:
    """The address of a shard that has so much memory, ready to serve; it ends with the block.

    settings  more of its environment, for example SERVICE__LOG_LEVEL="warning"

    Raises Unavailable if it ends by itself first.
    """
    chosen = {"RAM__BUDGET_BYTES": str(budget_bytes), "SERVICE__ADDRESS": "127.0.0.1:0", "SERVICE__LOG": "text"}
    environment = {**os.environ, **{f"WORLDKV_KVSTORE_{name}": value for name, value in (chosen | settings).items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.kvstore", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        while not (found := _SERVES.search(said)):
            line = await process.stderr.readline()
            if not line:
                raise Unavailable(f"the shard ended: {said.decode(errors='replace')}")
            said += line
        reading = asyncio.create_task(process.stderr.read())  # or it would wait for room to say more
        try:
            yield found[1].decode()
        finally:
            process.terminate()
            await reading
    finally:
        await process.wait()
