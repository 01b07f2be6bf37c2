"""What a gateway gives over HTTP besides the walk: lists, chunks seen again, films, worlds, links, pages, the fleet."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from services.gateway import answers
from tests.wire.gateways import Fleet, Gateway, until
from tests.wire.test_gateway_web import web
from worldkv.wire_sessions import watch_id


def jpeg(width: int = 16, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(file, "JPEG")
    return file.getvalue()


class Asking:
    """A browser that asks a gateway for what is no walk."""

    def __init__(self, http: aiohttp.ClientSession, made: Fleet, gateway: Gateway) -> None:
        self.http, self.made, self.gateway = http, made, gateway

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        async with self.http.get(path, params={name: str(value) for name, value in query.items()}) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def post(self, path: str, said: Any, status: int = 200) -> Any:
        async with self.http.post(path, json=said) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def walked(self, chunks: int = 3, tenant: str = "default", **request: Any) -> str:
        """A session in which so many chunks were drawn."""
        session = (await self.gateway.open(tenant, **request)).session
        async with self.gateway.walk(session, tenant=tenant) as client:
            for number in range(1, chunks + 1):
                await client.move(1, number)
            await client.drawn(chunks)
        return session


@asynccontextmanager
async def asking(place: Path, *names: str, **settings: Any) -> AsyncIterator[Asking]:
    async with web(place, *(names or ("a",)), toy_jpeg=jpeg(), **settings) as (made, gateway, _):
        async with aiohttp.ClientSession(f"http://{gateway.web}") as http:
            yield Asking(http, made, gateway)


async def test_worlds_and_sessions_are_listed(tmp_path):
    async with asking(tmp_path) as page:
        session = await page.walked(world="rooms")
        await page.walked(world="other", tenant="somebody")
        (world,) = (await page.get("/v1/worlds"))["worlds"]
        assert (world["name"], world["chunks"]) == ("rooms", "3")
        assert [each["session"] for each in (await page.get("/v1/sessions"))["sessions"]] == [session]
        (world,) = (await page.get("/v1/worlds", tenant="somebody"))["worlds"]
        assert world["name"] == "other"


async def test_chunks_are_seen_again(tmp_path):
    async with asking(tmp_path) as page:
        session = await page.walked(5)
        chunks = await page.get("/v1/look", session=session, at=1, count=3, height=8, pictures=1)
        assert [chunk["key"]["index"] for chunk in chunks] == ["1", "2", "3"]
        assert all(chunk["state"] == "CHUNK_STATE_KEPT" for chunk in chunks)
        assert all(chunk["pictures"][0].startswith("data:image/jpeg;base64,") for chunk in chunks)
        assert chunks == await page.get("/v1/look", session=watch_id(session), at=1, count=3, height=8, pictures=1)
        assert await page.get("/v1/look", session=session, at=5) == []


async def test_a_film_has_all_pictures(tmp_path):
    async with asking(tmp_path) as page:
        session = await page.walked(4)
        answer = await page.http.get("/v1/film", params={"session": session, "at": "1"})
        assert (answer.status, answer.content_type) == (200, "video/mp4")
        assert answer.headers["Content-Disposition"] == 'attachment; filename="walk.mp4"'
        with av.open(io.BytesIO(await answer.read())) as film:
            (track,) = film.streams.video
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(track)]
        assert len(pictures) == 6
        assert (track.codec_context.name, track.pix_fmt) == ("h264", "yuv420p")
        assert pictures[0].shape == (240, 480, 3)
        assert abs(pictures[3].astype(int) - (200, 40, 40)).max() < 12


async def test_a_world_is_taken_along(tmp_path):
    async with asking(tmp_path) as page:
        await page.walked(world="ro<b>oms")
        answer = await page.http.get("/v1/export", params={"world": "ro<b>oms"})
        assert await answer.read() == b"".join(bytes([number]) * 1000 for number in range(3))
        assert answer.headers["Content-Disposition"] == 'attachment; filename="ro-b-oms.wkw"'
        assert answer.content_type == "application/octet-stream"


async def test_there_is_no_head_without_a_file(tmp_path):
    """Its pieces would be taken for the answer to what is asked next on the same line."""
    async with asking(tmp_path) as page:
        session = await page.walked(world="rooms")
        for path, query in (("/v1/export", {"world": "rooms"}), ("/v1/film", {"session": session}), ("/v1/walk", {})):
            assert (await page.http.head(path, params=query)).status == 404
        async with page.http.head("/v1/look", params={"session": session}) as answer:
            assert answer.status == 404
        assert (await page.http.head("/v1/worlds")).status == 200
        assert len((await page.get("/v1/worlds"))["worlds"]) == 1


async def test_half_a_file_is_no_file(tmp_path):
    async with asking(tmp_path, "a", toy_pieces=100_000) as page:
        await page.walked(world="rooms")
        answer = await page.http.get("/v1/export", params={"world": "rooms"})
        await answer.content.readexactly(1000)
        await page.made.kill("a")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_nothing_is_read_that_nobody_takes(tmp_path):
    async with asking(tmp_path, "a", toy_pieces=1000, toy_piece_bytes=100_000) as page:
        await page.walked(world="rooms")
        answer = await page.http.get("/v1/export", params={"world": "rooms"})
        await answer.content.readexactly(1000)
        (toy,) = page.made.toys()
        before = -1
        while before != toy.exported:  # until it waits for somebody who takes more
            before = toy.exported
            await asyncio.sleep(0.3)
        assert toy.exported < 500
        answer.close()


async def test_what_nobody_takes_breaks_off(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(answers, "TAKEN_SECONDS", 0.2)
    async with asking(tmp_path, "a", toy_pieces=1000, toy_piece_bytes=100_000) as page:
        await page.walked(world="rooms")
        answer = await page.http.get("/v1/export", params={"world": "rooms"})
        (toy,) = page.made.toys()
        await until(lambda: "nothing was taken for 0.2 s" in caplog.text)
        assert toy.exported < 500
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_strangers_names_do_not_mean_this_host(tmp_path):
    async with asking(tmp_path, origins=("https://known.org",)) as page:
        for host, status in {"evil.example:8471": 403, "": 403, "[": 403, "known.org": 200, "localhost:1": 200}.items():
            for path in ("/v1/worlds", "/v1/walk", "/v1/sessions"):
                expected = status if status == 403 or path != "/v1/walk" else 400
                assert (await page.http.get(path, headers={"Host": host})).status == expected, (host, path)
        assert (await page.http.get("/healthz", headers={"Host": "any.example"})).status == 200


async def test_links_are_made(tmp_path):
    async with asking(tmp_path) as page:
        session = await page.walked(3, world="rooms")
        link = await page.post("/v1/share", {"session": session, "kind": "watch"})
        assert link == {"fragment": f"watch={watch_id(session)}", "expires": None}
        link = await page.post("/v1/share", {"session": session, "kind": "world", "at": 2})
        assert link == {"fragment": "world=fork&at=2", "expires": None}


async def test_links_to_nothing_are_refused(tmp_path):
    async with asking(tmp_path) as page:
        for said, status, words in (
            ({"session": "nobody", "kind": "watch"}, 404, "nobody"),
            ({"session": "nobody", "kind": "world"}, 404, "nobody"),
            ({"kind": "watch"}, 400, "session"),
            ({"session": "<b>", "kind": "listen"}, 400, "kind"),
            ({"session": "x", "kind": "watch", "at": -1}, 400, "at"),
            ({"session": "x", "kind": "watch", "seconds": "long"}, 400, "seconds"),
            ({"session": "x", "kind": "watch", "seconds": 31 * 86_400}, 400, "at most 2.592e+06 s"),
            ({"session": "x", "kind": "watch", "more": 1}, 400, "expected an object"),
            ([], 400, "expected an object"),
        ):
            assert words in (await page.post("/v1/share", said, status))["words"]
        answer = await page.http.post("/v1/share", data=b"{")
        assert (answer.status, (await answer.json())["status"]) == (400, "INVALID_ARGUMENT")


async def test_what_cannot_be_had_is_told_in_words(tmp_path):
    async with asking(tmp_path) as page:
        session = await page.walked(1, tenant="somebody")
        for path, query, status, name in (
            ("/v1/look", {"session": session}, 404, "NOT_FOUND"),  # another tenant's
            ("/v1/look", {"session": watch_id(session)}, 404, "NOT_FOUND"),
            ("/v1/look", {"session": "<script>"}, 404, "NOT_FOUND"),
            ("/v1/look", {}, 400, "INVALID_ARGUMENT"),
            ("/v1/look", {"session": session, "at": "-1"}, 400, "INVALID_ARGUMENT"),
            ("/v1/look", {"session": session, "at": "9" * 30}, 400, "INVALID_ARGUMENT"),
            ("/v1/look", {"session": session, "height": 1 << 40}, 400, "INVALID_ARGUMENT"),
            ("/v1/film", {"session": watch_id("nobody")}, 404, "NOT_FOUND"),
            ("/v1/film", {"session": session, "at": 1, "tenant": "somebody"}, 404, "NOT_FOUND"),  # nothing to show
            ("/v1/export", {"world": "nowhere"}, 404, "NOT_FOUND"),
            ("/v1/export", {}, 400, "INVALID_ARGUMENT"),
            ("/v1/worlds", {"tenant": "No Name"}, 400, "INVALID_ARGUMENT"),
            ("/v1/nothing", {}, 404, "NOT_FOUND"),
        ):
            answer = await page.get(path, status, **query)
            assert (answer["status"], bool(answer["words"])) == (name, True), (path, query)


async def test_too_many_films_at_once_are_refused(tmp_path):
    async with asking(tmp_path, films=1) as page:
        session = await page.walked(2)
        (toy,) = page.made.toys()
        toy.holds_looks = True
        first = asyncio.create_task(page.http.get("/v1/film", params={"session": session}))
        await until(lambda: "Look" in toy.calls)
        answer = await page.get("/v1/film", 429, session=session)
        assert "films are made" in answer["words"]
        toy.holds_looks = False
        assert (await first).status == 200


async def test_what_a_page_is_shown_as(tmp_path):
    folder = tmp_path / "page"
    (folder / "sub").mkdir(parents=True)
    for name in ("index.html", "app.js", "sub/map.css", ".hidden"):
        (folder / name).write_text("old" * 500)
    async with asking(tmp_path, folder=folder) as page:
        kinds = {"/": "text/html", "/app.js": "text/javascript", "/sub/map.css": "text/css"}
        for path, kind in kinds.items():
            answer = await page.http.get(path)
            assert (answer.content_type, await answer.text()) == (kind, "old" * 500)
            assert answer.headers["Cache-Control"] == "no-cache"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            known = {"If-None-Match": answer.headers["ETag"]}
            assert (await page.http.get(path, headers=known)).status == 304
            (folder / path.lstrip("/") if path != "/" else folder / "index.html").write_text("new" * 500)
            answer = await page.http.get(path, headers=known)
            assert (answer.status, await answer.text()) == (200, "new" * 500)
        for path in (
            "/.hidden",
            "/%00",
            "/sub",
            "/%2e%2e/members",
            "/..%2fgenerators.toml",
            "/sub/../../generators.toml",
        ):
            assert (await page.http.get(path)).status == 404, path


async def test_pages_of_others_are_answered_if_they_may(tmp_path):
    async with asking(tmp_path, origins=("https://known.org",)) as page:
        known = {"Origin": "https://known.org"}
        answer = await page.http.get("/v1/worlds", headers=known)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://known.org")
        assert (await page.http.options("/v1/share", headers=known)).status == 204
        for stranger in ("https://stranger.org", "null", "http://["):
            answer = await page.http.get("/v1/worlds", headers={"Origin": stranger})
            assert (answer.status, (await answer.json())["status"]) == (403, "PERMISSION_DENIED")
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_what_this_is_and_how_all_are(tmp_path):
    async with asking(tmp_path, "a", "b") as page:
        session = await page.walked(1)
        about = await page.get("/v1/about")
        assert (about["protocol"], about["auth"], about["fleet"]) == (1, False, True)
        found = await page.get("/v1/fleet")
        assert sorted(each["generator"] for each in found["generators"]) == ["a", "b"]
        (resident,) = [one for each in found["generators"] for one in each.get("sessions", ())]
        assert session.startswith(resident["session"])
        assert len(resident["session"]) < len(session)
        assert "watch" not in resident
        assert found["parts"] == []
