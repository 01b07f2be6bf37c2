"""What browser tests share: one service, one gateway, one browser."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from services.generator.processes import Service
from tests.browser import topology, visitor


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service without a gateway: a test that harms its gateway makes one of its own."""
    visitor.chromium_program()  # no service is started for nothing
    with topology.topology() as made:
        yield made


@pytest.fixture(scope="session")
def url(service: Service) -> Iterator[str]:
    """Of a gateway before it."""
    with topology.door(service) as made:
        yield made.url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with visitor.chromium() as made:
        yield made
