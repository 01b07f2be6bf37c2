"""A replica of the index in a process of its own, for benchmarks; run as a program, a server of empty calls beside it.

python -m benchmarks.idx_replica    serves a replica without a store, and `/bare/Empty`; says its address
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc

from benchmarks.service_process import serving


def replica(shards: str = "", module: str = "benchmarks.idx_replica") -> AbstractAsyncContextManager[str]:
    """The address of a replica over these shards, or over none, see `serving`."""
    settings = {"SERVICE__DRAIN_SECONDS": "0"} | ({"STORE__SHARDS": shards} if shards else {})
    return serving("retriever", module, settings)


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
