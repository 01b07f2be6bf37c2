"""Small shards behind a client, as tests of the client want them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from tests.wire.toy_kvstore import Toy, serving
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, KVClient, Member, Membership, Retry
from worldkv.format import Frame, join
from worldkv.store import Miss, PartKey

CONFIG = ClientConfig(
    deadline_seconds=60, staging_bytes=64 << 20, landing_bytes=64 << 20, retry=Retry(first_seconds=0.001)
)
BRANCH = b"b" * 16


def part(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "part")


def kv(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


def frame(size: int = 1000, fill: int = 7) -> Frame:
    body = bytes((fill + n) % 251 for n in range(min(size, 4096))) * (size // 4096 + 1)
    return Frame.of(body[: size // 3], memoryview(body)[size // 3 : size])


class Setting(NamedTuple):
    """Toy shards a, b, ... behind a client; `names` is who is a member, the last `leaving` of them on their way out."""

    client: KVClient
    toys: dict[str, Toy]
    addresses: dict[str, str]
    state: dict[str, Membership]

    def become(self, names: str, leaving: str = "") -> None:
        number = self.state["now"].number + 1
        members = {name: Member(name, self.addresses[name]) for name in self.toys}
        self.state["now"] = Membership(number, tuple(members[n] for n in names), tuple(members[n] for n in leaving))

    def order(self, key: PartKey) -> list[Toy]:
        name = key.chunk.branch + key.chunk.index.to_bytes(8, "little")
        return [self.toys[member.name] for member in self.state["now"].ranked(name)]


@asynccontextmanager
async def shards(names: str, config: ClientConfig = CONFIG) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        toys = {name: Toy() for name in names}
        addresses = {name: await stack.enter_async_context(serving(toy)) for name, toy in toys.items()}
        state = {"now": Membership(1, tuple(Member(name, addresses[name]) for name in names))}
        client = await stack.enter_async_context(KVClient(lambda: state["now"], config))
        yield Setting(client, toys, addresses, state)


async def found(client: KVClient, key: PartKey, **limits: float) -> bytes | Miss:
    answer = (await client.get([key], **limits))[key]
    return answer if isinstance(answer, Miss) else join(answer)


async def until(ask: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until `ask` says yes; raises TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while True:
            if await ask():
                return
            await asyncio.sleep(0.1)
