"""A small honest shard for tests of the client: a RAM tier and catalogs behind gRPC, with ways to misbehave."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from services.kvstore.ram import Held, RamConfig, RamTier
from worldkv import rpc, wire
from worldkv.catalog import RamCatalog, RamSnapshots, Snapshot
from worldkv.errors import Conflict, InvalidInput, Outdated, OverBudget
from worldkv.format import Frame
from worldkv.service import Host, ServiceConfig, serve
from worldkv.shared import StagingReader, checksum, copy
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import kvstore_pb2 as pb

ROOM = 8 << 20


@dataclass(eq=False)
class Toy:
    """A shard. `level`, `shares`, `sees`, `passes`, `damage`, `frozen`, `refuses` may be changed at any time.

    level    that immutable parts reach
    shares   whether it tells of its arena
    sees     whether it finds staging segments
    passes   keys whose bytes are not in its arena
    damage   keys of which it sends a byte wrong
    frozen   whether calls hang
    refuses  everything that is put, for this reason
    """

    level: Level = Level.ONE
    shares: bool = True
    sees: bool = True
    passes: set[PartKey] = field(default_factory=set)
    damage: set[PartKey] = field(default_factory=set)
    frozen: bool = False
    refuses: int = 0
    membership: int = 0
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tier = RamTier(RamConfig(budget_bytes=ROOM, prefix="worldkv-toy"))
        self.catalogs: dict[str, RamCatalog] = defaultdict(RamCatalog)
        self.states: dict[str, RamSnapshots] = defaultdict(lambda: RamSnapshots(ROOM))

    async def _begin(self, name: str, context: rpc.Context) -> str:
        self.calls.append(name)
        while self.frozen:  # noqa: ASYNC110 - tests set it as they like
            await asyncio.sleep(0.01)
        return rpc.tenant(context)

    def _check(self, membership: int) -> bool:
        old = 0 < membership < self.membership
        self.membership = max(self.membership, membership)
        return not old

    def _require(self, membership: int) -> None:
        if not self._check(membership):
            raise Outdated("routed by an older membership")

    async def put_raw(self, frames: AsyncIterator[bytes], context: rpc.Context) -> AsyncIterator[pb.PutResponse]:
        tenant, number, left = await self._begin("Put", context), -1, 0
        item, data = pb.PutItem(), bytearray()
        async for raw in frames:
            message = wire.put_request(raw)
            if isinstance(message, wire.Piece):
                assert (message.item, message.offset) == (number, len(data))
                data += message.data
                left -= len(message.data)
            elif isinstance(message, int):
                assert not left
                item.checksum, item.inline.checksum_follows = message, False
            else:
                assert not left
                item, data, number = message, bytearray(), number + 1
                left = item.size if item.HasField("inline") else 0
            if not left and not item.inline.checksum_follows:
                yield self._keep(tenant, item, bytes(data), number)

    def _keep(self, tenant: str, item: pb.PutItem, data: bytes, number: int) -> pb.PutResponse:
        def refused(reason: int) -> pb.PutResponse:
            return pb.PutResponse(item=number, refused=reason)

        key = wire.key_of(item.key)
        if self.refuses:
            return refused(self.refuses)
        if not self._check(item.membership):
            return refused(pb.REFUSAL_REASON_MEMBERSHIP)
        level = self.level if key.kind == "part" else Level.ONE
        if item.level > self.level:
            return refused(pb.REFUSAL_REASON_LEVEL_DOWN)
        try:
            if item.HasField("staged"):
                if not self.sees:
                    return refused(pb.REFUSAL_REASON_NOT_SHARED)
                reader = StagingReader(item.staged.name, item.staged.nonce)
                data = b"".join(reader.views(wire.extents_of(item.staged.extents)))
                reader.close()
            if checksum([memoryview(data)]) != item.checksum or len(data) != item.size:
                return refused(pb.REFUSAL_REASON_CORRUPT)
            place = self.tier.reserve(tenant, key, len(data))
            if not isinstance(place, Held):
                copy([memoryview(data)], place.views)
                place.commit(item.checksum)
        except Conflict:
            return refused(pb.REFUSAL_REASON_DELETED)
        except OverBudget:
            return refused(pb.REFUSAL_REASON_NO_ROOM)
        return pb.PutResponse(item=number, kept=wire.level_message(level))

    async def get_raw(self, request: pb.GetRequest, context: rpc.Context) -> AsyncIterator[bytes]:
        tenant = await self._begin("Get", context)
        shared = any(
            proof.arena == self.tier.arena.id and proof.nonce == self.tier.arena.nonce for proof in request.arenas
        )
        for number, key in enumerate(map(wire.key_of, request.keys)):
            held = self.tier.find(tenant, key)
            if request.verify and key in self.damage:
                held = Miss.CORRUPT
            if isinstance(held, Miss):
                miss = pb.Miss(item=number, reason=wire.miss_message(held))
                yield pb.GetResponse(miss=miss).SerializeToString()
                continue
            wrong = key in self.damage
            plan = pb.Plan(item=number, size=held.size, checksum=held.checksum ^ wrong, level=1)
            if shared and self.shares and key not in self.passes:
                plan.shared.arena = self.tier.arena.id
                plan.shared.extents.extend(wire.extent_messages(held.extents))
                yield pb.GetResponse(plan=plan).SerializeToString()
            else:
                plan.inline.piece_bytes = request.piece_bytes
                yield pb.GetResponse(plan=plan).SerializeToString()
                for piece in wire.pieces(number, held.views, request.piece_bytes):
                    yield piece

    async def Delete(self, request: pb.DeleteRequest, context: rpc.Context) -> pb.DeleteResponse:
        tenant = await self._begin("Delete", context)
        self._require(request.membership)
        return pb.DeleteResponse(dropped=self.tier.delete(tenant, [*map(wire.key_of, request.keys)]))

    async def Scan(self, request: pb.ScanRequest, context: rpc.Context) -> AsyncIterator[pb.ScanResponse]:
        tenant, kind = await self._begin("Scan", context), wire.kind_of(request.part)
        for key in self.tier.scan(tenant, request.branch, request.begin, request.end or None, kind):
            heads = [self._head(tenant, key, request.head_bytes)] if request.head_bytes else []
            yield pb.ScanResponse(keys=[wire.key_message(key)], heads=heads)

    def _head(self, tenant: str, key: PartKey, count: int) -> bytes:
        head = bytearray(self.tier.first_bytes(tenant, key, count))
        if key in self.damage:
            head[min(40, len(head) - 1)] ^= 1
        return bytes(head)

    async def ReadWorld(self, request: pb.ReadWorldRequest, context: rpc.Context) -> pb.ReadWorldResponse:
        stored = await self.catalogs[await self._begin("ReadWorld", context)].read(request.name)
        return pb.ReadWorldResponse(world=wire.world_message(stored.world), level=1)

    async def SwapWorld(self, request: pb.SwapWorldRequest, context: rpc.Context) -> pb.SwapWorldResponse:
        catalog = self.catalogs[await self._begin("SwapWorld", context)]
        self._require(request.membership)
        record = wire.world_of(request.world)
        stored = await catalog.swap(record.name, request.expected, record)
        return pb.SwapWorldResponse(world=wire.world_message(stored.world), level=1)

    async def ListWorlds(self, request: pb.ListWorldsRequest, context: rpc.Context) -> pb.ListWorldsResponse:
        catalog = self.catalogs[await self._begin("ListWorlds", context)]
        worlds = [world async for world in catalog.list(request.prefix, request.page_token)]
        page = worlds[: min(request.page_size or 100, 2)]
        token = page[-1].name if len(page) < len(worlds) else ""
        return pb.ListWorldsResponse(worlds=map(wire.world_message, page), next_page_token=token)

    async def RemoveWorld(self, request: pb.RemoveWorldRequest, context: rpc.Context) -> pb.RemoveWorldResponse:
        catalog = self.catalogs[await self._begin("RemoveWorld", context)]
        self._require(request.membership)
        await catalog.remove(request.name, request.expected)
        return pb.RemoveWorldResponse()

    async def save_raw(self, frames: AsyncIterator[bytes], context: rpc.Context) -> pb.SaveSnapshotResponse:
        tenant, head, data = await self._begin("SaveSnapshot", context), pb.SnapshotHead(), bytearray()
        async for raw in frames:
            message = wire.save_request(raw)
            if isinstance(message, wire.Piece):
                data += message.data
            else:
                head = message.head
                self._require(message.membership)
        if len(data) != head.size or checksum([memoryview(data)]) != head.checksum:
            raise InvalidInput("another state than the head says")
        await self.states[tenant].save(head.session, Snapshot(head.chunks, Frame.of(bytes(data))))
        return pb.SaveSnapshotResponse(level=1)

    async def load_raw(self, request: pb.LoadSnapshotRequest, context: rpc.Context) -> AsyncIterator[bytes]:
        tenant = await self._begin("LoadSnapshot", context)
        found = await self.states[tenant].load(request.session, request.previous)
        head = pb.SnapshotHead(
            session=request.session,
            chunks=found.chunks,
            size=found.state.nbytes,
            checksum=checksum(found.state.buffers),
        )
        yield pb.LoadSnapshotResponse(head=head).SerializeToString()
        for piece in wire.pieces(0, found.state.buffers, 1 << 20):
            yield piece

    async def DeleteSnapshots(
        self, request: pb.DeleteSnapshotsRequest, context: rpc.Context
    ) -> pb.DeleteSnapshotsResponse:
        tenant = await self._begin("DeleteSnapshots", context)
        self._require(request.membership)
        return pb.DeleteSnapshotsResponse(dropped=await self.states[tenant].delete(request.session))

    async def Stats(self, request: pb.KVStoreStatsRequest, context: rpc.Context) -> pb.KVStoreStatsResponse:
        await self._begin("Stats", context)
        stats = self.tier.stats()
        answer = pb.KVStoreStatsResponse(
            shard="toy",
            membership=self.membership,
            level=wire.level_message(self.level),
            used_bytes=stats.used_bytes,
            budget_bytes=stats.budget_bytes,
            parts=stats.parts,
        )
        if self.shares:
            answer.arena.CopyFrom(wire.arena_message(self.tier.arena.info))
        return answer


@asynccontextmanager
async def serving(toy: Toy, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve a toy; yields its address."""

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        raw = {
            "Put": grpc.stream_stream_rpc_method_handler(toy.put_raw, None, pb.PutResponse.SerializeToString),
            "Get": grpc.unary_stream_rpc_method_handler(toy.get_raw, pb.GetRequest.FromString, None),
            "SaveSnapshot": grpc.stream_unary_rpc_method_handler(
                toy.save_raw, None, pb.SaveSnapshotResponse.SerializeToString
            ),
            "LoadSnapshot": grpc.unary_stream_rpc_method_handler(toy.load_raw, pb.LoadSnapshotRequest.FromString, None),
        }
        plain = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(toy, name),
                getattr(pb, f"{prefix}{name}Request").FromString,
                getattr(pb, f"{prefix}{name}Response").SerializeToString,
            )
            for prefix, name in (
                ("", "Delete"),
                ("", "ReadWorld"),
                ("", "SwapWorld"),
                ("", "ListWorlds"),
                ("", "RemoveWorld"),
                ("", "DeleteSnapshots"),
                ("KVStore", "Stats"),
            )
        }
        scan = grpc.unary_stream_rpc_method_handler(
            toy.Scan, pb.ScanRequest.FromString, pb.ScanResponse.SerializeToString
        )
        handlers = {**raw, **plain, "Scan": scan}
        host.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("worldkv.v1.KVStore", handlers),))
        yield ["worldkv.v1.KVStore"]

    try:
        async with serve(ServiceConfig(address=address, drain_seconds=0), servicers) as running:
            yield running.address
    finally:
        toy.tier.close()
