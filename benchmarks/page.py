"""What people see of the page's speed: how soon there is a picture, and how soon a key shows."""

from __future__ import annotations

import asyncio
import json
import statistics
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.browser import chromium, chromium_program, door
from benchmarks.registry import Case, Skipped, bench
from services.generator.processes import Service, service
from worldkv.actions import Action
from worldkv.client import WalkClient
from worldkv.errors import NotFound

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, WebSocket

SETTINGS = {"THREADS": "1", "ENGINE__GATHER_SECONDS": "0", "ENGINE__ROUND_SECONDS": "0"}
SCENE = "rooms:8"
ALONE = f"/#scene={SCENE}&tour="
"""The page of a walk whose first picture is the model's own."""
RUNS, KEYS = 9, 15
WALKED = 3
"""Chunks that are walked before a key changes the way."""
PLAYED_SECONDS = 0.3
"""For which a chunk is played: three pictures, ten a second."""
PATIENCE = 60_000
"""Milliseconds that a page may take for anything."""

NOTES = """
window.seen = new Map();
window.keys = [];
addEventListener("keydown", ({ timeStamp }) => window.keys.push(timeStamp), { capture: true });
new MutationObserver(() => {
  const said = document.querySelector("#stage .pane canvas")?.getAttribute("aria-label") ?? "";
  const chunk = /^Chunk (\\d+)/.exec(said)?.[1];
  if (chunk && !window.seen.has(+chunk)) window.seen.set(+chunk, performance.now());
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] });
"""
"""Runs in a page before all others: notes when keys are pressed and the first picture of each chunk is shown, in
milliseconds since the page was asked for."""


@asynccontextmanager
async def visited(browser: Browser) -> AsyncIterator[Page]:
    """A window of somebody who was never here."""
    async with await browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(PATIENCE)
        await context.add_init_script(NOTES)
        yield await context.new_page()


async def seen(page: Page, chunk: int) -> float:
    """When the first picture of a chunk was shown, milliseconds since the page was asked for."""
    while True:
        at = await page.evaluate(f"window.seen.get({chunk}) ?? null")
        if at is not None:
            return float(at)
        await asyncio.sleep(0.01)


def measured(work: Callable[[Browser, Service, str], Awaitable[list[Case]]]) -> list[Case]:
    """What is measured with a browser before a service of its own."""
    try:
        chromium_program()
    except NotFound as error:
        raise Skipped(str(error)) from error

    async def run(made: Service, url: str) -> list[Case]:
        async with chromium() as browser:
            return await work(browser, made, url)

    with service(SETTINGS, shards=1, gateways=0) as made, door(made) as gateway:
        return asyncio.run(run(made, gateway.url))


@bench("page.first_frame", bar="<= 2", about="from opening the page to its first picture, service warm, seconds")
def first_frame() -> Iterator[Case]:
    yield from measured(_first_frame)


async def _first_frame(browser: Browser, made: Service, url: str) -> list[Case]:
    """Baseline: a client of the same service that opens a session and draws a chunk."""
    page_runs, client_runs = list[float](), list[float]()
    for turn in range(RUNS + 1):
        async with visited(browser) as page:
            await page.goto(url)
            page_seconds = await seen(page, 0) / 1000
        begun = perf_counter()
        async with WalkClient(made.generators[0]) as client, client.open(scene=SCENE) as walk:
            await walk.move(Action(turn=9.0))
            client_seconds = perf_counter() - begun
        if turn:  # the first warms up
            page_runs.append(page_seconds)
            client_runs.append(client_seconds)
    return [Case("a first visit", statistics.median(page_runs), "s", statistics.median(client_runs), page_runs)]


@bench(
    "page.key", bar="<= 0.1", about="from a key to the first picture it shows in, less the chunk's own time, seconds"
)
def key() -> Iterator[Case]:
    yield from measured(partial(_keys, "standing", ""))


@bench("page.turn", bar="<= 0.1", about="the same of a key while walking, at any time of a chunk's, seconds")
def turn() -> Iterator[Case]:
    yield from measured(partial(_keys, "walking", "ArrowUp"))


async def _keys(name: str, before: str, browser: Browser, made: Service, url: str) -> list[Case]:
    """Baseline: the chunk's own time. `before` is held already; empty: nothing is."""
    async with visited(browser) as page:
        told = Told(page)
        await page.goto(url + ALONE)
        await page.locator("#connection[data-state=up]").wait_for()
        # A chunk's playing time is gone through evenly: where in it a key comes decides what it waits for.
        delays = [PLAYED_SECONDS * n / KEYS for n in range(KEYS)] if before else [0.0] * KEYS
        runs = [await _key(page, told, before, delay) for delay in (0.0, *delays)][1:]  # the first warms up
    beyond, own = zip(*runs, strict=True)
    return [Case(name, statistics.median(beyond), "s", statistics.median(own), beyond)]


class Told:
    """What a page and its service tell each other.

    said     numbers of the holds and pauses that the page said, in order
    applied  first chunk that each of them had an effect on
    seconds  that each chunk took
    """

    def __init__(self, page: Page) -> None:
        self.said, self.applied, self.seconds = list[int](), dict[int, int](), dict[int, float]()
        self._news = asyncio.Event()
        page.on("websocket", self._listen)

    async def effect(self, count: int) -> int:
        """First chunk that what the page says next has an effect on, once it said more than `count` things."""
        while len(self.said) <= count or self.said[-1] not in self.applied:
            self._news.clear()
            await self._news.wait()
        return self.applied[self.said[-1]]

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", self._sent)
        socket.on("framereceived", self._heard)

    def _sent(self, text: bytes | str) -> None:
        said: dict[str, Any] = json.loads(text)
        if "hold" in said:
            self.said.append(int(said["hold"]["number"]))

    def _heard(self, frame: bytes | str) -> None:
        assert isinstance(frame, bytes)
        (length,) = struct.unpack_from(">I", frame)
        said: dict[str, Any] = json.loads(frame[4 : 4 + length])
        if "applied" in said:
            self.applied[int(said["applied"]["number"])] = int(said["applied"].get("chunk", 0))
            self._news.set()
        if "drawn" in said:
            self.seconds[int(said["drawn"]["key"].get("index", 0))] = said["drawn"]["seconds"]


async def _key(page: Page, told: Told, before: str, delay: float) -> tuple[float, float]:
    """Seconds from a key to its picture less its chunk's own, and the chunk's own.

    before  is held already, and the key pressed so many seconds after a chunk of that is seen
    """
    if before:
        count = len(told.said)
        await page.keyboard.down(before)
        await seen(page, await told.effect(count) + WALKED)
        await asyncio.sleep(delay)
    count = len(told.said)
    await page.keyboard.down("ArrowLeft")
    chunk = await told.effect(count)
    shown = await seen(page, chunk)
    pressed = float(await page.evaluate("window.keys.at(-1)"))
    own = told.seconds[chunk]
    count = len(told.said)
    if before:
        await page.keyboard.up(before)
        await told.effect(count)
        count = len(told.said)
    await page.keyboard.up("ArrowLeft")
    await seen(page, await told.effect(count) - 1)  # stands still, and all is shown
    return (shown - pressed) / 1000 - own, own
