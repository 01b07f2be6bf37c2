"""Clients of real servers, for the contracts."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.wire.toy_kvstore import Toy, serving
from worldkv.client import ClientConfig, KVClient, fixed


@asynccontextmanager
async def client_of(shards: int, shared: bool = True) -> AsyncIterator[KVClient]:
    """A client of so many small shards, whose memory is on this host or treated as if it were elsewhere."""
    async with AsyncExitStack() as stack:
        toys = [Toy() for _ in range(shards)]
        addresses = [await stack.enter_async_context(serving(toy)) for toy in toys]
        yield await stack.enter_async_context(KVClient(fixed(*addresses), ClientConfig(shared=shared)))
        for toy in toys:
            toy.tier.check_integrity()
