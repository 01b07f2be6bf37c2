"""A replica of the index in a process of its own, for benchmarks; run as a program, a server of empty calls beside it.

python -m benchmarks.idx_replica    serves a replica without a store, and `/bare/Empty`; says its address
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from worldkv.errors import Unavailable

_SERVES = re.compile(rb"retriever serves on ([^ ,]+)")


@asynccontextmanager
async def replica(shards: str = "", module: str = "benchmarks.idx_replica") -> AsyncIterator[str]:
    """The address of a replica over these shards, ready to serve; it ends with the block.

    Raises Unavailable if it ends by itself first.
    """
    chosen = {"SERVICE__ADDRESS": "127.0.0.1:0", "SERVICE__LOG": "text", "SERVICE__DRAIN_SECONDS": "0"}
    if shards:
        chosen["STORE__SHARDS"] = shards
    environment = {**os.environ, **{f"WORLDKV_RETRIEVER_{name}": value for name, value in chosen.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        while not (found := _SERVES.search(said)):
            line = await process.stderr.readline()
            if not line:
                raise Unavailable(f"the replica ended: {said.decode(errors='replace')}")
            said += line
        reading = asyncio.create_task(process.stderr.read())  # or it would wait for room to say more
        try:
            yield found[1].decode()
        finally:
            process.terminate()
            await reading
    finally:
        await process.wait()


async def _empty(request: bytes, context: Any) -> bytes:
    return b""


def main() -> None:
    """Serve a replica that also answers empty calls, until SIGTERM."""
    from services.retriever.config import RetrieverConfig
    from services.retriever.server import replica as opened
    from worldkv.config import load
    from worldkv.service import Host, run

    config = load(RetrieverConfig, "WORLDKV_RETRIEVER_", None, os.environ)

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_empty)
        host.server.add_registered_method_handlers("bare", {"Empty": handler})
        async with opened(config, host) as names:
            yield names

    run("retriever", config.service, servicers)


if __name__ == "__main__":
    main()
