"""Two memories side by side, led by the same keys."""

import re

import pytest
from playwright.async_api import expect

from tests.browser.walker import decibels, walking

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

TOUR_CHUNKS = 7
"""Of a tour half round."""
CLEARLY = re.compile(r"^\+[1-9]")
"""Better by a decibel or more."""


async def test_two_memories_walk_side_by_side_and_ours_is_nearer_to_the_truth(browser, url):
    async with walking(browser, url, "/#scene=rooms:0&tour=R180") as person:
        alone = await person.session()
        await person.page.keyboard.press("c")
        panes = person.page.locator("#stage .pane")
        await expect(panes).to_have_count(2)
        await person.another_session(alone)
        await person.drawn(TOUR_CHUNKS - 1)
        await person.page.keyboard.press("t")
        await person.drawn(2 * TOUR_CHUNKS - 2)
        lead = panes.nth(1).locator("output")
        await expect(lead).to_have_attribute("data-lead", CLEARLY)  # pictures are judged a little later
        window, ours = [await decibels(panes.nth(place).locator("output")) for place in (0, 1)]
        await expect(panes.nth(0).locator(".name")).to_contain_text("Window")
        await expect(panes.nth(1).locator(".name")).to_contain_text("WorldKV")
        assert ours > window
        await person.visitor.picture("compare")
