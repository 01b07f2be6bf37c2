"""What browser tests share: one service, one gateway, one browser."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from benchmarks.browser import chromium, chromium_program, door
from services.generator.processes import Service, service
from worldkv.errors import NotFound

QUIET = {
    "THREADS": "1",
    "LIVE__PICTURES_PER_SECOND": "30",
    "ENGINE__GATHER_SECONDS": "0",
    "ENGINE__ROUND_SECONDS": "0",
}
"""Settings of a generator that leaves room for a browser beside it, is held up by nothing, and is never full."""


@pytest.fixture(scope="session", name="service")
def _service() -> Iterator[Service]:
    """The service without a gateway: a test that harms its gateway makes one of its own."""
    try:
        chromium_program()
    except NotFound as error:
        pytest.skip(str(error))
    with service(QUIET, shards=1, gateways=0) as made:
        yield made


@pytest.fixture(scope="session")
def url(service: Service) -> Iterator[str]:
    """Of a gateway before it."""
    with door(service) as made:
        yield made.url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(service: Service) -> AsyncIterator[Browser]:
    async with chromium() as made:
        yield made
