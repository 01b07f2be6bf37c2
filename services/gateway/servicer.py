"""The gRPC face of a gateway: the same `Sessions` that generators serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from services.gateway.reading import export, look, worlds
from services.gateway.routing import Router
from services.gateway.walking import walk
from worldkv import rpc
from worldkv.auth import Claims
from worldkv.client.policy import Deadline
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server

NAME = pb.DESCRIPTOR.services_by_name["Sessions"].full_name


class GatewaySessions(SessionsServicer):
    """Sessions, wherever they live."""

    def __init__(self, router: Router) -> None:
        self.router = router

    async def Open(self, request: pb.OpenRequest, context: rpc.Context) -> pb.OpenResponse:
        claims = rpc.claims(context)
        claims.check_open(request.world, request.at if request.HasField("at") else None, request.fork)
        return await self.router.open(claims.tenant, request, self._deadline(context))

    async def Walk(
        self, request_iterator: AsyncIterator[pb.WalkRequest], context: rpc.Context
    ) -> AsyncIterator[pb.WalkResponse]:
        claims = rpc.claims(context)
        async with aclosing(walk(self.router, claims.tenant, _joining(claims, request_iterator))) as answers:
            async for answer in answers:
                yield answer

    async def Fork(self, request: pb.ForkRequest, context: rpc.Context) -> pb.ForkResponse:
        return await self.router.fork(rpc.tenant(context), request, self._deadline(context))

    async def Rewind(self, request: pb.RewindRequest, context: rpc.Context) -> pb.RewindResponse:
        return await self.router.rewind(rpc.tenant(context), request, self._deadline(context))

    async def Close(self, request: pb.CloseRequest, context: rpc.Context) -> pb.CloseResponse:
        return await self.router.close(rpc.claims(context).tenant, request, self._deadline(context))

    async def List(self, request: pb.ListRequest, context: rpc.Context) -> pb.ListResponse:
        return await self.router.page(rpc.tenant(context), request, self._deadline(context))

    async def Worlds(self, request: pb.WorldsRequest, context: rpc.Context) -> pb.WorldsResponse:
        return await worlds(self.router, rpc.tenant(context), request, self._deadline(context))

    async def Look(self, request: pb.LookRequest, context: rpc.Context) -> AsyncIterator[pb.LookResponse]:
        claims = rpc.claims(context)
        claims.check_join(request.session, watch=True)
        async with aclosing(look(self.router, claims.tenant, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Export(self, request: pb.ExportRequest, context: rpc.Context) -> AsyncIterator[pb.ExportResponse]:
        async with aclosing(export(self.router, rpc.tenant(context), request)) as pieces:
            async for piece in pieces:
                yield piece

    def _deadline(self, context: rpc.Context) -> Deadline:
        """Of the call, as its client gave it."""
        left = context.time_remaining()
        return Deadline(self.router.config.deadline_seconds if left is None else left)


async def _joining(claims: Claims, requests: AsyncIterator[pb.WalkRequest]) -> AsyncIterator[pb.WalkRequest]:
    """What a client says, as long as it joins what it may. Raises Forbidden."""
    async for request in requests:
        if request.HasField("join"):
            claims.check_join(request.join.session, request.join.watch)
        yield request


def add(router: Router, server: grpc.aio.Server) -> str:
    """Serve a gateway's sessions; answers the service's full name."""
    add_SessionsServicer_to_server(GatewaySessions(router), server)
    return NAME
