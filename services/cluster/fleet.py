"""The supervisor's edge: `Fleet` over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.cluster.roster import Kind, State, Where
from services.cluster.supervisor import Part, Supervisor
from worldkv import rpc
from worldkv.errors import InvalidInput
from worldkv.service import Host, Servicers
from worldkv.v1 import fleet_pb2 as pb
from worldkv.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server

KIND: Mapping[Kind, pb.PartKind.ValueType] = {
    "kvstore": pb.PART_KIND_KVSTORE,
    "retriever": pb.PART_KIND_RETRIEVER,
    "generator": pb.PART_KIND_GENERATOR,
    "gateway": pb.PART_KIND_GATEWAY,
}
STATE: Mapping[State, pb.PartState.ValueType] = {
    "starting": pb.PART_STATE_STARTING,
    "ready": pb.PART_STATE_READY,
    "silent": pb.PART_STATE_SILENT,
    "leaving": pb.PART_STATE_LEAVING,
    "elsewhere": pb.PART_STATE_ELSEWHERE,
}
_KINDS = {number: kind for kind, number in KIND.items()}
TROUBLE = "trouble"
"""The figure that says why a part does not serve."""


def servicers(supervisor: Supervisor, ray: str, redis: str) -> Servicers:
    """What `worldkv.service` serves for this supervisor; `ray` and `redis`: where these are."""
    return partial(_fleet, supervisor, ray, redis)


@asynccontextmanager
async def _fleet(supervisor: Supervisor, ray: str, redis: str, host: Host) -> AsyncIterator[Sequence[str]]:
    add_FleetServicer_to_server(Servicer(supervisor, ray, redis), host.server)
    yield [pb.DESCRIPTOR.services_by_name["Fleet"].full_name]


class Servicer(FleetServicer):
    """Says how a supervisor's parts are, and has it change them."""

    def __init__(self, supervisor: Supervisor, ray: str, redis: str) -> None:
        self._supervisor, self._ray, self._redis = supervisor, ray, redis

    async def FleetStatus(self, request: pb.FleetStatusRequest, context: rpc.Context) -> pb.FleetStatusResponse:
        return self._status()

    async def Scale(self, request: pb.ScaleRequest, context: rpc.Context) -> pb.ScaleResponse:
        wanted: dict[Kind, int] = {}
        for each in request.wanted:
            if each.kind not in _KINDS:
                raise InvalidInput(f"a kind of part is one of {', '.join(KIND)}, got number {each.kind}")
            if _KINDS[each.kind] in wanted:
                raise InvalidInput(f"{_KINDS[each.kind]} stands twice")
            wanted[_KINDS[each.kind]] = each.count
        await self._supervisor.scale(wanted)
        return pb.ScaleResponse(status=self._status())

    async def Stop(self, request: pb.StopRequest, context: rpc.Context) -> pb.StopResponse:
        await self._supervisor.stop()
        return pb.StopResponse()

    def _status(self) -> pb.FleetStatusResponse:
        return pb.FleetStatusResponse(
            ray=self._ray,
            parts=map(_message, self._supervisor.parts()),
            redis=self._redis,
            membership=self._supervisor.roster.number,
        )


def _message(part: Part) -> pb.FleetPart:
    where = part.where if part.where and part.state != "starting" else Where("")
    return pb.FleetPart(
        name=part.name,
        kind=KIND[part.kind],
        state=STATE[part.state],
        address=where.address,
        metrics=where.metrics,
        web=where.web,
        restarts=part.restarts,
        figures={**part.figures, TROUBLE: part.trouble} if part.trouble else part.figures,
    )
