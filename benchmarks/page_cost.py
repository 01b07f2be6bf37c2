"""What people who look on cost those who walk: viewers of a walk, and looks back at what was drawn.

Real processes on this machine: a shard of the store, a replica of the index, a generator with the shipped model, and a
gateway. One walks without a pause; while others look on, and while nobody does, in turn.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from typing import NamedTuple

import aiohttp

from benchmarks.registry import Case, bench
from services.generator.processes import Process, free_addresses, service
from worldkv.actions import Action
from worldkv.client import WalkClient
from worldkv.client.walk import Walk
from worldkv.wire_sessions import watch_id

VIEWERS = 4
LOOKS = 2
WARM = 12
ROUNDS = 8
CHUNKS = 10
"""That are drawn in each half of a round."""
TURN = Action(turn=8.0)


class Scene(NamedTuple):
    """A walk, and where browsers reach its gateway."""

    walk: Walk
    web: str


LookingOn = Callable[[Scene], AbstractAsyncContextManager[None]]


@bench("page.viewer", bar="<= 0.05", about="time of a chunk that each viewer of a walk adds, share of it")
def viewer() -> Iterator[Case]:
    yield _case(f"{VIEWERS} viewers over WebSockets", _viewers, VIEWERS)


@bench("page.look", bar="<= 0.05", about="time of a chunk that looks back without end add, share of it")
def look() -> Iterator[Case]:
    yield _case(f"{LOOKS} lists of thumbnails at a time", _looks, 1)


def _case(name: str, looking_on: LookingOn, count: int) -> Case:
    with ExitStack() as stack:
        running = stack.enter_context(service({}, shards=1, gateways=0))
        (web,) = free_addresses(1)
        door = stack.enter_context(Process("gateway", {"GENERATORS": running.generators[0], "WEB__ADDRESS": web}))
        pairs = asyncio.run(_rounds(door.address(), web, looking_on))
    alone = statistics.median(without for without, _ in pairs)
    runs = [(watched / without - 1) / count for without, watched in pairs]
    return Case(name, statistics.median(runs), "of a chunk", alone, runs)


async def _rounds(address: str, web: str, looking_on: LookingOn) -> list[tuple[float, float]]:
    """Seconds of a chunk while nobody looks on, and while somebody does; round by round."""
    pairs: list[tuple[float, float]] = []
    async with WalkClient(address) as client, client.open("rooms:7") as walk:
        for _ in range(WARM):
            await walk.move(TURN)
        for _ in range(ROUNDS):
            without = await chunk_seconds(walk)
            async with looking_on(Scene(walk, web)):
                pairs.append((without, await chunk_seconds(walk)))
    return pairs


async def chunk_seconds(walk: Walk) -> float:
    """Median time of a chunk."""
    found: list[float] = []
    for _ in range(CHUNKS):
        began = time.perf_counter()
        await walk.move(TURN)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


@asynccontextmanager
async def _viewers(scene: Scene) -> AsyncIterator[None]:
    """Some watch, each over a WebSocket."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for _ in range(VIEWERS):
            socket = await stack.enter_async_context(http.ws_connect(f"http://{scene.web}/v1/walk", max_msg_size=0))
            await socket.send_json({"join": {"session": watch_id(scene.walk.session), "watch": True}})
            await socket.receive_bytes()
            stack.callback(asyncio.create_task(_read(socket)).cancel)
        yield


async def _read(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


@asynccontextmanager
async def _looks(scene: Scene) -> AsyncIterator[None]:
    """Some ask for thumbnails of all chunks, over and over."""
    async with aiohttp.ClientSession() as http:
        query = {"session": scene.walk.session, "height": "48", "pictures": "1"}

        async def look() -> None:
            while True:
                async with http.get(f"http://{scene.web}/v1/look", params=query) as answer:
                    await answer.read()

        tasks = [asyncio.create_task(look()) for _ in range(LOOKS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
