"""What goes wrong between page and service is said in words, each with a way on."""

import json
import re

import pytest
from playwright.async_api import expect

from tests.browser import topology
from tests.browser.visitor import visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

SOCKET_BROKE = r"WebSocket connection to .* failed|Failed to load resource"
"""What a browser says itself of a server that is gone."""


async def trouble(page, title):
    shown = page.locator("#trouble")
    await expect(shown).to_be_visible()
    await expect(shown.locator("h2")).to_have_text(title)
    return shown


def drawn(page):
    return page.locator(".pane canvas").last


@pytest.mark.parametrize(
    ("code", "title", "way"),
    [
        (4008, "The service is full", "Try again"),
        (4005, "This walk is gone", "Begin a new walk"),
        (4010, "Someone else walks on here", "Walk on here"),
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

    async with visiting(browser, url, "/healthz") as person:
        await person.page.route_web_socket(re.compile("/v1/walk"), refuse)
        await person.page.goto("/#scene=rooms:1&tour=R90")
        shown = await trouble(person.page, title)
        await expect(shown.locator(".words")).to_have_text("<b>these are the service's words</b>")
        await shown.get_by_role("button", name=way).click()
        await expect(shown).to_be_hidden()
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk"))


async def test_a_service_that_speaks_otherwise_asks_for_a_reload(browser, url):
    async with visiting(browser, url, "/healthz") as person:
        about = json.dumps({"version": "99", "protocol": 99})
        await person.page.route("**/v1/about", lambda route: route.fulfill(body=about, content_type="application/json"))
        await person.page.route_web_socket(re.compile("/v1/walk"), lambda socket: socket.close(code=1011))
        await person.page.goto("/")
        shown = await trouble(person.page, "This page is out of date")
        await expect(shown.get_by_role("button")).to_have_text(["Reload the page"])


async def test_a_forged_link_to_a_session_tells_nothing_and_leads_on(browser, url):
    async with visiting(browser, url, "/#session=<img src=x onerror=alert(1)>") as person:
        shown = await trouble(person.page, "This walk is gone")
        await shown.get_by_role("button", name="Begin a new walk").click()
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk"))


async def test_a_gateway_that_dies_is_found_again_without_reload(browser, service):
    with topology.door(service) as door:
        async with visiting(browser, door.url, "/#scene=rooms:1&tour=R90") as person:
            await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk 3, a true picture"))
            door.kill()
            shown = await trouble(person.page, "The connection is lost")
            await expect(person.page.locator("#connection")).to_have_text("Reconnecting …")
            door.start()
            await expect(shown).to_be_hidden()
            await expect(person.page.locator("#connection")).to_have_text("Connected")
            await person.page.keyboard.press(".")
            await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk 4, drawn by the model"))
            person.forgive(SOCKET_BROKE)


async def test_a_page_that_is_loaded_again_walks_on(browser, url):
    async with visiting(browser, url, "/#scene=rooms:1&tour=R90") as person:
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk 3"))
        await person.page.goto("/")
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk 3"))
        await person.page.keyboard.press(".")
        await expect(drawn(person.page)).to_have_attribute("aria-label", re.compile("Chunk 4, drawn by the model"))


async def test_a_browser_without_what_is_needed_is_told_so(browser, url):
    async with visiting(browser, url, "/healthz") as person:
        await person.page.add_init_script("delete window.createImageBitmap")
        await person.page.goto("/")
        await expect(person.page.locator("#unsupported")).to_contain_text("needs a newer browser")
        await expect(person.page.locator("#unsupported")).to_contain_text("createImageBitmap")
        person.forgive("createImageBitmap")


async def test_a_page_that_cannot_start_says_so(browser, url):
    async with visiting(browser, url, "/healthz") as person:
        await person.page.route("**/app.js", lambda route: route.abort())
        await person.page.goto("/")
        await expect(person.page.locator("#unsupported")).to_contain_text("could not start")
        person.forgive("Failed to load resource")
