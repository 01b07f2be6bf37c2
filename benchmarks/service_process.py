"""A service in a process of its own, for benchmarks."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from worldkv.errors import Unavailable


@asynccontextmanager
async def serving(name: str, module: str, settings: Mapping[str, str]) -> AsyncIterator[str]:
    """The address of a service, ready to serve; it ends with the block.

    name      of the service
    module    that is run as a program
    settings  by the names of their variables, without the service's prefix

    Raises Unavailable if it ends by itself first.
    """
    chosen = {"SERVICE__ADDRESS": "127.0.0.1:0", "SERVICE__LOG": "text", **settings}
    environment = {**os.environ, **{f"WORLDKV_{name.upper()}_{key}": value for key, value in chosen.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        while not (found := re.search(rb"serves on ([^ ,]+)", said)):
            line = await process.stderr.readline()
            if not line:
                raise Unavailable(f"the {name} ended: {said.decode(errors='replace')}")
            said += line
        reading = asyncio.create_task(process.stderr.read())  # or it would wait for room to say more
        try:
            yield found[1].decode()
        finally:
            process.terminate()
            await reading
    finally:
        await process.wait()
