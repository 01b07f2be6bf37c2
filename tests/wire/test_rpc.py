"""Errors, deadlines, tenants and transport security, over a real server."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc import aio

from tests.slow_proxy import slow_proxy
from tests.wire.echo import EchoSessions, echo, moves
from worldkv import errors, rpc
from worldkv.service import ServiceConfig, serve
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub, add_SessionsServicer_to_server

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.WorldKVError)]


@pytest.fixture
async def sessions():
    async with serve(ServiceConfig(), echo) as serving, rpc.channel(serving.address) as channel:
        yield SessionsStub(channel)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_row(kind):
    assert kind in rpc.STATUS


@pytest.mark.parametrize("kind", KINDS)
async def test_errors_arrive_as_what_they_left_as(sessions, kind):
    with pytest.raises(kind, match="42 is too much") as caught, rpc.translated():
        await sessions.Close(pb.CloseRequest(session=f"{kind.__name__} 42 is too much"))
    assert type(caught.value) is kind
    assert caught.value.__cause__.code() == rpc.STATUS[kind]


async def test_errors_of_streams_arrive_too(sessions):
    with pytest.raises(errors.NotFound, match="no session 'x'"), rpc.translated():
        async for _ in sessions.Walk(iter([pb.WalkRequest(join=pb.Join(session="x"))])):
            pass


async def test_streams_flow_both_ways(sessions):
    assert [answer.drawn.number async for answer in sessions.Walk(moves(3, 1, 2))] == [3, 1, 2]


async def test_bugs_are_internal_and_keep_their_words_to_themselves(sessions, caplog):
    with pytest.raises(errors.WorldKVError, match=r"^INTERNAL: internal error$"), rpc.translated():
        await sessions.Close(pb.CloseRequest(session="KeyError password"))
    assert "password" in caplog.text


async def test_long_words_are_cut_to_what_metadata_can_carry(sessions):
    with pytest.raises(errors.NotFound) as caught, rpc.translated():
        await sessions.Close(pb.CloseRequest(session="NotFound " + "x" * 100_000))
    assert len(str(caught.value)) == rpc.MAX_DETAILS


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidInput),
        (grpc.StatusCode.DATA_LOSS, errors.ChunkCorrupt),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.SpecMismatch),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.Forbidden),
        (grpc.StatusCode.UNKNOWN, errors.WorldKVError),
    ],
)
def test_statuses_without_a_name_become_the_first_error_of_their_code(code, kind):
    assert type(rpc.error_of(code, "words")) is kind


def test_a_name_that_contradicts_its_code_is_not_believed():
    assert type(rpc.error_of(grpc.StatusCode.NOT_FOUND, "", "InvalidPose")) is errors.NotFound


async def test_nobody_there_is_unavailable():
    async with rpc.channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.Unavailable), rpc.translated():
            await SessionsStub(channel).List(pb.ListRequest())


async def test_messages_over_the_limit_are_refused(sessions):
    with pytest.raises(errors.OverBudget), rpc.translated():
        await sessions.Close(pb.CloseRequest(session="x" * (rpc.MAX_MESSAGE_BYTES + 1)))


async def test_calls_have_a_deadline_unless_they_last():
    async with (
        serve(ServiceConfig(), echo) as serving,
        rpc.channel(serving.address, deadline_seconds=0.2) as channel,
    ):
        with pytest.raises(errors.DeadlineExceeded), rpc.translated():
            await SessionsStub(channel).List(pb.ListRequest(page_size=5000))
        with pytest.raises(errors.DeadlineExceeded), rpc.translated():
            await SessionsStub(channel).List(pb.ListRequest(page_size=5000), timeout=60)
        walk = SessionsStub(channel).Walk()
        await asyncio.sleep(0.4)
        await walk.write(pb.WalkRequest(move=pb.Move(number=7)))
        answer = await walk.read()
        assert isinstance(answer, pb.WalkResponse)
        assert answer.drawn.number == 7
        await walk.done_writing()


async def requests(asked: asyncio.Queue[pb.WalkRequest]) -> AsyncIterator[pb.WalkRequest]:
    while True:
        yield await asked.get()


@pytest.mark.slow
async def test_a_call_that_lasts_outlives_silence_and_not_the_other_side(monkeypatch, tmp_path):
    server, socket = rpc.server(), tmp_path / "server.sock"
    monkeypatch.setattr(rpc, "PING_SECONDS", 0.2)  # the client asks more often than the server would
    add_SessionsServicer_to_server(EchoSessions(), server)  # type: ignore[abstract]
    rpc.listen(server, f"unix://{socket}")
    await server.start()
    try:
        asked = asyncio.Queue[pb.WalkRequest]()
        async with slow_proxy(socket) as proxy, rpc.channel(proxy.url) as channel, asyncio.timeout(30):
            walk = SessionsStub(channel).Walk(requests(asked))
            for number, silence in ((1, 5.0), (2, 0.0)):
                asked.put_nowait(pb.WalkRequest(move=pb.Move(number=number)))
                answer = await walk.read()
                assert isinstance(answer, pb.WalkResponse)
                assert answer.drawn.number == number
                await asyncio.sleep(silence)
            proxy.latency = 3600.0  # as if its machine had lost its power: nothing comes, and nothing is closed
            with pytest.raises(errors.Unavailable), rpc.translated():
                await walk.read()
    finally:
        await server.stop(None)


async def test_tenants_come_from_metadata(sessions):
    assert (await sessions.Open(pb.OpenRequest())).session == rpc.DEFAULT_TENANT
    assert (await sessions.Open(pb.OpenRequest(), metadata=[(rpc.TENANT_KEY, "acme")])).session == "acme"
    with pytest.raises(errors.InvalidInput, match="1 to 63"), rpc.translated():
        await sessions.Open(pb.OpenRequest(), metadata=[(rpc.TENANT_KEY, "../acme")])


async def test_a_taken_port_is_unavailable():
    async with serve(ServiceConfig(), echo) as serving:
        with pytest.raises(errors.Unavailable, match="cannot listen on"):
            async with serve(ServiceConfig(address=serving.address), echo):
                pass


async def test_both_sides_can_prove_who_they_are(tls):
    async with serve(ServiceConfig(address="localhost:0", tls=tls), echo) as serving:
        async with rpc.channel(serving.address, tls) as channel:
            assert (await SessionsStub(channel).List(pb.ListRequest())).next_page_token == "done"
        async with rpc.channel(serving.address, rpc.TLS(authority=tls.authority)) as channel:
            with pytest.raises(errors.Unavailable), rpc.translated():
                await SessionsStub(channel).List(pb.ListRequest())


def test_half_a_certificate_is_refused(tls, tmp_path):
    with pytest.raises(errors.InvalidConfig, match="go together"):
        rpc.TLS(certificate=tls.certificate)
    with pytest.raises(errors.InvalidConfig, match="cannot be read"):
        rpc.TLS(authority=tmp_path / "none").client()
    with pytest.raises(errors.InvalidConfig, match="needs tls"):
        rpc.TLS(authority=tls.authority).server()


async def test_a_cancelled_call_stays_cancelled(sessions):
    call = sessions.List(pb.ListRequest(page_size=5000))
    asyncio.get_running_loop().call_later(0.05, call.cancel)
    with pytest.raises(asyncio.CancelledError), rpc.translated():
        await call
    assert isinstance(call, aio.Call)
