"""Walking with keys alone: what is remembered is lit, changed, gone back to and forked from."""

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


async def test_on_the_way_back_the_map_lights_what_was_seen_first(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        assert await person.step("ArrowRight", 7) == 6
        way_out = await person.recalled()
        await person.step("ArrowLeft", 6)
        lit = await person.recalled()
        assert lit, "nothing is recalled on the way back"
        assert min(lit) <= 2, "the first chunks but the sink's are seen again"
        assert lit != way_out
        for index in lit:
            await expect(person.page.locator(f'#map .lit .now[data-chunk="{index}"]')).to_be_attached()
            await expect(person.page.locator(f'#map .picture.now[data-chunk="{index}"] image')).to_have_attribute(
                "href", re.compile("blob:")
            )
            await expect(person.chunk(index)).to_have_class(re.compile("now"))
        await person.visitor.picture("map", ".place-map")


async def test_the_map_says_why_a_chunk_was_recalled_to_keys_and_pointers(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 5)
        await person.step("ArrowLeft", 4)
        index = (await person.recalled())[0]
        detail = person.page.locator("#map .map-detail")
        await person.page.locator("#map svg").focus()
        await person.page.keyboard.press("Home")
        for _ in range(index):
            await person.page.keyboard.press("ArrowRight")
        chosen = person.page.locator('#map [role="option"][aria-selected="true"]')
        await expect(chosen).to_have_attribute("data-chunk", f"{index}")
        await expect(chosen).to_have_attribute("aria-label", re.compile(f"Chunk {index}, kept, recalled for"))
        for name in ("Score", "Distance", "Angle", "Overlap"):
            await expect(detail).to_contain_text(name)
        await expect(detail.locator("img")).to_be_visible()
        await expect(person.chunk(index)).to_have_attribute("aria-selected", "true")
        await person.page.keyboard.press("Escape")
        await expect(chosen).to_have_count(0)
        await person.page.locator(f'#map .picture[data-chunk="{index}"]').hover()
        await expect(detail).to_contain_text(f"Chunk {index},")


async def test_the_map_zooms_moves_and_follows(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowUp", 2)
        world, follow = person.page.locator("#map .world"), person.button("Follow the walker")

        async def moved(before: str | None) -> str | None:
            await expect(world).not_to_have_attribute("transform", before)
            return await world.get_attribute("transform")

        await person.page.locator("#map svg").focus()
        place = await world.get_attribute("transform")
        for key in ("+", "-", "Shift+ArrowLeft"):
            await person.page.keyboard.press(key)
            place = await moved(place)
        await expect(follow).to_have_attribute("aria-pressed", "false")
        await person.page.keyboard.press("f")
        await expect(follow).to_have_attribute("aria-pressed", "true")


async def test_a_change_of_memory_is_acknowledged_with_the_chunk_it_applies_from(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        newest = await person.step("ArrowRight", 2)
        controls = person.page.locator("#memory")
        await controls.get_by_label("Chunks recalled").fill("1")
        status = controls.locator(".memory-status")
        await expect(status).to_have_text(f"In force from chunk {newest + 1} on.")
        await person.stage.focus()
        await person.step("ArrowRight", 4)
        await person.step("ArrowLeft", 3)
        assert len(await person.recalled()) == 1
        await person.visitor.picture("memory", ".place-memory")
        await controls.get_by_role("radio", name="Window").focus()
        await person.page.keyboard.press("Space")
        await expect(controls.get_by_role("status")).to_have_text(
            f"In force from chunk {await person.newest() + 1} on."
        )
        await expect(person.page.locator("#stage .name")).to_contain_text("Window")


async def test_one_goes_back_to_any_chunk_and_forks_from_any(browser, url):
    name = "Before the pillar"
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 5)
        await person.chunk(4).focus()
        for key in ("ArrowLeft", "ArrowLeft", "Enter"):
            await person.page.keyboard.press(key)
        await expect(person.button("Go back here")).to_be_focused()
        await person.page.keyboard.press("Enter")
        status = person.page.locator("#strip .deed").get_by_role("status")
        await expect(status).to_have_text("You stand after chunk 2 again, on a new branch.")
        await expect(person.chunk(3)).to_have_count(0)
        await person.stage.focus()
        assert await person.step("ArrowLeft", 2) == 4
        await person.chunk(1).click()
        await person.page.locator("#strip").get_by_label("Name").fill(name)
        await person.page.keyboard.press("Enter")
        await expect(status).to_have_text(f"“{name}” ends with chunk 1. You walk on here.")
        await person.page.locator("#strip summary").click()
        branch = person.page.locator("#strip .branches li").filter(has_text=name)
        await expect(branch).to_contain_text("its own from chunk 2 on")
        await person.visitor.picture("time", ".place-strip")
        await branch.get_by_role("button").click()
        await expect(person.chunk(2)).to_have_count(0)
        await person.drawn(1)
        await person.page.keyboard.press("Space")
        assert await person.step("ArrowRight") == 2
