"""What a gateway gives over HTTP besides the walk: lists, chunks seen again, films, worlds, links, pages, the fleet."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
from PIL import Image

from tests.wire.gateways import Fleet, Gateway
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
