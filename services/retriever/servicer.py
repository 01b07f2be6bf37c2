"""The replica's side of `Retriever`: messages in, messages out; what they mean is done elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from services.retriever.config import RetrieverConfig
from services.retriever.holding import Holding
from services.retriever.lookups import Lookups
from services.retriever.metrics import Metrics
from services.retriever.reading import Reading
from services.retriever.source import Sources
from worldkv import rpc, wire
from worldkv import wire_retriever as messages
from worldkv.errors import InvalidInput, WorldKVError
from worldkv.select import Selector, make_selector
from worldkv.v1 import retriever_pb2 as pb
from worldkv.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from worldkv.wire_retriever import Found, Lookup

NAME = "worldkv.v1.Retriever"


@dataclass(frozen=True)
class Replica:
    """All that one replica serves."""

    config: RetrieverConfig
    holding: Holding
    reading: Reading
    lookups: Lookups
    metrics: Metrics
    sources: Sources | None


class Servicer(RetrieverServicer):
    """The calls of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica, self._holding, self._lookups = replica, replica.holding, replica.lookups
        self._metrics, self._serving = replica.metrics, replica.config.serving
        self._name = replica.config.replica or replica.config.service.address

    async def Add(self, request: pb.AddRequest, context: rpc.Context) -> pb.AddResponse:
        tenant, batches = rpc.tenant(context), messages.batches_of(request)
        before = self._holding.added
        try:
            for batch in batches:
                self._holding.add(tenant, batch)
        finally:
            self._metrics.added(self._holding.added - before)
        return pb.AddResponse(added=self._holding.added - before)

    async def Remove(self, request: pb.RemoveRequest, context: rpc.Context) -> pb.RemoveResponse:
        tenant, (wanted, branches) = rpc.tenant(context), messages.removal_of(request)
        # What is asked about is what was held before the store is asked: what comes meanwhile is there.
        listed = {key for branch in {key.branch for key in wanted} for key in self._holding.listed(tenant, branch)}
        keys = listed.intersection(wanted)
        keys.update(key for branch in branches for key in self._holding.listed(tenant, branch))
        if self._replica.sources is not None and keys:
            keys = await self._replica.sources(tenant).gone(keys)
        removed = self._holding.remove(tenant, keys)
        self._metrics.removed(removed)
        return pb.RemoveResponse(removed=removed)

    async def Nearest(self, request: pb.NearestRequest, context: rpc.Context) -> pb.NearestResponse:
        tenant, lookups = rpc.tenant(context), messages.lookups_of(request)
        selectors = [make_selector(lookup.selector, lookup.seed) for lookup in lookups]
        seconds, inline = self._seconds(context), self._serving.inline_chunks // max(len(lookups), 1)

        async def answer(lookup: Lookup, selector: Selector) -> Found | WorldKVError:
            try:
                return await self._lookups.found(tenant, lookup, selector, seconds, inline)
            except WorldKVError as error:
                self._metrics.failed(rpc.name_of(error))
                return error

        if len(lookups) == 1:  # no task for it
            answers = [await answer(lookups[0], selectors[0])]
        else:
            answers = await asyncio.gather(*map(answer, lookups, selectors))
        if answers and all(isinstance(each, WorldKVError) for each in answers):
            raise next(each for each in answers if isinstance(each, WorldKVError))
        return pb.NearestResponse(answers=map(messages.answer_message, answers))

    async def LeastUseful(self, request: pb.LeastUsefulRequest, context: rpc.Context) -> pb.LeastUsefulResponse:
        lineage = wire.lineage_of(request.lineage)
        if not 0 < request.view_range < inf:
            raise InvalidInput(f"view_range is positive and finite, got {request.view_range}")
        keys = await self._lookups.least_useful(
            rpc.tenant(context),
            lineage,
            request.count,
            request.view_range,
            messages.numbers_of("protect", request.protect),
            messages.numbers_of("exclude", request.exclude),
            {messages.branch_of(branch) for branch in request.owned},
            messages.published_of(request.published),
            self._seconds(context),
        )
        return pb.LeastUsefulResponse(keys=map(wire.chunk_message, keys))

    async def Stats(self, request: pb.RetrieverStatsRequest, context: rpc.Context) -> pb.RetrieverStatsResponse:
        holding = self._holding
        return pb.RetrieverStatsResponse(
            branches=holding.branches,
            chunks=holding.chunks,
            rebuilt=self._replica.reading.read,
            replica=self._name,
            bytes=holding.nbytes,
        )

    def _seconds(self, context: rpc.Context) -> float:
        """That may be spent on an answer which arrives before the call's deadline."""
        left: float | None = context.time_remaining()
        left = rpc.DEADLINE_SECONDS if left is None else left
        return left - min(self._serving.late_seconds, left / 4)


def add(replica: Replica, server: aio.Server) -> str:
    """Have a server serve this replica; answers the service's name."""
    servicer = Servicer(replica)
    add_RetrieverServicer_to_server(servicer, server)
    handlers = {
        "Add": _parsed(servicer.Add, pb.AddRequest),
        "Remove": _parsed(servicer.Remove, pb.RemoveRequest),
        "Nearest": _parsed(servicer.Nearest, pb.NearestRequest),
        "LeastUseful": _parsed(servicer.LeastUseful, pb.LeastUsefulRequest),
        "Stats": _parsed(servicer.Stats, pb.RetrieverStatsRequest),
    }
    server.add_registered_method_handlers(NAME, handlers)  # in place of the generated ones
    return NAME


M = TypeVar("M", bound=Message)


def _parsed(
    method: Callable[[M, rpc.Context], Awaitable[Message]], kind: type[M]
) -> grpc.RpcMethodHandler[bytes, Message]:
    """A method for which bytes that are no such message are INVALID_ARGUMENT; gRPC itself would call them internal."""

    async def behaviour(request: bytes, context: rpc.Context) -> Message:
        return await method(wire.parse(kind, request), context)

    return grpc.unary_unary_rpc_method_handler(behaviour, None, lambda message: message.SerializeToString())
