"""The page's files, read anew at every request: a browser keeps them, and asks whether they are still the same."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from pathlib import Path

from aiohttp import web

MOST_BYTES = 16 << 20
"""Of a file that is shown."""
COMPRESSED = ("text/", "application/json", "image/svg+xml")
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
"""Of files whose kind not every system knows."""


class Pages:
    """Shows the files of a folder; `/` is its `index.html`. Names that begin with a dot are not shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The file that is asked for; 304 if the browser has it. Raises HTTPNotFound."""
        name = request.match_info.get("name") or "index.html"
        found = await asyncio.to_thread(self._read, name)
        if found is None:
            raise web.HTTPNotFound(text=f"there is no page /{name[:200]}\n")
        kind, content = found
        tag = hashlib.sha256(content).hexdigest()[:32]
        response = web.Response(body=content, content_type=kind, charset="utf-8" if kind.startswith("text/") else None)
        response.etag = tag
        response.headers["Cache-Control"] = "no-cache"
        if any(each.value in (tag, "*") for each in request.if_none_match or ()):
            response = web.Response(status=304, headers=response.headers)
            response.headers.popall("Content-Length", None)
        elif kind.startswith(COMPRESSED):
            response.enable_compression()
        return response

    def _read(self, name: str) -> tuple[str, bytes] | None:
        """Kind and content of a file."""
        if "\0" in name:
            return None
        file = (self.folder / name).resolve()
        if not file.is_relative_to(self.folder) or any(part.startswith(".") for part in Path(name).parts):
            return None
        try:
            if not file.is_file() or file.stat().st_size > MOST_BYTES:
                return None
            content = file.read_bytes()
        except OSError:
            return None
        guessed = KINDS.get(file.suffix) or mimetypes.guess_type(file.name)[0]
        return guessed or "application/octet-stream", content
