"""The picture: led by keys and mouse, sharp in any window, and told in words."""

import re

import pytest
from playwright.async_api import Locator, expect

from tests.browser.walker import TOUR_CHUNKS, Walker, walking

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def picture(person: Walker) -> Locator:
    """What the model, or the true renderer, drew."""
    return person.page.locator("#stage .pane canvas").last


async def shown(person: Walker, words: str) -> None:
    """Wait until the picture is told as these words say, a pattern."""
    await expect(picture(person)).to_have_attribute("aria-label", re.compile(words))


async def test_a_tour_of_true_pictures_comes_first_and_then_the_model_draws(browser, url):
    async with walking(browser, url, "/") as person:
        guide = person.page.locator("#guide")
        await expect(guide).to_contain_text("First a look round")
        await shown(person, f"^Chunk {TOUR_CHUNKS - 1}, a true picture")
        await expect(guide).to_contain_text("Now it is you who walks")
        await expect(person.page.locator(".badge")).to_have_text("True picture")
        await person.page.keyboard.press(".")
        await shown(person, f"^Chunk {TOUR_CHUNKS}, drawn by the model, at .* looking .* degrees. Recalled: chunks")
        await expect(guide).to_contain_text("You have been here. WorldKV put chunks")
        await expect(person.page.locator(".recall img")).to_have_count(2)


async def test_a_key_walks_as_long_as_it_is_held(browser, url):
    async with walking(browser, url) as person:
        await person.page.keyboard.down("ArrowUp")
        await person.drawn(3)
        await person.page.keyboard.up("ArrowUp")
        await expect(person.page.locator("#latency")).to_have_text(re.compile(r"\d ms"))
        await person.pause()
        newest = await person.newest()
        await person.step("ArrowLeft")  # nothing is drawn between what was held and this
        assert await person.newest() - newest <= 2


async def test_the_page_lets_go_of_keys_where_they_write(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight")
        await person.page.get_by_role("button", name="Other world").click()
        field = person.page.get_by_label("Rooms")
        await expect(field).to_be_focused()
        await person.page.keyboard.press("Control+a")
        await person.page.keyboard.type("5")
        await person.page.keyboard.press("ArrowUp")
        await expect(field).to_have_value("6")
        session = await person.session()
        await person.page.keyboard.press("Enter")
        await shown(person, f"^Chunk {TOUR_CHUNKS - 1}, a true picture")
        assert await person.session() != session


async def test_the_mouse_looks_around(browser, url):
    async with walking(browser, url) as person:
        await person.page.keyboard.press(".")
        await shown(person, "^Chunk 0")
        await picture(person).hover()
        await person.page.mouse.down()
        await person.stage.hover(position={"x": 10, "y": 10}, force=True)
        await person.page.mouse.up()
        await shown(person, "^Chunk [1-9]")


async def test_starting_over_begins_in_the_same_rooms(browser, url):
    async with walking(browser, url, "/#scene=rooms:3&tour=R90") as person:
        await shown(person, "^Chunk 3, a true picture")
        before = await picture(person).get_attribute("aria-label")
        session = await person.session()
        await person.page.keyboard.press("Home")
        await person.another_session(session)
        await expect(picture(person)).to_have_attribute("aria-label", before)


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("ratio", [1, 1.5])
async def test_pictures_are_enlarged_by_whole_pixels_of_the_screen(browser, url, width, ratio):
    async with walking(browser, url, width=width, device_scale_factor=ratio) as person:
        await person.page.keyboard.press(".")
        await shown(person, "^Chunk 0")
        drawn, seen, rendering, wide = await picture(person).evaluate(
            "e => [e.width, e.getBoundingClientRect().width * devicePixelRatio, getComputedStyle(e).imageRendering,"
            " document.documentElement.scrollWidth]"
        )
        assert seen / drawn == pytest.approx(round(seen / drawn), abs=1e-3)
        assert round(seen / drawn) >= 3
        assert rendering == "pixelated"
        assert wide <= width


async def test_dark_and_light_are_chosen_and_kept(browser, url):
    async with walking(browser, url, color_scheme="light") as person:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await person.page.evaluate(ground)
        await person.page.get_by_role("button", name="Dark or light: Auto").click()
        dark = await person.page.evaluate(ground)
        await person.page.goto("/")
        assert await person.page.evaluate(ground) == dark != light
        await expect(person.page.get_by_role("button", name="Dark or light: Dark")).to_be_visible()


async def test_names_of_worlds_are_words_and_no_markup(browser, url):
    name = "<img src=x onerror=alert(1)>"
    async with walking(browser, url) as person:
        await person.page.route("**/v1/worlds**", lambda route: route.fulfill(json={"worlds": [{"name": name}]}))
        await person.page.get_by_role("button", name="Other world").click()
        dialog = person.page.get_by_role("dialog")
        await expect(dialog.get_by_role("button", name=name)).to_be_visible()
        await person.page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
