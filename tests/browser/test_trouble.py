"""What goes wrong between page and service is said in words, each with a way on."""

import asyncio
import json
import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.visitor import visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def trouble(page: Page, title: str) -> Locator:
    """What is said over the picture, once it has this title."""
    shown = page.locator("#trouble")
    await expect(shown).to_be_visible()
    await expect(shown.locator("h2")).to_have_text(title)
    return shown


def drawn(page: Page) -> Locator:
    """The picture."""
    return page.locator(".pane canvas").last


@pytest.mark.parametrize(
    ("code", "title", "way"),
    [
        (4008, "The service is full", "Try again"),
        (4005, "This walk is gone", "Begin a new walk"),
        (4016, "You need a link with a token", "Try again"),
        (4007, "That is not yours to see", "Begin a new walk"),
        (4003, "The service did not understand", "Begin a new walk"),
    ],
)
async def test_a_refusal_is_said_in_words_and_the_way_on_leads_on(browser, url, code, title, way):
    closed = []

    async def refuse(socket):
        closed.append(True)
        if len(closed) == 1:
            await socket.close(code=code, reason="<b>these are the service's words</b>")
        else:
            socket.connect_to_server()

    async with visiting(browser, url, "about:blank") as person:
        await person.page.route_web_socket(re.compile("/v1/walk"), refuse)
        await person.page.goto("/#scene=rooms:1&tour=R90")
        shown = await trouble(person.page, title)
        await expect(shown.locator(".words")).to_have_text("<b>these are the service's words</b>")
        await shown.get_by_role("button", name=way).click()
        await expect(shown).to_be_hidden()
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk"))


async def test_a_service_that_speaks_otherwise_asks_for_a_reload(browser, url):
    async with visiting(browser, url, "about:blank") as person:
        about = json.dumps({"version": "99", "protocol": 99})
        await person.page.route("**/v1/about", lambda route: route.fulfill(body=about, content_type="application/json"))
        await person.page.route_web_socket(re.compile("/v1/walk"), lambda socket: socket.close(code=1011))
        await person.page.goto("/")
        shown = await trouble(person.page, "This page is out of date")
        await expect(shown.get_by_role("button")).to_have_text(["Reload the page"])


async def test_a_browser_without_what_is_needed_is_told_so(browser, url):
    async with visiting(browser, url, "about:blank") as person:
        await person.page.add_init_script("delete window.createImageBitmap")
        await person.page.goto("/")
        await expect(person.page.locator("#unsupported")).to_contain_text("needs a newer browser")
        await expect(person.page.locator("#unsupported")).to_contain_text("createImageBitmap")
        person.forgive("createImageBitmap")


async def test_a_page_that_cannot_start_says_so(browser, url):
    async with visiting(browser, url, "about:blank") as person:
        await person.page.route("**/app.js", lambda route: route.abort())
        await person.page.goto("/")
        await expect(person.page.locator("#unsupported")).to_contain_text("could not start")
        person.forgive("Failed to load resource")


async def test_a_service_without_room_for_a_second_walk_leaves_the_first_alone(browser, url):
    begun, refused = [], asyncio.Event()

    async def refuse_the_third(socket):
        begun.append(True)
        if len(begun) == 3:
            await socket.close(code=4008, reason="no room")
            refused.set()
            return
        if len(begun) == 2:  # the first walk is connected after that: what is said stays
            await refused.wait()
        socket.connect_to_server()

    async with visiting(browser, url, "about:blank") as person:
        await person.page.route_web_socket(re.compile("/v1/walk"), refuse_the_third)
        await person.page.goto("/#scene=rooms:1&tour=R90")
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk"))
        await person.page.keyboard.press("c")
        shown = await trouble(person.page, "There is no second picture")
        await expect(person.page.locator("#connection")).to_have_text("Connected")
        await shown.get_by_role("button", name="Walk on alone").click()
        await expect(shown).to_be_hidden()
        await expect(person.page.locator("#stage .pane")).to_have_count(1)
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk"))
