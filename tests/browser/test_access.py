"""The page for everybody: narrow and wide, dark and light, with keys alone, and as an automated check has it."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.walker import SHOWN, SHOWN_CHUNKS, Walker, panel_of_focus, walking

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
    "preload": False,  # of other sites' styles: there are none
}
PANELS = {"stage", "strip", "map-chunks", "memory", "share", "numbers"}
"""Places that can be reached with keys."""


async def accessible(page: Page) -> None:
    """Assert that an automated check finds nothing."""
    results = await Axe().run(page, options=RULES)
    assert not results.violations_count, results.generate_report()


async def looked_about(person: Walker) -> None:
    """Some chunks are drawn, some recalled, and all that opens is open."""
    await person.drawn(SHOWN_CHUNKS - 1)
    await person.pause()
    await person.step("ArrowRight", 2)
    await person.step("ArrowLeft", 4)
    await person.chunk(2).click()
    for summary in await person.page.locator("summary").all():
        await summary.click()


@pytest.mark.parametrize(("name", "width"), [("wide", 1600), ("narrow", 400)])
async def test_the_page_fits_and_is_accessible(browser, url, name, width):
    # the check itself writes styles into the page, which the page refuses from anybody
    async with walking(browser, url, SHOWN, width=width, height=900, color_scheme="dark", bypass_csp=True) as person:
        await looked_about(person)
        sizes = await person.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1], "one has to scroll sideways"
        for scheme in ("dark", "light"):
            await person.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await accessible(person.page)
            await person.visitor.picture(f"{name}-{scheme}")
        for command, dialog in (("?", "help"), ("n", "worlds")):
            await person.stage.focus()
            await person.page.keyboard.press(command)
            await expect(person.page.locator(f"dialog#{dialog}")).to_be_visible()
            await accessible(person.page)
            await person.page.keyboard.press("Escape")
            await expect(person.page.locator(f"dialog#{dialog}")).to_be_hidden()


async def test_everything_is_reached_by_tab_and_nothing_holds_the_focus(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 2)
        await person.page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus() }")
        reached = list[str]()
        for _ in range(100):
            await person.page.keyboard.press("Tab")
            reached.append(await panel_of_focus(person.page))
            if not reached[-1] and len(reached) > 1:
                break
        assert not reached[-1], "the focus does not leave the page"
        assert set(reached) >= PANELS


async def test_all_is_shown_larger_without_losing_any_of_it(browser, url):
    async with walking(browser, url, width=640, height=400, device_scale_factor=2) as person:
        await person.pause()
        await person.step("ArrowRight", 2)
        assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for name in ("strip", "map", "memory", "share", "numbers"):
            await person.page.locator(f"#{name}").scroll_into_view_if_needed()
            await expect(person.page.locator(f"#{name}")).to_be_in_viewport()
