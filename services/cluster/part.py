"""A part as it runs in a process of the cluster: serves until it is told to end, and says how it is meanwhile.

What serves has an event loop; how it is may be asked, and a roster given, from another thread's, so that both are
answered however busy the first one is.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry

from services.cluster.kinds import Place, figures, placed, reachable
from services.cluster.roster import Kind, Pulse, Roster, Where, parsed
from worldkv.errors import NotFound, Unavailable
from worldkv.service import Servicers, Serving, serve

BEAT_SECONDS = 0.5
"""Between signs of life of what serves."""


class PartProcess:
    """One part, in this process.

    place      where it stands among others
    servicers  made of its settings: what it serves
    """

    def __init__(self, place: Place, servicers: Callable[[Any], Servicers]) -> None:
        self.kind: Kind = parsed(place.name)[0]
        self._place, self._servicers = place, servicers
        self._roster, self._beat = Roster(), monotonic()
        self._told = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._where: Where | None = None
        self._registry: CollectorRegistry | None = None

    async def start(self, settings: Any, roster: Roster, node: str) -> Where:
        """Serve; answers where.

        settings  of parts of its kind
        roster    whom it knows from the begin
        node      address of this node

        Raises what `worldkv.service.serve` does, Unavailable if the roster cannot be written here.
        """
        self.publish(roster)
        own = placed(self.kind, settings, self._place, node)
        begun: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run(own, begun))
        both: list[asyncio.Future[Any]] = [self._running, begun]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            await self._running
        serving, web = await begun, getattr(own, "web", None)
        addresses = (serving.address, serving.metrics, web.address if web else "")
        self._where, self._registry = Where(*(reachable(each, node) for each in addresses)), serving.registry
        return self._where

    async def end(self) -> None:
        """Drain, and return when all is closed and its memberships are gone; harmless if it does not serve."""
        self._told.set()
        if self._running is not None:
            await self._running
        shutil.rmtree(self._place.folder, ignore_errors=True)

    def publish(self, roster: Roster) -> None:
        """Have this roster from now on, unless a newer one is there already.

        Raises Unavailable if it cannot be written, NotFound after the end: memberships stay gone.
        """
        self._check()
        if roster.number < self._roster.number:
            return
        try:
            roster.write(self._place.folder)
        except OSError as error:
            raise Unavailable(f"{self._place.name}: {self._place.folder}: {error.strerror}") from error
        self._roster = roster

    def pulse(self) -> Pulse:
        """How it is; Unavailable while it does not serve yet, NotFound after its end."""
        self._check()
        if self._where is None or self._registry is None:
            raise Unavailable(f"{self._place.name} does not serve yet")
        return Pulse(self._where, monotonic() - self._beat, figures(self.kind, self._registry), self._roster)

    def _check(self) -> None:
        if self._running is not None and self._running.done():
            raise NotFound(f"{self._place.name} has ended")

    async def _run(self, own: Any, begun: asyncio.Future[Serving]) -> None:
        beating = asyncio.create_task(self._beats())
        try:
            async with serve(own.service, self._servicers(own)) as serving:
                begun.set_result(serving)
                await self._told.wait()
        finally:
            beating.cancel()

    async def _beats(self) -> None:
        while True:
            self._beat = monotonic()
            await asyncio.sleep(BEAT_SECONDS)


def log_to(file: Path) -> None:
    """Let this process say what it says, crashes included, in a file from now on. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)
    faulthandler.enable()
