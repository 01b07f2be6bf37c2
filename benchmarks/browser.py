"""A real browser without a screen, and a gateway with a face for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from services.generator.processes import Process, Service, free_addresses
from worldkv.errors import NotFound

if TYPE_CHECKING:
    from playwright.async_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # it is looked at whether anything is left there
)


def chromium_program() -> str:
    """The program; CHROMIUM in the environment is one to take instead. Raises NotFound if there is none."""
    names = (os.environ["CHROMIUM"],) if "CHROMIUM" in os.environ else PROGRAMS
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise NotFound("no Chromium program is at hand: `make browser` finds one")
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser that ends with the block. Raises NotFound if there is none."""
    from playwright.async_api import async_playwright

    program = chromium_program()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, headless=True, args=list(OPTIONS))
        try:
            yield browser
        finally:
            await browser.close()


class Door:
    """A gateway before a service, with a face for browsers; it can be killed and started again where it was.

    url  of its page
    """

    def __init__(self, behind: Service, **settings: str) -> None:
        face, web = free_addresses(2)
        self.url = f"http://{web}"
        named = {"GENERATORS": ",".join(behind.generators), "SERVICE__ADDRESS": face, "WEB__ADDRESS": web}
        self._settings = named | settings
        self._process: Process | None = None

    def start(self) -> None:
        """Serve, again. Raises Unavailable with what it said if it cannot."""
        self._process = Process("gateway", self._settings)
        self._process.address()

    def kill(self) -> None:
        """End it without a word, if it serves."""
        if self._process is not None:
            self._process.running.kill()
            self._process.__exit__()
            self._process = None


@contextmanager
def door(behind: Service, **settings: str) -> Iterator[Door]:
    """A gateway that ends with the block."""
    made = Door(behind, **settings)
    made.start()
    try:
        yield made
    finally:
        made.kill()
