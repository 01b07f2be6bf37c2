"""The page's parts that need no service: frames, lineages, when pictures are shown, what keys wish, maps."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Browser

from tests.browser.visitor import visiting
from worldkv.actions import parse_path
from worldkv.pose import camera

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def said(browser: Browser, url: str, module: str, code: str) -> Any:
    """What code of the page's says; `m` is the module."""
    async with visiting(browser, url, "/healthz") as person:
        person.forgive("favicon.ico")  # of a page without one
        return await person.page.evaluate(f"import('/{module}').then(async (m) => {{ {code} }})")


async def test_a_frame_comes_apart_into_its_message_and_pictures(browser, url):
    code = """
        const pictures = [{ size: 2 }, { size: 1 }];
        const drawn = { key: { branch: "b" }, number: "9007199254740991", held: { hot: "3" }, pictures };
        const head = new TextEncoder().encode(JSON.stringify({ drawn }));
        const frame = new Uint8Array(4 + head.length + 3);
        new DataView(frame.buffer).setUint32(0, head.length);
        frame.set(head, 4);
        frame.set([1, 2, 3], 4 + head.length);
        const { kind, value } = m.parsed(frame.buffer);
        const read = async (picture) => [...new Uint8Array(await picture.arrayBuffer())];
        const bytes = await Promise.all(value.pictures.map(read));
        return [kind, value.key.index, value.number, value.held.hot, bytes];
    """
    assert await said(browser, url, "frames.js", code) == ["drawn", 0, 2**53 - 1, 3, [[1, 2], [3]]]


async def test_bytes_that_are_no_frame_are_told_so(browser, url):
    code = """
        const bad = [[], [0, 0, 0, 9, 1], [0, 0, 0, 1, 123]];
        return bad.map((bytes) => { try { m.parsed(new Uint8Array(bytes).buffer); } catch (error) {
          return error instanceof m.BadFrame; } });
    """
    assert await said(browser, url, "frames.js", code) == [True, True, True]


async def test_a_lineage_goes_on_with_another_branch_where_it_was_cut(browser, url):
    code = """
        const parts = m.forked(m.forked([{ branch: "a" }], 5, "b"), 9, "c");
        const back = m.forked(parts, 3, "d");
        const keys = [["a", 4], ["b", 4], ["b", 8], ["c", 9], ["c", 8]].map(([branch, index]) => ({ branch, index }));
        const twice = m.forked(m.forked(parts, 7, "e"), 9, "f");
        const others = [parts, back, m.forked(parts, 12, "e"), twice, [{ branch: "z" }]];
        const shared = others.map((each) => String(m.shared(parts, each)));
        return [parts, back, m.head(back), shared, keys.map((key) => m.covers(parts, key))];
    """
    parts, back, head, shared, covered = await said(browser, url, "lineage.js", code)
    assert parts == [{"branch": "a", "end": 5}, {"branch": "b", "end": 9}, {"branch": "c"}]
    assert back == [{"branch": "a", "end": 3}, {"branch": "d"}]
    assert (head, shared) == ("d", ["Infinity", "3", "12", "7", "0"])
    assert covered == [True, False, True, True, False]


async def test_pictures_are_shown_evenly_and_none_is_left_out_to_catch_up(browser, url):
    code = """
        const play = (count, calm) => {
          const playout = new m.Playout(10, 3);
          playout.put(...Array.from({ length: count }, (_, index) => ({ index, calm })));
          const shown = [];
          for (let now = 1000; now < 9000; now += 1) {
            const picture = playout.take(now);
            if (picture) shown.push([picture.index, now]);
          }
          return shown;
        };
        return [play(6, false), play(12, false), play(12, true)];
    """
    few, many, calm = await said(browser, url, "playout.js", code)
    assert few == [[index, 1000 + 100 * index] for index in range(6)]
    for shown in (many, calm):
        assert [index for index, _ in shown] == list(range(12))
    gaps = [after - before for (_, before), (_, after) in pairwise(many)]
    assert all(after >= before - 1 for before, after in pairwise(gaps))
    assert gaps[0] == 50
    assert gaps[-1] == 100
    assert calm[-1][1] - calm[0][1] == 1100


async def test_what_a_key_was_pressed_for_is_shown_soon(browser, url):
    code = """
        const playout = new m.Playout(10, 3);
        const chunk = (index, calm) => Array.from({ length: 3 }, () => ({ index, calm }));
        playout.put(...chunk(0, true), ...chunk(1, true), ...chunk(2, false));
        playout.hurry(2);
        const shown = [];
        for (let now = 1000; now < 3000; now += 1) {
          const picture = playout.take(now);
          if (picture) shown.push([picture.index, now]);
        }
        return shown;
    """
    shown = await said(browser, url, "playout.js", code)
    assert len(shown) == 9
    first, begin = shown[6]
    assert (first, begin) == (2, 1200)
    assert shown[-1][1] - begin == 200


