"""A proxy before a server on a unix socket, that makes it slow: bytes pass late, or few at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

CHUNK = 1 << 14
"""Bytes that pass at a time."""


class SlowProxy:
    """What passes may be slowed at any time, either way.

    latency  seconds that every run of bytes takes
    rate     bytes a second of each connection; 0: no limit
    """

    def __init__(self, server: Path, address: Path) -> None:
        self.latency, self.rate, self.url = 0.0, 0, f"unix://{address}"
        self._server, self._talks = server, set[asyncio.Task[None]]()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes both ways until one side closes."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._server))
            try:
                ways = (self._pass(reader, far_writer), self._pass(far_reader, writer))
                tasks = [asyncio.create_task(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                far_writer.close()
        writer.close()
        self._talks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await asyncio.sleep(self.latency + (len(data) / self.rate if self.rate else 0))
            writer.write(data)
            await writer.drain()

    async def close(self) -> None:
        """End all that is said."""
        for task in [*self._talks]:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)


@asynccontextmanager
async def slow_proxy(server: Path) -> AsyncIterator[SlowProxy]:
    """A proxy before the server on this socket, beside it."""
    address = server.with_name("slow.sock")
    made = SlowProxy(server, address)
    listening = await asyncio.start_unix_server(made.talk, str(address))
    try:
        yield made
    finally:
        listening.close()
        await made.close()
