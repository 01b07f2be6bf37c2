"""Whether a service serves, from the command line: `worldkv health`, which containers ask of themselves."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from worldkv.admin_options import Authority, Certificate, Deadline, Key
from worldkv.errors import DeadlineExceeded, Unavailable


def health(
    address: Annotated[str, typer.Argument(help="host:port of any service's gRPC.")],
    name: Annotated[str, typer.Option(help="Of one service there: worldkv.v1.KVStore; without it: of all.")] = "",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    deadline: Deadline = 3.0,
) -> None:
    """Ask a service whether it serves: 0 if it does, 1 if it does not, drains or does not answer."""
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    from worldkv import rpc

    async def ask() -> int:
        with rpc.translated():
            async with rpc.channel(address, rpc.TLS(certificate, key, authority), deadline_seconds=deadline) as channel:
                answer = await HealthStub(channel).Check(HealthCheckRequest(service=name))
        return int(answer.status)

    try:
        status = asyncio.run(ask())
    except DeadlineExceeded as error:
        raise Unavailable(f"{address} does not answer within {deadline:g} s") from error
    if status != HealthCheckResponse.SERVING:
        raise Unavailable(f"{address} says {HealthCheckResponse.ServingStatus.Name(status)}")
    print("SERVING")
