"""The whole service that browser tests look at: a shard, an index, a generator with the pocket model, a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.generator.processes import Process, Service, free_addresses, service

QUIET = {
    "THREADS": "1",
    "LIVE__PICTURES_PER_SECOND": "30",
    "ENGINE__GATHER_SECONDS": "0",
    "ENGINE__ROUND_SECONDS": "0",
}
"""Settings of a generator that leaves room for a browser beside it, is held up by nothing, and is never full."""


class Door:
    """A gateway before a service, with a face for browsers; it can be killed and started again where it was.

    url  of its page
    """

    def __init__(self, behind: Service, settings: dict[str, str]) -> None:
        face, web = free_addresses(2)
        self.url, self._process = f"http://{web}", None
        named = {"GENERATORS": ",".join(behind.generators), "SERVICE__ADDRESS": face, "WEB__ADDRESS": web}
        self._settings = named | settings

    _process: Process | None

    def start(self) -> None:
        """Serve, again. Raises Unavailable with what it said if it cannot."""
        self._process = Process("gateway", self._settings)
        self._process.address()

    def kill(self) -> None:
        """End it without a word, if it serves."""
        if self._process is not None:
            self._process.running.kill()
            self._process.__exit__()
            self._process = None


@contextmanager
def door(behind: Service, **settings: str) -> Iterator[Door]:
    """A gateway of a test's own, that ends with the block."""
    made = Door(behind, settings)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def topology() -> Iterator[Service]:
    """A service of processes without a gateway, that ends with the block."""
    with service(QUIET, shards=1, generators=1, gateways=0) as made:
        yield made
