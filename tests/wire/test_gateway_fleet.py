"""The view of the whole service: what the supervisor and the parts' own pages say, asked for seldom."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from prometheus_client import Counter

from services.gateway.fleet_view import FleetView
from services.gateway.routing import Router
from tests.wire.test_gateway_pages import asking
from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.errors import Unavailable
from worldkv.service import Host, ServiceConfig, serve
from worldkv.v1 import fleet_pb2 as pb
from worldkv.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server


class Nobody:
    """A router without generators."""

    def __init__(self) -> None:
        self.generators = self

    def answering(self) -> list[Any]:
        return []


class Supervisor(FleetServicer):
    """Knows one part, whose figures are its own; counts how often it is asked."""

    def __init__(self) -> None:
        self.metrics, self.asked = "", 0

    async def FleetStatus(self, request: pb.FleetStatusRequest, context: rpc.Context) -> pb.FleetStatusResponse:
        self.asked += 1
        part = pb.FleetPart(
            name="kvstore-1",
            kind=pb.PART_KIND_KVSTORE,
            state=pb.PART_STATE_READY,
            address="10.0.0.1:1",
            metrics=self.metrics,
            restarts=2,
            figures={"memory": "1 MB"},
        )
        return pb.FleetStatusResponse(parts=[part, pb.FleetPart(name="gateway-1", kind=pb.PART_KIND_GATEWAY)])

    async def Scale(self, request: pb.ScaleRequest, context: rpc.Context) -> pb.ScaleResponse:
        raise Unavailable("not here")

    async def Stop(self, request: pb.StopRequest, context: rpc.Context) -> pb.StopResponse:
        raise Unavailable("not here")


@pytest.mark.slow
async def test_all_parts_and_their_figures(tmp_path):
    supervisor, file = Supervisor(), tmp_path / "supervisor"

    @asynccontextmanager
    async def servicers(host: Host) -> AsyncIterator[Sequence[str]]:
        Counter("worldkv_things", "Things", ("kind",), registry=host.registry).labels("odd").inc(3)
        add_FleetServicer_to_server(supervisor, host.server)
        yield [pb.DESCRIPTOR.services_by_name["Fleet"].full_name]

    async with asking(tmp_path, supervisor=str(file)) as page:
        found = await page.get("/v1/fleet")
        assert (len(found["generators"]), found["parts"]) == (1, [])
        assert "does not say where" in found["trouble"]
        async with serve(ServiceConfig(metrics="127.0.0.1:0"), servicers) as serving:
            supervisor.metrics = serving.metrics
            file.write_text(f"{serving.address}\n")
            while found["parts"] == []:  # what was found is told again for a while
                found = await page.get("/v1/fleet")
            shard, gateway = found["parts"]
            assert (shard["kind"], shard["name"], shard["state"]) == ("kvstore", "kvstore-1", "ready")
            assert (shard["address"], shard["restarts"], shard["figures"]) == ("10.0.0.1:1", 2, {"memory": "1 MB"})
            assert shard["metrics"]['worldkv_things_total{kind="odd"}'] == 3
            assert not any("_bucket" in name or name.startswith("python_") for name in shard["metrics"])
            assert (gateway["state"], gateway["metrics"]) == ("unspecified", {})
            view = FleetView(serving.address, cast(Router, Nobody()), rpc.TLS(), Bearer())
            asked = supervisor.asked
            answers = await asyncio.gather(*(view.told() for _ in range(5)))
            assert supervisor.asked == asked + 1
            assert [len(each["parts"]) for each in answers] == [2] * 5
            await view.close()
