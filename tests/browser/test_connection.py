"""The connection: it drops, and comes back to the same session without the page being loaded again."""

import pytest
from playwright.async_api import expect

from benchmarks.browser import door
from tests.browser.walker import walking

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_a_gateway_that_is_killed_and_comes_back_costs_nothing_but_time(browser, service):
    with door(service) as gateway:
        async with walking(browser, gateway.url) as person:
            person.visitor.forgive("ERR_CONNECTION|WebSocket")  # what the browser itself says of a server that is gone
            await person.pause()
            await person.step("ArrowRight", 2)
            session = await person.session()
            await person.page.evaluate("window.same = true")
            gateway.kill()
            await person.connected("Reconnecting …")
            await expect(person.page.locator("#trouble")).to_contain_text("The connection is lost")
            await person.page.keyboard.press("ArrowRight")  # what is asked for meanwhile is done when it can be
            gateway.start()
            await person.drawn(2)
            await person.connected()
            await expect(person.page.locator("#trouble")).to_be_hidden()
            assert await person.step("ArrowLeft") == 3
            assert await person.session() == session
            assert await person.page.evaluate("window.same")
            assert [await person.chunk(index).count() for index in range(4)] == [1] * 4


async def test_a_page_that_is_loaded_again_goes_on_where_it_was(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 3)
        session = await person.session()
        await person.page.goto("/")
        await person.connected()
        await person.drawn(2)
        await person.pause()
        assert await person.step("ArrowLeft") == 3
        assert await person.session() == session


async def test_a_walk_that_goes_on_in_another_window_is_told_and_can_be_taken_back(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight")
        async with walking(browser, url, f"/#session={await person.session()}") as other:
            trouble = person.page.locator("#trouble")
            await expect(trouble).to_contain_text("Someone else walks on here")
            other.visitor.forgive("WebSocket")
            await trouble.get_by_role("button", name="Walk on here").click()
            await person.connected()
            await expect(other.page.locator("#trouble")).to_contain_text("Someone else walks on here")
            await person.stage.focus()
            assert await person.step("ArrowRight") == 1
