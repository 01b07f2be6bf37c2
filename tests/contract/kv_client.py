"""Clients of real shards, for the contracts."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.kvstore.config import KVStoreConfig
from services.kvstore.ram import RamConfig
from services.kvstore.server import servicers
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.service import ServiceConfig, serve

SHARD = KVStoreConfig(
    service=ServiceConfig(drain_seconds=0), ram=RamConfig(budget_bytes=8 << 20, prefix="worldkv-contract")
)


@asynccontextmanager
async def client_of(shards: int, shared: bool = True) -> AsyncIterator[KVClient]:
    """A client of so many shards, whose memory is on this host or treated as if it were elsewhere."""
    async with AsyncExitStack() as stack:
        serving = [await stack.enter_async_context(serve(SHARD.service, servicers(SHARD))) for _ in range(shards)]
        members = fixed(*(each.address for each in serving))
        yield await stack.enter_async_context(KVClient(members, ClientConfig(shared=shared)))