async def test_what_is_before_the_chunk_a_key_was_pressed_for_is_shown_by_the_time_it_comes(browser, url):
    code = """
        const playout = new m.Playout(10, 3);
        playout.put(...Array.from({ length: 6 }, (_, place) => ({ index: place < 3 ? 0 : 1 })));
        playout.hurry(2, 0.3);
        const shown = [];
        for (let now = 1000; now < 1600; now += 1) {
          if (now === 1300) playout.put({ index: 2 }, { index: 2 }, { index: 2 });
          const picture = playout.take(now);
          if (picture) shown.push([picture.index, now]);
        }
        return shown;
    """
    shown = await said(browser, url, "playout.js", code)
    assert [at for _, at in shown] == [1000, 1050, 1100, 1150, 1200, 1250, 1300, 1400, 1500]
    assert shown[6][0] == 2


async def test_what_is_left_to_be_shown_is_known_in_seconds(browser, url):
    code = """
        const playout = new m.Playout(10, 3);
        const before = playout.remaining(1000);
        playout.put({ index: 0 }, { index: 0 }, { index: 1 });
        const whole = playout.remaining(1000);
        playout.take(1000);
        const less = playout.remaining(1050);
        playout.drop(({ index }) => index === 1);
        return [before, whole, less, playout.length];
    """
    before, whole, less, length = await said(browser, url, "playout.js", code)
    assert (before, length) == (0, 1)
    assert whole == pytest.approx(0.3)
    assert less == pytest.approx(0.25)


async def test_a_cone_of_the_map_is_what_the_cameras_see(browser, url):
    cameras = [camera(1.5, 0.2, -2.0, yaw) for yaw in (350.0, 0.0, 20.0)]
    given = [each[:3].ravel().tolist() for each in cameras]
    tip, left, *_, right = await said(
        browser, url, "geometry.js", f"return m.corners(m.sector({given}, Math.PI / 3), 2);"
    )
    assert tip == pytest.approx([1.5, -2.0])
    for each, (x, z), edge in ((cameras[0], left, -30), (cameras[-1], right, 30)):
        seen = np.linalg.inv(each) @ [x, 0.2, z, 1]
        assert np.degrees(np.arctan2(seen[0], seen[2])) == pytest.approx(edge)
        assert np.hypot(seen[0], seen[2]) == pytest.approx(2)


async def test_of_a_long_walk_the_page_holds_the_newest_pictures(browser, url):
    code = """
        const chunks = new Map();
        for (let index = 0; index < 5000; index += 1) {
          chunks.set(index, { ...m.chunk({ index }, []), drawn: {}, thumbnail: {} });
          m.thin(chunks, index);
        }
        return ["drawn", "thumbnail"].map((name) => [...chunks.values()].filter((each) => each[name]).length);
    """
    assert await said(browser, url, "chunk.js", code) == [100, 2000]


async def test_a_map_shows_a_walk_of_any_length(browser, url):
    code = """
        const places = Array.from({ length: 200_000 }, (_, n) => [n % 40, -(n % 20)]);
        return m.fitted({ width: 440, height: 230 }, places, 2, [1, 100]);
    """
    view = await said(browser, url, "geometry.js", code)
    assert (view["x"], view["z"], view["scale"]) == (19.5, -9.5, 10)


@pytest.mark.parametrize(
    ("codes", "wish"),
    [
        ([], {}),
        (["KeyW", "ArrowLeft"], {"forward": 1, "turn": -1}),
        (["KeyA", "KeyD"], {}),
        (["KeyW", "ArrowUp"], {"forward": 1}),
        (["PageUp"], {"look": 1}),
    ],
)
async def test_keys_that_are_held_are_one_wish(browser, url, codes, wish):
    still = {"forward": 0, "strafe": 0, "turn": 0, "look": 0}
    assert await said(browser, url, "keys.js", f"return m.wished({codes});") == still | wish


@pytest.mark.parametrize(
    ("path", "chunks"), [("", 0), ("R360", 14), ("R90_L90", 8), ("W2_U", 6), ("R_R90", 8), ("_5", 2)]
)
async def test_the_page_knows_how_long_a_tour_is(browser, url, path, chunks):
    assert chunks == (-(-(len(parse_path(path)) + 1) // 3) if path else 0)
    assert await said(browser, url, "tour.js", f"return m.tourChunks({path!r}, 3);") == chunks
