"""People before a browser: each with a window of their own, and with an eye on what goes wrong in it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, WebError, expect

PATIENCE_SECONDS = 120.0
"""That something may take on a slow machine."""
expect.set_options(timeout=PATIENCE_SECONDS * 1000)
PICTURES = Path(__file__).parents[2] / "docs" / "screenshots"
TAKES_PICTURES = "WORLDKV_SCREENSHOTS"
"""Environment variable with which tests renew the pictures of the documentation."""
COLOURS = 256
"""Of a screenshot that is kept: hardly to be told from all of them, at a third of the bytes."""


class Visitor:
    """One person, in a context of their own: no cookies and no storage are shared with others.

    page      what is looked at
    problems  what the page complained of: errors in its console, and what was thrown and not caught
    """

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context, self.page, self.url = context, page, url
        self.problems: list[str] = []
        self._forgiven: list[str] = []
        context.on("console", self._said)
        context.on("weberror", self._thrown)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.text} ({message.location['url']})")

    def _thrown(self, thrown: WebError) -> None:
        self.problems.append(str(thrown.error))

    def forgive(self, pattern: str) -> None:
        """Expect complaints that match: what a browser itself says of a server that is gone cannot be kept back."""
        self._forgiven.append(pattern)

    def content(self) -> None:
        """Assert that nothing went wrong but what was forgiven."""
        left = [each for each in self.problems if not any(re.search(known, each) for known in self._forgiven)]
        assert not left, "\n".join(left)

    async def picture(self, name: str, selector: str = "") -> None:
        """Renew a picture of the documentation, of the window or of one element of it, if that is asked for."""
        if TAKES_PICTURES not in os.environ:
            return
        taken = self.page.locator(selector) if selector else self.page
        if not selector:
            await self.page.evaluate("scrollTo(0, 0)")
        data = await taken.screenshot(animations="disabled", caret="hide")
        image = Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        PICTURES.mkdir(exist_ok=True)
        image.save(PICTURES / f"{name}.png", optimize=True)


@asynccontextmanager
async def visiting(
    browser: Browser, url: str, path: str = "/", width: int = 1280, height: int = 800, **options: Any
) -> AsyncIterator[Visitor]:
    """Somebody who opens a page; when the block ends well it must have had nothing to complain of.

    options  of the browser's context, such as color_scheme="dark"
    """
    chosen = {"viewport": {"width": width, "height": height}, "reduced_motion": "reduce", **options}
    context = await browser.new_context(base_url=url, **chosen)
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    try:
        made = Visitor(context, await context.new_page(), url)
        await made.page.goto(path)
        yield made
        made.content()
    finally:
        await context.close()
