"""What of a walk is given to others: links to its world and to watch, a film, the world as a file; and forged links."""

import base64
import io
import re
from itertools import pairwise

import av
import pytest
from playwright.async_api import expect

from tests.browser.visitor import visiting
from tests.browser.walker import ALONE, SHOWN, SHOWN_CHUNKS, Walker, walking

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]


async def link(person: Walker, name: str) -> str:
    """Path of a link that the page gives away."""
    await person.button(name, "#share").click()
    shown = person.page.locator("#share").get_by_label("Link", exact=True)
    await expect(shown).to_have_value(re.compile("#"))
    return (await shown.input_value()).removeprefix(person.visitor.url)


async def downloaded(person: Walker, name: str) -> tuple[str, bytes]:
    """Name and bytes of the file that a button gives."""
    async with person.page.expect_download() as download:
        await person.button(name, "#share").click()
    file = await download.value
    return file.suggested_filename, (await file.path()).read_bytes()


async def played(person: Walker, film: bytes) -> list[float]:
    """Seconds, width and height of a film, once the browser has played it to its end."""
    code = """async (text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const video = Object.assign(document.createElement("video"), { muted: true });
        const over = new Promise((resolve, reject) => {
          video.onended = resolve;
          video.onerror = () => reject(new Error(video.error.message));
        });
        video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
        await Promise.all([video.play(), over]);
        return [video.duration, video.videoWidth, video.videoHeight];
    }"""
    return list(await person.page.evaluate(code, base64.b64encode(film).decode()))


async def kept(person: Walker, chunks: int) -> None:
    """Wait until so many chunks are kept: then the last of them can be forked from."""
    await person.chunk(chunks - 1).click()
    await expect(person.button("Fork from here")).to_be_enabled()
    await person.page.keyboard.press("Escape")
    await person.stage.focus()


async def test_a_link_leads_somebody_else_to_the_same_place_of_the_same_world(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 4)
        await kept(person, 4)
        path = await link(person, "Link to this place")
        async with walking(browser, url, path) as other:
            await other.drawn(3)
            assert await other.session() != await person.session()
            await person.visitor.picture("share", ".place-share")
            for index in range(4):
                await expect(other.page.locator(f'#map .cone[data-chunk="{index}"]')).to_be_attached()
                await expect(other.chunk(index).locator("img")).to_have_attribute("src", re.compile("blob:"))
            await other.pause()
            assert await other.step("ArrowLeft") == 4
            assert await person.newest() == 3
            async with walking(browser, url, path) as third:  # the same link once more
                await third.drawn(3)
                await third.pause()
                for each in (other, third, person):
                    newest = await each.newest()
                    assert await each.step("ArrowLeft") == newest + 1


async def test_who_watches_sees_the_walk_and_can_do_nothing(browser, url):
    async with walking(browser, url, SHOWN) as person:
        await person.drawn(SHOWN_CHUNKS - 1)
        await person.pause()
        await person.step("ArrowRight", 2)
        path = await link(person, "Link to watch")
        assert await person.session() not in path
        async with visiting(browser, url, path) as visitor:
            other = Walker(visitor)
            await other.connected("Looking on")
            await person.stage.focus()
            index = await person.step("ArrowRight", 2)
            await other.drawn(index)
            await expect(other.command("round")).to_be_disabled()
            await expect(other.button("Link to this place")).to_be_disabled()
            await other.stage.focus()
            await other.page.keyboard.press("t")
            assert await person.step("ArrowLeft") == index + 1
            await other.drawn(index + 1)
            await visitor.picture("watching")


async def test_a_recorded_film_can_be_played(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 2)
        await person.button("Record", "#share").click()
        await person.stage.focus()
        await person.step("ArrowRight", 3)
        name, data = await downloaded(person, "Stop, 3 chunks")
        assert name.endswith(".mp4")
        with av.open(io.BytesIO(data)) as film:
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            assert film.streams.video[0].codec_context.name == "h264"
        canvas = person.page.locator("#stage canvas")
        width, height = [int(await canvas.get_attribute(name) or 0) for name in ("width", "height")]
        shown = {(each.shape[1] * height == each.shape[0] * width, each.shape[1] % width) for each in pictures}
        assert shown == {(True, 0)}, "pictures of the film have the shape of those on the page, by a whole factor"
        assert len(pictures) == 3 * 3
        assert any((one != other).any() for one, other in pairwise(pictures))
        assert await played(person, data) == [
            pytest.approx(len(pictures) / 30, abs=0.05),
            *reversed(pictures[0].shape[:2]),
        ]


async def test_a_world_is_a_file(browser, url):
    async with walking(browser, url) as person:
        await person.pause()
        await person.step("ArrowRight", 2)
        await kept(person, 2)
        name, data = await downloaded(person, "Export the world")
        assert name.endswith(".worldkv")
        assert len(data) > 1000


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/#session=00000000000000000000000000000000", "This walk is gone"),
        ("/#session=<img src=x onerror=alert(1)>", "This walk is gone"),
        ("/#watch=w00000000000000000000000000000000", "This walk is gone"),
        ("/#world=nobody%20knows&at=7", None),
        (f"{ALONE}&seed=minus", None),
    ],
)
async def test_forged_and_stale_links_are_told_in_words_with_a_way_on(browser, url, path, title):
    async with visiting(browser, url, path) as visitor:
        trouble = visitor.page.get_by_role("alert").filter(visible=True)
        await expect(trouble.get_by_role("heading")).to_have_text(title or re.compile(r"\w"))
        await expect(trouble.get_by_role("button", name="Begin a new walk")).to_be_visible()
        await trouble.get_by_role("button", name="Begin a new walk").click()
        await Walker(visitor).drawn(0)
