"""What can be looked at again and taken along over HTTP: chunks, films of them, whole worlds."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web
from google.protobuf import json_format

from services.gateway.answers import caller, file_name, number, streamed
from services.gateway.film import Film
from services.gateway.reading import export, look
from services.gateway.routing import Router
from worldkv.errors import InvalidInput, NotFound, OverBudget
from worldkv.v1 import sessions_pb2 as pb

ALL_PICTURES = 1 << 16
"""More than a chunk has."""
LARGEST = (1 << 32) - 1


class Downloads:
    """Answers with what a tenant's worlds hold.

    films  that are made at the same time, at most
    """

    def __init__(self, router: Router, films: int) -> None:
        self.router, self.films = router, films
        self._making = 0

    async def look(self, request: web.Request) -> web.StreamResponse:
        """A list of chunks."""
        claims, wanted = caller(request), _wanted(request)
        claims.check_join(wanted.session, watch=True)
        wanted.height, wanted.pictures = _small(request, "height"), _small(request, "pictures")
        return await streamed(request, self._list(claims.tenant, wanted), "application/json")

    async def film(self, request: web.Request) -> web.StreamResponse:
        """All pictures of some chunks, as a film. Raises OverBudget while too many are made."""
        claims, wanted = caller(request), _wanted(request)
        claims.check_join(wanted.session, watch=True)
        wanted.pictures = ALL_PICTURES
        if self._making >= self.films:
            raise OverBudget(f"{self._making} films are made just now, as many as may: try again in a while")
        self._making += 1
        try:
            name = file_name(request.query.get("name") or "walk", ".mp4")
            return await streamed(request, self._film(claims.tenant, wanted), "video/mp4", name)
        finally:
            self._making -= 1

    async def export(self, request: web.Request) -> web.StreamResponse:
        """A world, as a file."""
        claims, world = caller(request), request.query.get("world", "")
        claims.check_call("/worldkv.v1.Sessions/Export")
        if not world:
            raise InvalidInput("world: expected the name of a world, got none")
        return await streamed(
            request, self._world(claims.tenant, world), "application/octet-stream", file_name(world, ".wkw")
        )

    async def _list(self, tenant: str, wanted: pb.LookRequest) -> AsyncGenerator[bytes, None]:
        begin = b"["
        async with aclosing(look(self.router, tenant, wanted)) as chunks:
            async for chunk in chunks:
                yield begin + _shown(chunk)
                begin = b",\n"
        yield b"[]" if begin == b"[" else b"]"

    async def _film(self, tenant: str, wanted: pb.LookRequest) -> AsyncGenerator[bytes, None]:
        film: Film | None = None
        try:
            async with aclosing(look(self.router, tenant, wanted)) as chunks:
                async for chunk in chunks:
                    pictures = [each.data for each in chunk.pictures]
                    if not pictures:
                        continue
                    if film is None:
                        film = await asyncio.to_thread(Film, chunk.pictures_per_second)
                    if piece := await asyncio.to_thread(film.add, pictures):
                        yield piece
            if film is None:
                raise NotFound("no chunk of these has pictures that could be had")
            yield await asyncio.to_thread(film.end)
        finally:
            if film is not None:
                film.abandon()

    async def _world(self, tenant: str, world: str) -> AsyncGenerator[bytes, None]:
        async with aclosing(export(self.router, tenant, pb.ExportRequest(world=world))) as pieces:
            async for piece in pieces:
                yield piece.data


def _wanted(request: web.Request) -> pb.LookRequest:
    """What is asked for of a session. Raises InvalidInput."""
    session = request.query.get("session", "")
    if not session:
        raise InvalidInput("session: expected the id of a session, got none")
    return pb.LookRequest(session=session, at=number(request, "at"), count=number(request, "count"))


def _small(request: web.Request, name: str) -> int:
    if (given := number(request, name)) > LARGEST:
        raise InvalidInput(f"{name}={given}: expected at most {LARGEST}")
    return given


def _shown(chunk: pb.LookResponse) -> bytes:
    """A chunk as JSON, with its pictures as addresses that hold them."""
    urls = ["data:image/jpeg;base64," + base64.b64encode(each.data).decode() for each in chunk.pictures]
    chunk.ClearField("pictures")
    return json.dumps({**json_format.MessageToDict(chunk), "pictures": urls}, separators=(",", ":")).encode()
