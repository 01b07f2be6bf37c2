"""A small real service, for tests of what all services share: `Sessions` with a little behaviour and no memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from worldkv import errors, rpc
from worldkv.service import Host
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server

NAME = "worldkv.v1.Sessions"


class EchoSessions(SessionsServicer):
    """Close raises the error that the session's id names, List waits page_size milliseconds, Walk echoes numbers."""

    async def Open(self, request: pb.OpenRequest, context: rpc.Context) -> pb.OpenResponse:
        return pb.OpenResponse(session=rpc.tenant(context))

    async def Close(self, request: pb.CloseRequest, context: rpc.Context) -> pb.CloseResponse:
        name, _, words = request.session.partition(" ")
        raise {**vars(errors), "KeyError": KeyError}[name](words)

    async def List(self, request: pb.ListRequest, context: rpc.Context) -> pb.ListResponse:
        await asyncio.sleep(request.page_size / 1000)
        return pb.ListResponse(next_page_token="done")

    async def Walk(
        self, request_iterator: AsyncIterator[pb.WalkRequest], context: rpc.Context
    ) -> AsyncIterator[pb.WalkResponse]:
        async for request in request_iterator:
            if request.HasField("join"):
                raise errors.NotFound(f"no session {request.join.session!r}")
            yield pb.WalkResponse(drawn=pb.Drawn(number=request.move.number))


@asynccontextmanager
async def echo(host: Host) -> AsyncIterator[Sequence[str]]:
    add_SessionsServicer_to_server(EchoSessions(), host.server)  # type: ignore[abstract]
    yield [NAME]


async def moves(*numbers: int) -> AsyncIterator[Any]:
    for number in numbers:
        yield pb.WalkRequest(move=pb.Move(number=number))
