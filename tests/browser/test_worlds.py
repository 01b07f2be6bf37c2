"""The dialog for a new world, where the model is told in words and by a picture: what is then asked of the service."""

import base64
import json
import re
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import expect

from tests.browser.visitor import visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ABOUT = {"version": "1", "protocol": 1, "auth": False, "fleet": False, "scenes": ["a harbour", "a desert"]}


@asynccontextmanager
async def dialog(browser: Any, url: str, **about: Any) -> Any:
    """The page, its dialog, and what it said to a service that answers nothing."""
    said: list[dict[str, Any]] = []

    def hear(socket: Any) -> None:
        socket.on_message(lambda message: said.append(json.loads(message)))

    async with visiting(browser, url, "about:blank") as person:
        await person.page.route("**/v1/about", lambda route: route.fulfill(json={**ABOUT, **about}))
        await person.page.route_web_socket(re.compile("/v1/walk"), hear)
        await person.page.goto("/")
        await person.page.get_by_role("button", name="Other world").click()
        yield person.page, person.page.get_by_role("dialog"), said


async def asked(page: Any, said: list[dict[str, Any]], count: int = 2) -> dict[str, Any]:
    """What the newest walk was opened with; the page began one by itself."""
    while len(opened := [each["open"] for each in said if "open" in each]) < count:
        await page.wait_for_timeout(20)
    newest: dict[str, Any] = opened[-1]
    return newest


async def test_a_new_world_begins_from_words_and_a_picture_of_ones_own(browser, url):
    file = BytesIO()
    Image.new("RGBA", (3200, 800), (255, 0, 0, 255)).save(file, "PNG")
    async with dialog(browser, url, pictures=True) as (page, shown, said):
        await shown.get_by_label("Scene").fill("a castle")
        picture = {"name": "castle.png", "mimeType": "image/png", "buffer": file.getvalue()}
        await shown.get_by_label("Picture").set_input_files(picture)
        await shown.get_by_role("button", name="Walk here").click()
        await expect(shown).to_be_hidden()
        opened = await asked(page, said)
    assert opened["scene"] == "a castle"
    with Image.open(BytesIO(base64.b64decode(opened["picture"]))) as sent:
        assert (sent.format, sent.size) == ("JPEG", (1600, 400))
        red, green, _ = np.moveaxis(np.asarray(sent), -1, 0)
    assert red.min() > 240
    assert green.max() < 20


async def test_a_file_that_is_no_picture_is_refused_in_the_dialog(browser, url):
    async with dialog(browser, url, pictures=True) as (page, shown, said):
        words = {"name": "words.png", "mimeType": "image/png", "buffer": b"these are words"}
        await shown.get_by_label("Picture").set_input_files(words)
        await shown.get_by_role("button", name="Walk here").click()
        field = shown.get_by_label("Picture")
        await expect(field).to_have_js_property("validationMessage", "This is no picture.")
        await expect(shown).to_be_visible()
        await field.set_input_files([])
        await shown.get_by_role("button", name="Walk here").click()
        opened = await asked(page, said)
    assert opened["scene"] == "a harbour"
    assert "picture" not in opened


@pytest.mark.parametrize(
    ("about", "fields"),
    [({"pictures": False}, (1, 0)), ({"scenes": [], "pictures": True}, (0, 1)), ({"scenes": []}, (0, 0))],
)
async def test_only_what_the_model_is_told_is_asked_for(browser, url, about, fields):
    async with dialog(browser, url, **about) as (_, shown, _):
        await expect(shown.get_by_role("button", name="Walk here")).to_be_visible()
        assert (await shown.get_by_label("Scene").count(), await shown.get_by_label("Picture").count()) == fields
