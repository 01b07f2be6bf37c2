"""A real shard on a real port, spoken to message by message; its lower tier is Redis, a stand-in, or none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash
from prometheus_client import CollectorRegistry

from services.kvstore.config import KVStoreConfig, ServingConfig
from services.kvstore.lower import Lower, TierConfig
from services.kvstore.ram import RamConfig, RamTier
from services.kvstore.records import Records
from services.kvstore.server import assembled
from services.kvstore.servicer import Shard, add
from worldkv import rpc, wire
from worldkv.chunk import ChunkKey
from worldkv.service import Host, ServiceConfig, serve
from worldkv.store import Level, PartKey
from worldkv.v1 import chunk_pb2
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreStub

BRANCH = bytes(range(16))
PATH = "/worldkv.v1.KVStore/"
CONFIG = KVStoreConfig(
    shard="a",
    service=ServiceConfig(drain_seconds=0),
    ram=RamConfig(budget_bytes=8 << 20, prefix="worldkv-test"),
    tiers=TierConfig(retry_seconds=0.02, flush_seconds=1),
)


def part(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "part")


def kv(index: int = 0) -> PartKey:
    return PartKey(ChunkKey(BRANCH, index), "kv")


def body(size: int, seed: int = 0) -> bytes:
    return (bytes((seed + n * n) % 251 for n in range(min(size, 5000))) * (size // 5000 + 1))[:size]


def item(key: PartKey, data: bytes, piece_bytes: int = 1 << 20, /, **fields: Any) -> pb.PutRequest:
    """The head of an item whose bytes come as pieces; `fields` overrule what is right."""
    known: dict[str, Any] = {
        "key": wire.key_message(key),
        "size": len(data),
        "checksum": xxhash.xxh3_64_intdigest(data),
        "inline": pb.InlinePieces(piece_bytes=piece_bytes),
    }
    return pb.PutRequest(item=pb.PutItem(**{**known, **fields}))


def inline(number: int, key: PartKey, data: bytes, piece_bytes: int = 1 << 20, /, **fields: Any) -> list[bytes]:
    """All messages of one item."""
    head = item(key, data, piece_bytes, **fields).SerializeToString()
    return [head, *wire.pieces(number, [memoryview(data)], piece_bytes)]


@dataclass
class Caller:
    """Calls of one client, byte for byte; `shard` is what they reach, for looking behind its back."""

    channel: Any
    shard: Shard
    address: str
    registry: CollectorRegistry
    tenant: str = "default"
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = KVStoreStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((rpc.TENANT_KEY, self.tenant),)

    def putting(self, frames: Iterable[bytes] | AsyncIterator[bytes], timeout: float = 10) -> Any:
        call = self.channel.stream_stream(PATH + "Put", None, pb.PutResponse.FromString)
        return call(iter(frames) if isinstance(frames, Sequence) else frames, timeout=timeout, metadata=self.metadata)

    async def put(self, *items: list[bytes], seconds: float = 10) -> dict[int, Level | str]:
        """Level or reason of every item."""
        with rpc.translated():
            answers = [each async for each in self.putting([frame for each in items for frame in each], seconds)]
        numbers = [each.item for each in answers]
        assert sorted(numbers) == sorted(set(numbers)), "an item was answered twice"
        return {each.item: outcome(each) for each in answers}

    async def keep(self, key: PartKey, data: bytes, piece_bytes: int = 1 << 20, /, **fields: Any) -> Level | str:
        return (await self.put(inline(0, key, data, piece_bytes, **fields)))[0]

    def getting(self, request: pb.GetRequest, timeout: float | None = 10) -> Any:
        call = self.channel.unary_stream(PATH + "Get", pb.GetRequest.SerializeToString)
        return call(request, timeout=timeout, metadata=self.metadata)

    async def get(self, *keys: PartKey, seconds: float = 10, **fields: Any) -> list[bytes | str | pb.Plan]:
        """In order: bytes, the reason of a miss, or a plan of shared memory."""
        request = pb.GetRequest(keys=map(wire.key_message, keys), **fields)
        found: list[Any] = []
        with rpc.translated():
            async for frame in self.getting(request, seconds):
                answer = wire.get_response(frame)
                if isinstance(answer, wire.Piece):
                    assert (answer.item, answer.offset) == (len(found) - 1, len(found[-1]))
                    found[-1] += answer.data
                elif isinstance(answer, pb.Miss):
                    if answer.item < len(found):
                        found.pop()
                    assert answer.item == len(found)
                    found.append(chunk_pb2.MissReason.Name(answer.reason).removeprefix("MISS_REASON_"))
                else:
                    assert answer.item == len(found)
                    found.append(bytearray() if answer.HasField("inline") else answer)
        return [bytes(each) if isinstance(each, bytearray) else each for each in found]

    async def stats(self) -> pb.KVStoreStatsResponse:
        answer = await self.stub.Stats(pb.KVStoreStatsRequest())
        assert isinstance(answer, pb.KVStoreStatsResponse)
        return answer

    def at_rest(self) -> None:
        """Nothing is reserved or pinned, and all that is counted fits together."""
        self.shard.tiers.ram.check_integrity()
        stats = self.shard.tiers.ram.stats()
        assert (stats.reserved_bytes, stats.pinned_bytes) == (0, 0)
        assert stats.slots_used == stats.parts


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.01)


def outcome(answer: pb.PutResponse) -> Level | str:
    if answer.HasField("kept"):
        return Level(answer.kept)
    return pb.RefusalReason.Name(answer.refused).removeprefix("REFUSAL_REASON_")


@asynccontextmanager
async def calling(
    config: KVStoreConfig = CONFIG,
    lower: Lower | None = None,
    records: Callable[[str], Records] | None = None,
    **serving: Any,
) -> AsyncIterator[Caller]:
    """A shard of this configuration, and a caller of it. Looks at the end that nothing leaked."""
    config = replace(config, serving=ServingConfig(**serving)) if serving else config
    made: list[Shard] = []

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        ram = RamTier(config.ram)
        try:
            async with assembled(config, host, ram, lower, records) as shard:
                made.append(shard)
                yield [add(shard, host.server)]
        finally:
            ram.close()

    async with serve(config.service, servicers) as running:
        async with rpc.channel(running.address) as channel:
            caller = Caller(channel, made[0], running.address, running.registry)
            yield caller
            caller.at_rest()
