"""The service as a whole, for whoever runs it: what its supervisor, its generators and its parts' figures say."""

from __future__ import annotations

import asyncio
import logging
import os
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
from google.protobuf import json_format
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.routing import Router
from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.errors import Unavailable, WorldKVError
from worldkv.v1 import fleet_pb2
from worldkv.v1.fleet_pb2_grpc import FleetStub
from worldkv.v1.generator_pb2 import GeneratorStatsResponse

FRESH_SECONDS = 1.0
"""For which what was found is told again."""
ANSWER_SECONDS = 2.0
"""That a supervisor or a part has to answer."""
SHOWN = 6
"""Characters of a session's id: enough to tell sessions apart, and not to walk in them."""
LEFT_OUT = ("python_", "grpc_server_handling_seconds")
PER_BUCKET = ("_bucket", "_created")
"""Figures that are not told: of the process' language, and those of which there are too many."""

_log = logging.getLogger(__name__)


class FleetView:
    """Asks everybody how they are, at most once in `FRESH_SECONDS` however many want to know.

    supervisor  where it is, or a file that says it; empty: there is none
    """

    def __init__(self, supervisor: str, router: Router, tls: rpc.TLS, bearer: Bearer) -> None:
        self.supervisor, self.router, self._tls, self._bearer = supervisor, router, tls, bearer
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._told: dict[str, Any] = {}
        self._until = 0.0

    async def close(self) -> None:
        """End all lines."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._http.close()

    async def told(self) -> dict[str, Any]:
        """All generators that answer, and all parts that the supervisor knows."""
        if monotonic() < self._until:
            return self._told
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> dict[str, Any]:
        stats = [each.stats for each in self.router.generators.answering()]
        found: dict[str, Any] = {"generators": [_generator(each) for each in stats if each is not None]}
        try:
            parts = await self._parts()
        except WorldKVError as error:
            _log.warning("the supervisor (%s) says nothing: %s", self.supervisor, error)
            found.update(parts=[], trouble=str(error)[: rpc.MAX_DETAILS])
        else:
            figures = await asyncio.gather(*(self._figures(each.metrics) for each in parts))
            found["parts"] = [_part(*both) for both in zip(parts, figures, strict=True)]
        self._told, self._until = found, monotonic() + FRESH_SECONDS
        return found

    async def _parts(self) -> list[fleet_pb2.FleetPart]:
        """All parts. Raises Unavailable if the supervisor does not answer."""
        if not self.supervisor:
            return []
        address = await asyncio.to_thread(_address, self.supervisor)
        async with rpc.channel(address, self._tls or None, ANSWER_SECONDS) as channel:
            with rpc.translated():
                request = fleet_pb2.FleetStatusRequest()
                status = await FleetStub(channel).FleetStatus(request, metadata=self._bearer.metadata())
        return list(status.parts)

    async def _figures(self, address: str) -> dict[str, float]:
        """What a part's page of figures says; nothing if it has none, or does not answer."""
        if not address:
            return {}
        try:
            async with self._http.get(f"http://{address}/metrics", raise_for_status=True) as answer:
                return await asyncio.to_thread(_read, await answer.text())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            _log.info("no figures from %s: %s", address, error)
            return {}


def _address(supervisor: str) -> str:
    """Where a supervisor is. Raises Unavailable if the file is not there that says it."""
    try:
        return Path(supervisor).read_text(encoding="utf-8").strip() if os.sep in supervisor else supervisor
    except OSError as error:
        raise Unavailable(f"{supervisor} does not say where the supervisor is: {error.strerror}") from error


def _generator(stats: GeneratorStatsResponse) -> dict[str, Any]:
    """What a generator says of itself; nobody learns from it how to walk in its sessions."""
    said = json_format.MessageToDict(stats)
    for session in said.get("sessions", ()):
        session["session"] = session.get("session", "")[:SHOWN]
        session.pop("watch", None)
    return said


def _part(part: fleet_pb2.FleetPart, figures: dict[str, float]) -> dict[str, Any]:
    return {
        "kind": fleet_pb2.PartKind.Name(part.kind).removeprefix("PART_KIND_").lower(),
        "name": part.name,
        "address": part.address,
        "state": fleet_pb2.PartState.Name(part.state).removeprefix("PART_STATE_").lower(),
        "restarts": part.restarts,
        "figures": dict(part.figures),
        "metrics": figures,
    }


def _read(text: str) -> dict[str, float]:
    """Figures of a page of Prometheus, by name and labels. Raises ValueError for what is none."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(LEFT_OUT) or sample.name.endswith(PER_BUCKET) or not isfinite(sample.value):
                continue
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
