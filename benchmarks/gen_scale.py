"""Whether people who walk notice that the store under them grows and shrinks, and whether it keeps what it said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from benchmarks.faults.promises import Promises
from benchmarks.faults.redis import redis_server
from benchmarks.kv_scale import PATIENCE, Shards, shards
from benchmarks.registry import Case, bench
from services.generator.processes import Process
from worldkv.actions import Action
from worldkv.client import ClientConfig, KVClient, MembershipFile, WalkClient
from worldkv.client.walk import Walk
from worldkv.errors import WorldKVError
from worldkv.format import Frame
from worldkv.store import Level, PartKey

WALKS = 8
CHUNKS = 6
"""That each walk draws between two changes, at least."""
REST_SECONDS = 0.1
"""After a move that failed."""
SHARD_BYTES = 128 << 20
TURN = Action(turn=24.0)
"""A full turn takes five chunks: from then on every step recalls."""


class Walking:
    """One walk, as long as it is let.

    drawn, failed   chunks that came, and moves that were answered by an error
    recalled, left_out  chunks that were put back into its window, and those that did not come in time
    promises  what it was told is kept
    """

    def __init__(self, walk: Walk) -> None:
        self.walk, self.promises = walk, Promises()
        self.drawn = self.failed = self.recalled = self.left_out = 0
        self._went_on = asyncio.Event()
        self._events = asyncio.create_task(self._listen())
        self._going = asyncio.create_task(self._go())

    async def further(self, chunks: int) -> None:
        """Wait until so many more chunks have come, or moves have failed."""
        end = self.drawn + self.failed + chunks
        while self.drawn + self.failed < end:
            self._went_on.clear()
            await self._went_on.wait()

    async def stop(self) -> None:
        """Walk no further, and be told how far all is kept."""
        self._going.cancel()
        await asyncio.gather(self._going, return_exceptions=True)
        self.promises.said(await self.walk.close())
        await asyncio.gather(self._events, return_exceptions=True)

    async def _go(self) -> None:
        while True:
            try:
                drawn = await self.walk.move(TURN)
            except WorldKVError:
                self.failed += 1
                await asyncio.sleep(REST_SECONDS)
            else:
                self.drawn += 1
                self.recalled += len(drawn.recalled)
                self.left_out += drawn.left_out
            self._went_on.set()

    async def _listen(self) -> None:
        async for event in self.walk.events():
            self.promises.hear(event)


@bench("gen.scale", bar="== 0", about="steps failed or kept chunks lost, 8 walks, shards 1 to 3 to 1")
def scale() -> Iterator[Case]:
    with redis_url(False) as url:
        yield asyncio.run(scaled("RAM alone", url))
    with redis_url(True) as url:
        yield asyncio.run(scaled("with Redis", url))


@contextmanager
def redis_url(wanted: bool) -> Iterator[str]:
    """Where a Redis of its own is; empty if none is wanted."""
    if not wanted:
        yield ""
        return
    with redis_server() as server:
        yield server.url


async def scaled(name: str, redis: str, walks: int = WALKS, chunks: int = CHUNKS) -> Case:
    """Walk while the store grows to three shards and shrinks to one; then read all that was kept."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(shards(SHARD_BYTES, redis))
        made.start("a")
        made.become("a")
        await made.ready()
        address = await _generator(stack, made)
        client = await stack.enter_async_context(WalkClient(address))
        walking = []
        for number in range(walks):
            walk = await stack.enter_async_context(client.open(f"rooms:{number}", seed=number, pictures="rgb32f"))
            walking.append(Walking(walk))

        async def further() -> None:
            await asyncio.gather(*(each.further(chunks) for each in walking))

        await further()
        made.start("b", "c")
        made.become("abc")
        await made.ready()
        await further()
        made.become("a", leaving="bc")
        await asyncio.gather(further(), made.end("b", "c"))
        made.become("a")
        await further()
        worlds = [each.walk.world.lineage for each in walking]
        for each in walking:
            await each.stop()
        config = ClientConfig(landing_bytes=64 << 20)
        async with KVClient(MembershipFile(made.members), config) as store:
            lost = list[str]()
            for each, lineage in zip(walking, worlds, strict=True):
                lost += await each.promises.broken(store, lineage, each.promises.at_least(Level.ONE))
            kept = [key for each in walking for key in each.promises.kept]
            found = await store.get([PartKey(key, "kv") for key in kept])
    failed, drawn = sum(each.failed for each in walking), sum(each.drawn for each in walking)
    assert len(kept) >= drawn - walks, f"{len(kept)} of {drawn} chunks were said to be kept"
    shares = (
        f"{sum(isinstance(frame, Frame) for frame in found.values()) / len(found):.2f} of KV there",
        f"{sum(each.left_out for each in walking)} left out of {sum(each.recalled for each in walking)}",
    )
    return Case(f"{name}, {walks} walks, {drawn} chunks: {', '.join(shares)}", failed + len(lost), "steps or chunks")


async def _generator(stack: AsyncExitStack, made: Shards) -> str:
    """The address of a generator over these shards, and an index of its own."""
    members = {"STORE__MEMBERS": str(made.members)}
    index = stack.enter_context(Process("retriever", members))
    replica = await asyncio.wait_for(asyncio.to_thread(index.address), PATIENCE)
    settings = {**members, "INDEX__REPLICAS": replica, "THREADS": "1", "ENGINE__ROUND_SECONDS": "0"}
    generator = stack.enter_context(Process("generator", settings))
    return await asyncio.wait_for(asyncio.to_thread(generator.address), PATIENCE)
