"""Live numbers of a walk, as charts and as a table; and what a gateway that was started alone knows of the service."""

import re

import pytest
from playwright.async_api import expect

from tests.browser.walker import walking

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_numbers_are_charted_and_told(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 3)
        numbers = person.page.locator("#numbers")
        await numbers.scroll_into_view_if_needed()
        await expect(numbers.locator("canvas")).to_have_count(4)
        told = numbers.get_by_role("img")
        await expect(told.nth(1)).to_have_attribute(
            "aria-label", re.compile("Time of a chunk, chunk 2: .*the model [1-9]")
        )
        await expect(told.nth(2)).to_have_attribute("aria-label", re.compile("in the window [1-9].* MB"))
        await numbers.get_by_text("As a table").click()
        rows = numbers.locator("tbody tr")
        await expect(rows).to_have_count(3)
        assert await rows.locator("th").all_inner_texts() == ["2", "1", "0"]
        await person.visitor.picture("numbers", ".place-numbers")
        fleet = person.page.locator("#fleet")
        await fleet.scroll_into_view_if_needed()
        await expect(fleet.locator(".fleet-summary")).to_have_text(re.compile(r"\d sessions?, on 1 generator\."))
        await expect(fleet.get_by_role("table", name="Generators").locator("tbody tr")).to_have_count(1)
