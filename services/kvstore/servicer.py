"""The shard's side of `KVStore`: messages in, messages out; what they mean is done elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import xxhash
from grpc import aio

from services.kvstore.config import KVStoreConfig
from services.kvstore.gets import Gets, checked_keys
from services.kvstore.membership import Membership
from services.kvstore.metrics import Metrics
from services.kvstore.puts import Puts
from services.kvstore.records import Tenants
from services.kvstore.segments import Segments
from services.kvstore.tiered import Tiered
from worldkv import rpc, wire
from worldkv.catalog import Catalog, Snapshot, Snapshots, check_name
from worldkv.chunk import MAX_INDEX, ChunkKey, check_key
from worldkv.errors import ChecksumMismatch, InvalidInput
from worldkv.format import Frame
from worldkv.store import PartKey
from worldkv.v1 import kvstore_pb2 as pb
from worldkv.v1.kvstore_pb2_grpc import KVStoreServicer, add_KVStoreServicer_to_server

NAME = "worldkv.v1.KVStore"
SCAN_KEYS, SCAN_BYTES = 1000, 2 << 20
"""Keys and bytes of one message of a scan, at most."""
KEY_BYTES = 64
"""More than a key takes there, without its part's head."""
MAX_HEAD_BYTES = 64 << 10
"""Bytes of a head, at most."""
PAGE, MAX_PAGE = 100, 1000
"""World records of a page, if nobody asks for another number, and at most."""


@dataclass(frozen=True)
class Shard:
    """All that one shard serves."""

    config: KVStoreConfig
    tiers: Tiered
    metrics: Metrics
    segments: Segments
    membership: Membership
    records: Tenants


