"""Somebody who walks on the page with keys alone, and what can be read off it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.visitor import Visitor, visiting

ALONE = "/#scene=rooms:8&tour="
"""Rooms without a tour: the model draws from the first chunk on."""
SHOWN = "/#scene=rooms:8&tour=R90"
"""The same rooms with a short tour, of `SHOWN_CHUNKS`: what is drawn after it is worth being looked at."""
SHOWN_CHUNKS = 4
TOUR_CHUNKS = 14
"""Of the tour that who comes first is shown: one turn, 9 degrees a latent frame, three of them a chunk."""
ANOTHER = """(session) => new Promise((done) => {
  const look = () => sessionStorage.getItem("worldkv.walk").includes(session) ? setTimeout(look, 50) : done();
  look();
})"""


class Walker:
    """A visitor who walks; each step is one chunk, so that nothing depends on how fast one is."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.page = visitor, visitor.page

    async def pause(self) -> None:
        """From now on each key draws one chunk."""
        await self.stage.focus()
        await self.page.keyboard.press("Space")
        await expect(self.command("pause")).to_have_attribute("aria-pressed", "true")

    async def step(self, key: str, chunks: int = 1) -> int:
        """Press a key so many times, a chunk each; answers the number of the last."""
        index = await self.newest()
        for _ in range(chunks):
            index += 1
            await self.page.keyboard.press(key)
            await self.drawn(index)
        return index

    async def drawn(self, index: int) -> None:
        """Wait until a chunk was drawn, or looked at again."""
        await expect(self.chunk(index)).to_be_attached()

    async def newest(self) -> int:
        """Number of the newest chunk; -1: none is drawn yet."""
        numbers = await self.page.locator("#strip [data-chunk]").evaluate_all("all => all.map(e => +e.dataset.chunk)")
        return max(numbers, default=-1)

    async def recalled(self) -> list[int]:
        """Chunks that the map says were recalled for the newest."""
        said = await self.page.locator("#map").get_attribute("data-recalled")
        return [int(number) for number in (said or "").split()]

    async def connected(self, words: str = "Connected") -> None:
        await expect(self.page.locator("#connection")).to_have_text(words)

    async def session(self) -> str:
        """Id of the session that this tab keeps."""
        return str(await self.page.evaluate("JSON.parse(sessionStorage.getItem('worldkv.walk')).session"))

    async def another_session(self, before: str) -> None:
        """Wait until this tab keeps another session than before."""
        await self.page.evaluate(ANOTHER, before)

    def chunk(self, index: int) -> Locator:
        return self.page.locator(f'#strip [data-chunk="{index}"]')

    def command(self, name: str) -> Locator:
        return self.page.locator(f"[data-command={name}]")

    def button(self, name: str, within: str = "body") -> Locator:
        return self.page.locator(within).get_by_role("button", name=name, exact=True)

    @property
    def stage(self) -> Locator:
        return self.page.locator("#stage")


@asynccontextmanager
async def walking(browser: Browser, url: str, path: str = ALONE, **options: Any) -> AsyncIterator[Walker]:
    """Somebody who opens the page and is connected."""
    async with visiting(browser, url, path, **options) as visitor:
        walker = Walker(visitor)
        await walker.connected()
        yield walker


async def decibels(place: Locator) -> float:
    """What is said in a place, once it is: so many dB."""
    await expect(place).to_have_text(re.compile(r"\d dB"))
    said = re.search(r"(\d+\.\d) dB", await place.inner_text())
    assert said is not None
    return float(said[1])


async def panel_of_focus(page: Page) -> str:
    """Id of the innermost named place of the page that has the focus; empty: none has."""
    return str(await page.evaluate("document.activeElement.closest('[id]:not([id^=field])')?.id ?? ''"))
