"""Who is up to no good: half a handshake, no end of headers, a word a minute. They go, and nobody else waits."""

import asyncio
import socket
import ssl
import struct
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import pytest

from services.gateway import sharing, web
from tests.wire.echo import echo
from tests.wire.securing import whole
from worldkv import rpc
from worldkv.actions import Action
from worldkv.auth import Bearer
from worldkv.client import WalkClient
from worldkv.errors import OverBudget, Unavailable
from worldkv.service import ServiceConfig, host_port, serve
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub

PATIENCE = 20.0
MANY = 50


def hello() -> bytes:
    """What a client says first to agree on how to speak in secret."""
    out = ssl.MemoryBIO()
    talk = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        talk.do_handshake()
    return out.read()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What is said until the other side ends the connection."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("said", ["nothing", "half", "words", "plain"])
async def test_half_a_handshake_disturbs_nobody(tls, monkeypatch, said):
    monkeypatch.setattr(rpc, "HANDSHAKE_SECONDS", 0.5)
    whole_hello = hello()
    words = {"nothing": b"", "half": whole_hello[: len(whole_hello) // 2], "words": b"let me in\n" * 10}
    words["plain"] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 4)
    tls = replace(tls, authority=None)
    async with serve(ServiceConfig(tls=tls), echo) as serving:
        clients = [await asyncio.open_connection(*host_port(serving.address)) for _ in range(MANY)]
        for _, writer in clients:
            writer.write(words[said])
            await writer.drain()
        trusting = rpc.TLS(authority=tls.certificate, name="localhost")
        async with rpc.channel(serving.address, trusting, PATIENCE) as channel:
            assert (await SessionsStub(channel).List(pb.ListRequest())).next_page_token == "done"
        await asyncio.gather(*(closed(reader) for reader, _ in clients))
        for _, writer in clients:
            writer.close()


async def test_a_certificate_of_somebody_else_is_not_believed(tls):
    async with serve(ServiceConfig(tls=replace(tls, authority=None)), echo) as serving:
        for wrong in (rpc.TLS(authority=tls.certificate, name="elsewhere.example"), None):
            async with rpc.channel(serving.address, wrong, PATIENCE) as channel:
                with pytest.raises(Unavailable), rpc.translated():
                    await SessionsStub(channel).List(pb.ListRequest())


async def test_a_whole_service_speaks_in_secret_and_asks_for_tokens(tmp_path, tls):
    both = replace(tls, name="localhost")
    async with whole(tmp_path, tls=both) as made:
        async with WalkClient(made.gateway.address, tls=both, token=made.token()) as client, client.open() as walk:
            assert (await walk.move(Action(turn=20))).pictures is not None
        for wrong in (replace(both, certificate=None, key=None), None):
            async with WalkClient(made.gateway.address, tls=wrong, token=made.token()) as client:
                with pytest.raises(Unavailable):
                    await client.sessions()


async def test_no_end_of_headers_is_refused_in_words(tmp_path):
    async with whole(tmp_path) as made:
        shown = Bearer(made.token()).metadata()
        async with rpc.channel(made.gateway.address) as channel:
            stub = SessionsStub(channel)
            with pytest.raises(OverBudget, match="metadata size"), rpc.translated():
                await stub.List(pb.ListRequest(), metadata=(*shown, ("much", "x" * 100_000)))
            assert list((await stub.List(pb.ListRequest(), metadata=shown)).sessions) == []
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {made.token()}"}) as session:
            address = f"http://{made.where.web}/v1/sessions"
            async with session.get(address, headers={"Much": "x" * 100_000}) as answer:
                assert answer.status == 400
            many = {f"Much-{n}": "x" for n in range(1000)}
            async with session.get(address, headers=many) as answer:
                assert answer.status == 400
            async with session.get(address) as answer:
                assert answer.status == 200


@pytest.mark.slow
async def test_a_word_a_minute_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "QUIET_SECONDS", 0.3)
    monkeypatch.setattr(sharing, "BODY_SECONDS", 0.3)
    async with whole(tmp_path) as made, AsyncExitStack() as stack:
        host, port = host_port(made.where.web)
        share = (
            f"POST /v1/share HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made.token()}\r\nContent-Length: 9\r\n\r\n{{"
        )
        slow = []
        for said in (b"", b"GET /v1/sessions HT", b"GET / HTTP/1.1\r\nHost: x\r\nSlowly: ", share.encode()):
            for _ in range(MANY // 4):
                reader, writer = await asyncio.open_connection(host, port)
                stack.callback(writer.close)
                writer.write(said)
                slow.append(asyncio.create_task(closed(reader)))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{made.where.web}/healthz") as answer:
                assert answer.status == 200
        answers = await asyncio.gather(*slow)
        assert all(b"DEADLINE_EXCEEDED" in each for each in answers[-(MANY // 4) :])


async def test_who_connects_and_says_nothing_is_sent_away(monkeypatch):
    monkeypatch.setattr(rpc, "HANDSHAKE_SECONDS", 0.5)
    async with serve(ServiceConfig(), echo) as serving:
        quiet = [await asyncio.open_connection(*host_port(serving.address)) for _ in range(MANY)]
        async with rpc.channel(serving.address) as channel:
            assert (await SessionsStub(channel).List(pb.ListRequest())).next_page_token == "done"
        await asyncio.gather(*(closed(reader) for reader, _ in quiet))
        for _, writer in quiet:
            writer.close()


async def test_a_browser_may_be_half_through_its_handshake(tmp_path, tls):
    async with whole(tmp_path, web_tls=replace(tls, authority=None)) as made:
        with socket.create_connection(host_port(made.where.web)) as half:
            half.sendall(hello()[:50])
            trusting = ssl.create_default_context(cafile=tls.authority)
            trusting.check_hostname = False
            async with aiohttp.ClientSession() as session:
                async with session.get(f"https://{made.where.web}/healthz", ssl=trusting) as answer:
                    assert answer.status == 200
