"""python -m benchmarks.kv_bare: a gRPC server with nothing behind it, to compare a shard with. Says its address.

Empty  an empty message for an empty message
Down   so many bytes, from touched memory, as raw frames of so many bytes: `SIZE PIECE`
Up     lands every raw frame in touched memory
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
from grpc import aio

from worldkv import rpc

NAME = "bare"
ROOM = 1 << 30


class Bare:
    """Memory that frames come from and land in."""

    def __init__(self) -> None:
        self._room = memoryview(np.ones(ROOM, np.uint8))  # type: ignore[arg-type]

    async def empty(self, request: bytes, context: rpc.Context) -> bytes:
        return b""

    async def down(self, request: bytes, context: rpc.Context) -> AsyncIterator[bytes]:
        size, piece = map(int, request.split())
        for begin in range(0, size, piece):
            yield bytes(self._room[begin : min(begin + piece, size)])

    async def up(self, requests: AsyncIterator[bytes], context: rpc.Context) -> bytes:
        at = 0
        async for frame in requests:
            self._room[at : at + len(frame)] = frame
            at += len(frame)
        return b""

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Empty": grpc.unary_unary_rpc_method_handler(self.empty),
                "Down": grpc.unary_stream_rpc_method_handler(self.down),
                "Up": grpc.stream_unary_rpc_method_handler(self.up),
            },
        )


async def main() -> None:
    """Serve until killed."""
    sizes = [(f"grpc.max_{way}_message_length", rpc.MAX_MESSAGE_BYTES) for way in ("receive", "send")]
    server = aio.server(options=sizes)
    server.add_generic_rpc_handlers((Bare().handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
