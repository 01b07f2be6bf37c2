"""Health, reflection, metrics, logs and draining, with real servers and one real process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.wire.echo import NAME, echo
from worldkv import errors, rpc
from worldkv.service import Host, ServiceConfig, serve
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ROOT = Path(__file__).parents[2]


async def test_health_knows_the_server_and_each_service():
    async with serve(ServiceConfig(), echo) as serving, rpc.channel(serving.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(errors.NotFound), rpc.translated():
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))


async def test_reflection_describes_the_services():
    import grpc

    def ask(address: str) -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            known = ProtoReflectionDescriptorDatabase(channel)
            names = list(known.get_services())
            file = known.FindFileContainingSymbol(NAME)
            return names, [call.name for call in file.service[0].method]

    async with serve(ServiceConfig(), echo) as serving:
        names, calls = await asyncio.to_thread(ask, serving.address)
    assert {NAME, "grpc.health.v1.Health"} <= set(names)
    assert calls == ["Open", "Walk", "Fork", "Rewind", "Close", "List", "Worlds", "Look", "Export"]


async def test_metrics_count_and_time_calls():
    config = ServiceConfig(metrics="127.0.0.1:0")
    async with serve(config, echo) as serving, rpc.channel(serving.address) as channel:
        stub = SessionsStub(channel)
        await stub.List(pb.ListRequest())
        with pytest.raises(errors.Conflict), rpc.translated():
            await stub.Close(pb.CloseRequest(session="Conflict x"))
        call = stub.List(pb.ListRequest(page_size=5000))
        asyncio.get_running_loop().call_later(0.05, call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.1)
        page = await asyncio.to_thread(_read, f"http://{serving.metrics}/metrics")
    listed, closed = f'grpc_method="List",grpc_service="{NAME}"', f'grpc_method="Close",grpc_service="{NAME}"'
    assert f"grpc_server_started_total{{{listed}}} 2.0" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{listed}}} 1.0' in page
    assert f'grpc_server_handled_total{{grpc_code="CANCELLED",{listed}}} 1.0' in page
    assert f'grpc_server_handled_total{{grpc_code="ABORTED",{closed}}} 1.0' in page
    assert f"grpc_server_handling_seconds_count{{{listed}}} 2.0" in page
    assert "process_resident_memory_bytes" in page


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read(), "utf-8")


@pytest.mark.slow
async def test_draining_lets_running_calls_end_and_takes_no_new_ones():
    running = serve(ServiceConfig(notice_seconds=0.5, drain_seconds=10), echo)
    serving = await running.__aenter__()
    async with rpc.channel(serving.address) as channel:
        health, stub = health_pb2_grpc.HealthStub(channel), SessionsStub(channel)
        slow = asyncio.ensure_future(_done(stub, 2000))
        await asyncio.sleep(0.1)
        ending = asyncio.ensure_future(running.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert await _done(stub, 0) == "done", "calls still succeed while balancers take notice"
        with pytest.raises(errors.Unavailable), rpc.translated():
            await _until_refused(stub)
        assert await slow == "done"
        await ending


async def test_what_a_service_does_before_it_goes_is_done_while_calls_are_taken():
    said: list[str] = []

    @asynccontextmanager
    async def parting(host: Host) -> AsyncIterator[Sequence[str]]:
        async def farewell() -> None:
            async with rpc.channel(serving.address) as channel:
                said.append(await _done(SessionsStub(channel), 0))

        async with echo(host) as names:
            host.farewells.extend([farewell, farewell])
            yield names

    async with serve(ServiceConfig(), parting) as serving:
        pass
    assert said == ["done", "done"]


async def test_calls_that_outlast_the_drain_are_cut_off():
    async with serve(ServiceConfig(drain_seconds=0.1), echo) as serving:
        channel = rpc.channel(serving.address)
        slow = asyncio.ensure_future(_done(SessionsStub(channel), 5000))
        await asyncio.sleep(0.1)
    with pytest.raises(errors.Unavailable), rpc.translated():
        await slow
    await channel.close()


async def _done(stub: Any, milliseconds: int) -> str:
    return str((await stub.List(pb.ListRequest(page_size=milliseconds))).next_page_token)


async def _until_refused(stub: Any) -> None:
    while True:
        await _done(stub, 50)


PROCESS = """
import sys
from tests.wire.echo import echo
from worldkv.service import ServiceConfig, run
run("echo", ServiceConfig(log=sys.argv[1]), echo)
"""


@pytest.mark.parametrize("log", ["json", "text"])
def test_a_process_ends_cleanly_when_told(log):
    command = [sys.executable, "-W", "error", "-c", PROCESS, log]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        lines = [first, *process.stderr]
    assert process.returncode == 0
    assert len(lines) == 3
    if log == "json":
        records = [json.loads(line) for line in lines]
        assert all(record["service"] == "echo" and record["level"] == "info" for record in records)
        assert [record["event"] for record in records][1:] == ["echo drains", "echo has ended"]
    else:
        assert "event='echo has ended'" in lines[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"address": "here"}, "'here'"),
        ({"address": ""}, "''"),
        ({"metrics": "1.2.3.4:70000"}, "70000"),
        ({"drain_seconds": -1}, "drain_seconds = -1"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(errors.InvalidConfig, match=words):
        ServiceConfig(**change)