class Servicer(KVStoreServicer):
    """The unary calls, and Scan; `_Raw` has the calls that carry bytes."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._tiers = shard, shard.tiers
        self._arena = wire.arena_message(shard.tiers.ram.arena.info)
        self._name = shard.config.shard or shard.config.service.address

    async def Delete(self, request: pb.DeleteRequest, context: rpc.Context) -> pb.DeleteResponse:
        keys = checked_keys(request.keys)
        self._shard.membership.check(request.membership)
        return pb.DeleteResponse(dropped=await self._tiers.delete(rpc.tenant(context), keys))

    async def Scan(self, request: pb.ScanRequest, context: rpc.Context) -> AsyncIterator[pb.ScanResponse]:
        branch = check_key(ChunkKey(request.branch, 0)).branch
        tenant, kind = rpc.tenant(context), wire.kind_of(request.part)
        head_bytes = min(request.head_bytes, MAX_HEAD_BYTES)
        most = min(SCAN_KEYS, SCAN_BYTES // (KEY_BYTES + head_bytes))
        found: list[PartKey] = []
        async for key in self._tiers.scan(tenant, branch, request.begin, request.end or None, kind):
            found.append(key)
            if len(found) == most:
                yield await self._listed(tenant, found, head_bytes)
                found.clear()
        if found:
            yield await self._listed(tenant, found, head_bytes)

    async def ReadWorld(self, request: pb.ReadWorldRequest, context: rpc.Context) -> pb.ReadWorldResponse:
        world, level = await self._worlds(context).read(check_name(request.name))
        return pb.ReadWorldResponse(world=wire.world_message(world), level=wire.level_message(level))

    async def SwapWorld(self, request: pb.SwapWorldRequest, context: rpc.Context) -> pb.SwapWorldResponse:
        record = wire.world_of(request.world)
        self._shard.membership.check(request.membership)
        world, level = await self._worlds(context).swap(record.name, _version(request.expected), record)
        return pb.SwapWorldResponse(world=wire.world_message(world), level=wire.level_message(level))

    async def ListWorlds(self, request: pb.ListWorldsRequest, context: rpc.Context) -> pb.ListWorldsResponse:
        size = min(request.page_size or PAGE, MAX_PAGE)
        answer, last, nbytes = pb.ListWorldsResponse(), "", 0
        async for world in self._worlds(context).list(request.prefix, request.page_token):
            message = wire.world_message(world)
            nbytes += message.ByteSize()
            if len(answer.worlds) == size or (answer.worlds and nbytes > rpc.MAX_MESSAGE_BYTES // 2):
                answer.next_page_token = last
                break
            answer.worlds.append(message)
            last = world.name
        return answer

    async def RemoveWorld(self, request: pb.RemoveWorldRequest, context: rpc.Context) -> pb.RemoveWorldResponse:
        self._shard.membership.check(request.membership)
        await self._worlds(context).remove(check_name(request.name), _version(request.expected))
        return pb.RemoveWorldResponse()

    async def DeleteSnapshots(
        self, request: pb.DeleteSnapshotsRequest, context: rpc.Context
    ) -> pb.DeleteSnapshotsResponse:
        session = check_name(request.session, "session")
        self._shard.membership.check(request.membership)
        return pb.DeleteSnapshotsResponse(dropped=await self._snapshots(context).delete(session))

    async def Stats(self, request: pb.KVStoreStatsRequest, context: rpc.Context) -> pb.KVStoreStatsResponse:
        stats = self._tiers.ram.stats()
        return pb.KVStoreStatsResponse(
            shard=self._name,
            membership=self._shard.membership.number,
            level=wire.level_message(self._tiers.level),
            used_bytes=stats.used_bytes,
            budget_bytes=stats.budget_bytes,
            parts=stats.parts,
            waiting=self._tiers.waiting,
            arena=self._arena,
        )

    async def _listed(self, tenant: str, keys: Sequence[PartKey], head_bytes: int) -> pb.ScanResponse:
        heads = await self._tiers.first_bytes(tenant, keys, head_bytes) if head_bytes else ()
        return pb.ScanResponse(keys=map(wire.key_message, keys), heads=heads)

    def _worlds(self, context: rpc.Context) -> Catalog:
        return self._shard.records(rpc.tenant(context)).worlds

    def _snapshots(self, context: rpc.Context) -> Snapshots:
        return self._shard.records(rpc.tenant(context)).snapshots


class _Raw:
    """The calls that carry bytes: their messages are read and written here, not by the protobuf runtime."""

    def __init__(self, shard: Shard) -> None:
        self._shard, serving = shard, shard.config.serving
        self._gets = Gets(shard.tiers, shard.metrics, serving)
        self._puts = Puts(shard.tiers, shard.metrics, serving, shard.membership, shard.segments)

    async def put(self, requests: AsyncIterator[bytes], context: rpc.Context) -> AsyncIterator[bytes]:
        _seconds(context)
        answers = self._puts.serve(rpc.tenant(context), requests, lambda: _seconds(context))
        try:
            async for answer in answers:
                yield answer.SerializeToString()
        finally:
            await answers.aclose()

    async def get(self, request: bytes, context: rpc.Context) -> AsyncIterator[bytes]:
        wanted = self._gets.wanted(wire.parse(pb.GetRequest, request))
        answers = self._gets.serve(rpc.tenant(context), wanted, _seconds(context))
        try:
            async for frame in answers:
                yield frame
        finally:
            await answers.aclose()

    async def save(self, requests: AsyncIterator[bytes], context: rpc.Context) -> bytes:
        head, state = None, bytearray()
        async for frame in requests:
            content = wire.save_request(frame)
            if isinstance(content, wire.Piece):
                if head is None:
                    raise InvalidInput("a snapshot begins with a head, not with a piece")
                at, left = len(state), head.size - len(state)
                if content.item or content.offset != at or content.data.nbytes > left:
                    raise InvalidInput(
                        f"after {at} of {head.size} bytes of session {head.session!r} came "
                        f"{content.data.nbytes} at {content.offset} of item {content.item}"
                    )
                state += content.data
            elif head is not None:
                raise InvalidInput(f"a second head, of session {content.head.session!r}")
            else:
                head = self._head(content)
        if head is None or len(state) != head.size:
            raise InvalidInput(f"a snapshot ended after {len(state)} of {head.size if head else 'unknown'} bytes")
        if xxhash.xxh3_64_intdigest(state) != head.checksum:
            raise ChecksumMismatch(f"the state of session {head.session!r} has not the checksum {head.checksum:016x}")
        snapshots = self._shard.records(rpc.tenant(context)).snapshots
        level = await snapshots.save(head.session, Snapshot(head.chunks, Frame.of(state)))
        return pb.SaveSnapshotResponse(level=wire.level_message(level)).SerializeToString()

    async def load(self, request: bytes, context: rpc.Context) -> AsyncIterator[bytes]:
        asked = wire.parse(pb.LoadSnapshotRequest, request)
        snapshots = self._shard.records(rpc.tenant(context)).snapshots
        snapshot = await snapshots.load(check_name(asked.session, "session"), asked.previous)
        digest = xxhash.xxh3_64()
        for buffer in snapshot.state.buffers:
            digest.update(buffer)
        head = pb.SnapshotHead(
            session=asked.session, chunks=snapshot.chunks, size=snapshot.state.nbytes, checksum=digest.intdigest()
        )
        yield pb.LoadSnapshotResponse(head=head).SerializeToString()
        for frame in wire.pieces(0, snapshot.state.buffers, wire.PIECE_BYTES):
            yield frame

    def _head(self, request: pb.SaveSnapshotRequest) -> pb.SnapshotHead:
        head, most = request.head, self._shard.config.serving.snapshot_bytes
        check_name(head.session, "session")
        if head.size > most:
            raise InvalidInput(f"the state of session {head.session!r} has {head.size} bytes, over the limit of {most}")
        if head.chunks > MAX_INDEX:
            raise InvalidInput(f"a snapshot is taken after at most {MAX_INDEX} chunks, got {head.chunks}")
        self._shard.membership.check(request.membership)
        return head


def add(shard: Shard, server: aio.Server) -> str:
    """Have a server serve this shard; answers the service's name."""
    raw = _Raw(shard)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Put": grpc.stream_stream_rpc_method_handler(raw.put),
        "Get": grpc.unary_stream_rpc_method_handler(raw.get),
        "SaveSnapshot": grpc.stream_unary_rpc_method_handler(raw.save),
        "LoadSnapshot": grpc.unary_stream_rpc_method_handler(raw.load),
    }
    add_KVStoreServicer_to_server(Servicer(shard), server)  # type: ignore[abstract]
    server.add_registered_method_handlers(NAME, handlers)  # in place of the generated ones
    return NAME


def _seconds(context: rpc.Context) -> float:
    """Until the call's deadline; InvalidInput if it has none."""
    left: float | None = context.time_remaining()
    if left is None:
        raise InvalidInput("every call needs a deadline, this one has none")
    return left


def _version(expected: int) -> int:
    if expected > MAX_INDEX:
        raise InvalidInput(f"a world's version is at most {MAX_INDEX}, expected {expected}")
    return expected
