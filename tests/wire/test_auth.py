"""Every call and every route of every service, with tokens that are not for them, and with those that are."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import probing
from services.gateway.quotas import QuotaConfig
from services.gateway.web_auth import PROTOCOL, TOKEN
from tests.wire.gateways import ROUTING
from tests.wire.generator import CONFIG
from tests.wire.securing import SECRET, whole
from worldkv import rpc
from worldkv.auth import Bearer
from worldkv.chunk import ChunkKey, new_branch
from worldkv.client import ClientConfig, KVClient, WalkClient, fixed
from worldkv.errors import Forbidden, InvalidInput, NotFound, OverBudget, Unauthenticated, Unavailable
from worldkv.format import Frame
from worldkv.store import PartKey
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.generator_pb2 import SuspendRequest
from worldkv.v1.generator_pb2_grpc import GeneratorStub
from worldkv.v1.sessions_pb2_grpc import SessionsStub
from worldkv.wire_sessions import watch_id

OPEN_TO_ALL = {"/healthz", "/readyz", "/{name}"}
"""Routes without a secret: whether the gateway lives, and the page that asks for a token."""


async def test_nothing_answers_without_the_right_token(tmp_path):
    async with whole(tmp_path) as made:
        assert await probing.open_calls(made.where, made.secret) == []
        assert await probing.open_routes(made.where, made.secret) == []


async def test_everything_answers_with_the_right_token(tmp_path):
    """Or the test above would be passed by a service that refuses everybody."""
    async with whole(tmp_path) as made:
        for name, address in made.where.servers.items():
            async with rpc.channel(address) as channel:
                for method in [each for each in probing.calls() if each.startswith(f"/{name}/")]:
                    said = dict(Bearer(secret=made.secret).metadata(probing.TENANT))
                    code = await probing.status(channel, method, said)
                    assert code not in (*probing.REFUSED, StatusCode.UNIMPLEMENTED), method
        header = {"Authorization": f"Bearer {made.token(role='operator')}"}
        async with aiohttp.ClientSession(headers=header) as session:
            for method, path in probing.routes():
                async with session.request(method, f"http://{made.where.web}{path}") as answer:
                    assert answer.status not in probing.REFUSED_HTTP, path


def test_every_call_is_tried():
    names = {each.split("/")[1] for each in probing.calls()}
    assert {f"worldkv.v1.{name}" for name in ("Fleet", "Generator", "KVStore", "Retriever", "Sessions")} <= names
    assert "/worldkv.v1.Sessions/Export" in set(probing.calls())


async def test_routes_that_need_no_token_are_few():
    assert {path for _, path in probing.routes() if not path.startswith("/v1/")} == OPEN_TO_ALL


async def test_health_needs_no_token(tmp_path):
    async with whole(tmp_path) as made:
        for address in set(made.where.servers.values()):
            async with rpc.channel(address) as channel:
                told = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_tenant_sees_nothing_of_another(tmp_path):
    async with whole(tmp_path) as made:
        address = made.gateway.address
        async with WalkClient(address, token=made.token()) as client, client.open() as walk:
            async with WalkClient(address, token=made.token("other")) as other:
                assert await other.sessions() == []
                with pytest.raises(NotFound):
                    async with other.join(walk.session):
                        pass
            async with WalkClient(address, tenant="acme", token=made.token("other")) as other:
                with pytest.raises(Forbidden, match="other, not for acme"):
                    await other.sessions()
            assert [each.session for each in await client.sessions()] == [walk.session]


async def test_parts_speak_for_the_tenant_whom_they_serve(tmp_path):
    key, frame = PartKey(ChunkKey(new_branch(), 0), "part"), Frame.of(b"a chunk")
    async with whole(tmp_path) as made:
        shards = fixed(made.where.servers["worldkv.v1.KVStore"])
        bearer = Bearer(secret=made.secret)
        async with KVClient(shards, ClientConfig("acme", bearer=bearer)) as ours:
            await ours.put({key: frame})
            assert isinstance((await ours.get([key]))[key], Frame)
        async with KVClient(shards, ClientConfig("other", bearer=bearer)) as theirs:
            assert not isinstance((await theirs.get([key]))[key], Frame)
        (tmp_path / "others").write_text("x" * 32)
        async with KVClient(shards, ClientConfig("acme", bearer=Bearer(secret=tmp_path / "others"))) as stranger:
            with pytest.raises(Unavailable, match="does not take our own token"):
                await stranger.worlds.read("hall")
        for token, kind in (("", Unauthenticated), (made.token(), Forbidden)):
            async with KVClient(shards, ClientConfig("acme", bearer=Bearer(token))) as nobody:
                with pytest.raises(kind):
                    await nobody.put({key: frame})


async def test_a_link_to_watch_does_only_that(tmp_path):
    async with whole(tmp_path) as made:
        address = made.gateway.address
        async with WalkClient(address, token=made.token()) as client, client.open() as walk:
            async with rpc.channel(address) as channel:
                stub, watch = SessionsStub(channel), watch_id(walk.session)
                shown = Bearer(made.token(role="watch", session=watch)).metadata()
                call: Any = stub.Walk(metadata=shown)
                await call.write(pb.WalkRequest(join=pb.Join(session=watch, watch=True)))
                with rpc.translated():
                    assert (await call.read()).HasField("joined")
                call.cancel()
                for join in (pb.Join(session=walk.session), pb.Join(session=walk.session, watch=True)):
                    with pytest.raises(Forbidden, match="watching one session"), rpc.translated():
                        async for _ in stub.Walk(iter([pb.WalkRequest(join=join)]), metadata=shown):
                            pass
                for ask in (stub.Open(pb.OpenRequest(), metadata=shown), stub.List(pb.ListRequest(), metadata=shown)):
                    with pytest.raises(Forbidden), rpc.translated():
                        await ask


@pytest.mark.slow
async def test_what_a_link_opened_ends_when_it_expires(tmp_path):
    async with whole(tmp_path) as made:
        address = made.gateway.address
        async with WalkClient(address, token=made.token()) as client, client.open() as walk:
            watch = watch_id(walk.session)
            token = made.token(role="watch", session=watch, seconds=2)
            async with rpc.channel(address) as channel, aiohttp.ClientSession() as session:
                offered = (PROTOCOL, TOKEN + token)
                async with session.ws_connect(f"http://{made.where.web}/v1/walk", protocols=offered) as socket:
                    await socket.send_str(json.dumps({"join": {"session": watch, "watch": True}}))
                    call = SessionsStub(channel).Walk(metadata=Bearer(token).metadata())
                    await call.write(pb.WalkRequest(join=pb.Join(session=watch, watch=True)))
                    with pytest.raises(Unauthenticated, match="expired"), rpc.translated():
                        await _to_the_end(call)
                    while (await socket.receive()).type != aiohttp.WSMsgType.CLOSE:
                        pass
                    assert socket.close_code == 4000 + StatusCode.UNAUTHENTICATED.value[0]


async def test_a_browser_shows_its_token_as_a_protocol(tmp_path, caplog):
    async with whole(tmp_path) as made, aiohttp.ClientSession() as session:
        address, token = f"http://{made.where.web}/v1/walk", made.token()
        async with session.ws_connect(address, protocols=(PROTOCOL, TOKEN + token)) as socket:
            assert socket.protocol == PROTOCOL
            await socket.send_str(json.dumps({"open": {}}))
            assert (await socket.receive()).type == aiohttp.WSMsgType.BINARY
        async with session.ws_connect(address, protocols=(TOKEN + token,)) as socket:
            await socket.send_str(json.dumps({"fork": {}}))
            assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE
        async with session.get(f"http://{made.where.web}/v1/sessions") as answer:
            assert answer.status == 401
            told = await answer.json()
            assert told["status"] == "UNAUTHENTICATED"
            assert "Bearer TOKEN" in told["words"]
        assert token not in caplog.text


async def test_tokens_and_secrets_stay_out_of_logs(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with whole(tmp_path) as made:
        tokens = [made.token(), made.token(role="operator"), made.token(seconds=1), made.token("other")]
        forged = [each.header.removeprefix("Bearer ") for each in probing.shown(made.secret)]
        for token in [each for each in (*tokens, *forged) if each.startswith("eyJ")]:
            async with WalkClient(made.gateway.address, token=token) as client:
                assert token not in repr(client.config)
                told = await asyncio.gather(client.sessions(), return_exceptions=True)
                assert token not in str(told)
        await probing.open_routes(made.where, made.secret)
        with pytest.raises(InvalidInput):
            async with WalkClient(made.gateway.address, token=tokens[0]) as client, client.open(tour="?"):
                pass
    assert caplog.text
    for hidden in (SECRET, *tokens, *(each for each in forged if each.startswith("eyJ"))):
        assert hidden not in caplog.text


async def test_a_tenant_has_its_quota_of_sessions(tmp_path):
    async with whole(tmp_path, quota=QuotaConfig(sessions=2)) as made:
        async with WalkClient(made.gateway.address, token=made.token()) as client:
            opened = [asyncio.create_task(_opened(client)) for _ in range(6)]
            outcomes = await asyncio.gather(*opened, return_exceptions=True)
            refused = [each for each in outcomes if isinstance(each, BaseException)]
            assert [type(each) for each in refused] == [OverBudget] * 4
            assert all("2 sessions, and may have 2" in str(each) for each in refused)
            async with WalkClient(made.gateway.address, token=made.token("other")) as other, other.open():
                pass
            sessions = await client.sessions()
            assert len(sessions) == 2
            async with client.join(sessions[0].session) as walk:
                await walk.close()
            async with client.open():
                pass
        counted = made.gateway.registry.get_sample_value("worldkv_gateway_over_quota_total", {"quota": "sessions"})
        assert counted == 4


async def test_suspended_sessions_count_too(tmp_path):
    async with whole(tmp_path, quota=QuotaConfig(sessions=2)) as made:
        async with WalkClient(made.gateway.address, token=made.token()) as client:
            sessions = [await _opened(client) for _ in range(2)]
            async with rpc.channel(made.where.servers["worldkv.v1.Generator"]) as channel:
                operator = [("authorization", f"Bearer {made.token(role='operator')}")]
                for each in sessions:
                    await GeneratorStub(channel).Suspend(SuspendRequest(session=each), metadata=operator)
            await asyncio.sleep(10 * ROUTING["ping_seconds"])  # the gateway has heard of it
            with pytest.raises(OverBudget, match="2 sessions, and may have 2"):
                await _opened(client)


@pytest.mark.slow
async def test_who_has_enough_sessions_wakes_no_other_that_was_forgotten(tmp_path):
    forgetful = replace(CONFIG.live, idle_seconds=0.1, forget_seconds=0.1)
    async with whole(tmp_path, quota=QuotaConfig(sessions=2), live=forgetful) as made:
        async with WalkClient(made.gateway.address, token=made.token()) as client:
            forgotten = await _opened(client)
            while await client.sessions():
                pass
            async with client.open(), client.open() as walk:
                with pytest.raises(OverBudget, match="2 sessions, and may have 2"):
                    async with client.join(forgotten):
                        pass
                await walk.close()
                async with client.join(forgotten) as woken:
                    assert woken.session == forgotten


async def _opened(client: WalkClient) -> str:
    async with client.open() as walk:
        await walk.leave()
        return walk.session


async def _to_the_end(call) -> None:
    while await call.read():
        pass
