"""The gateway's face for browsers before toy generators: the conversation, its errors, slow clients, and plain HTTP."""

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from prometheus_client import CollectorRegistry

from services.gateway.config import GatewayConfig, WebConfig
from services.gateway.server import assembled
from tests.wire.gateways import Fleet, Gateway, fleet, until
from worldkv import rpc
from worldkv.errors import InvalidConfig, Unavailable
from worldkv.service import Host


class Browser:
    """One WebSocket, and what came over it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, **said: Any) -> None:
        await self.socket.send_str(json.dumps(said))

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        """The next frame: what it says, and the bytes of its pictures."""
        message = await self.socket.receive(30)
        assert message.type is WSMsgType.BINARY, (message, self.socket.close_code)
        (length,) = struct.unpack_from(">I", message.data)
        return json.loads(message.data[4 : 4 + length]), message.data[4 + length :]

    async def next(self, kind: str) -> Any:
        """What the next frame of a kind says; others are passed over."""
        while kind not in (said := (await self.hear())[0]):
            pass
        return said[kind]

    async def reply(self, kind: str) -> dict[str, Any]:
        """The next answer to a call, which has to be this one."""
        while "reply" not in (said := (await self.hear())[0]):
            pass
        assert said["reply"] == kind
        return said

    async def end(self) -> tuple[int | None, str]:
        """Code and words that the socket is closed with."""
        while (message := await self.socket.receive(30)).type is WSMsgType.BINARY:
            pass
        assert message.type is WSMsgType.CLOSE, message
        return message.data, str(message.extra)


@asynccontextmanager
async def web(place: Path, *names: str, **settings: Any) -> AsyncIterator[tuple[Fleet, Gateway, Any]]:
    """Toys behind a gateway with a face for browsers; `talk()` opens a conversation."""
    toys = {key.removeprefix("toy_"): settings.pop(key) for key in [*settings] if key.startswith("toy_")}
    config = WebConfig(address="127.0.0.1:0", **settings)
    async with fleet(place, *names, **toys) as made, made.gateway(config) as gateway, aiohttp.ClientSession() as http:

        @asynccontextmanager
        async def talk(query: str = "", **headers: str) -> AsyncIterator[Browser]:
            url = f"http://{gateway.web}/v1/walk{query}"
            async with http.ws_connect(url, headers=headers, max_msg_size=0) as socket:
                yield Browser(socket)

        # A first connection may fail where a machine is busy; the next one is made within a second.
        await until(lambda: gateway.figure("generators", state="answering") == len(names))
        yield made, gateway, talk


async def test_a_conversation(tmp_path):
    async with web(tmp_path, "a") as (made, gateway, talk), talk() as browser:
        await browser.say(open={"world": "rooms", "seed": "7"})
        opened = (await browser.reply("open"))["value"]
        session = opened["session"]
        assert (await browser.next("joined"))["session"] == session
        await browser.say(move={"actions": [{"forward": 1}], "number": 5})
        said, pictures = await browser.hear()
        assert said == {"applied": {"number": "5"}}
        said, pictures = await browser.hear()
        assert said["drawn"]["number"] == "5"
        assert [each["size"] for each in said["drawn"]["pictures"]] == [6, 6]
        assert pictures == bytes(12)
        await browser.say(show={"walkers": [{"x": 3}], "number": 6})
        assert (await browser.next("drawn"))["key"]["index"] == "1"
        await browser.say(hold={"action": {"forward": 2}})
        assert "number" not in await browser.next("drawn")
        await browser.say(hold={"pause": True, "number": 8})
        while (await browser.next("applied")).get("number") != "8":
            pass
        await browser.say(fork={"world": "copy"})
        assert (await browser.reply("fork"))["value"]["world"]["name"] == "copy"
        await browser.say(rewind={"at": 1})
        assert (await browser.reply("rewind"))["value"]["walker"] == {"z": 1}
        assert gateway.figure("sockets") == 1
        await browser.say(close={})
        assert (await browser.reply("close"))["value"]["remembered"] == {"end": "1", "level": "LEVEL_ONE"}
        assert await browser.end() == (1000, "")
        assert not made.tier.records
    assert gateway.figure("sockets") == 0


async def test_a_conversation_outlives_a_generator(tmp_path):
    async with web(tmp_path, "a", "b") as (made, _, talk), talk() as browser:
        await browser.say(open={})
        session = (await browser.reply("open"))["value"]["session"]
        await browser.say(move={"actions": [{"forward": 1}], "number": 1})
        await browser.next("drawn")
        await made.kill(made.home(session).name)
        await browser.say(move={"actions": [{"forward": 2}], "number": 2})
        assert (await browser.next("notice"))["kind"] == "NOTICE_KIND_MOVED"
        assert (await browser.next("drawn"))["number"] == "2"


async def test_a_browser_joins_what_was_opened_over_grpc(tmp_path):
    async with web(tmp_path, "a") as (_, gateway, talk):
        session = (await gateway.open("someone")).session
        async with gateway.walk(session, tenant="someone") as client:
            await client.move(1)
            await client.move(2)
            await client.drawn(2)
        async with talk("?tenant=someone") as browser:
            await browser.say(join={"session": session, "seen": 1})
            assert (await browser.next("drawn"))["key"]["index"] == "1"
        async with talk(**{"worldkv-tenant": "someone"}) as browser:
            await browser.say(join={"session": session})
            await browser.next("joined")
        async with talk() as browser:
            await browser.say(join={"session": session})
            assert (await browser.end())[0] == 4005


async def test_who_is_taken_over_is_told(tmp_path):
    async with web(tmp_path, "a") as (_, gateway, talk), talk() as browser:
        await browser.say(open={})
        session = (await browser.reply("open"))["value"]["session"]
        await browser.next("joined")
        async with gateway.walk(session) as client:
            await client.next("joined")
            code, words = await browser.end()
        assert (code, "taken over" in words) == (4010, True)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("{", 4003, "not JSON"),
        ("[]", 4003, "expected one of"),
        ('{"move": {"nmber": 1}}', 4003, "nmber"),
        ('{"jump": {}}', 4003, "expected one of"),
        ('{"move": {"actions": []}}', 4003, "expected 1 of them"),
        ('{"move": {"number": "9223372036854775808"}}', 4003, "less than 2^63"),
        ('{"join": {"session": "x"}}', 4003, "this conversation is about"),
        ('{"open": {}}', 4003, "this conversation is about"),
        ('{"fork": {"session": "other"}}', 4003, "this conversation is about"),
        (b"\\0\\0", 4003, "no binary"),
        ('{"open": {"scene": "%s"}}' % ("x" * 5000), 4008, "more than 4096 bytes"),
    ],
)
async def test_nonsense_ends_the_conversation_with_words(tmp_path, said, code, words):
    async with web(tmp_path, "a", message_bytes=4096) as (_, gateway, talk), talk() as browser:
        await browser.say(open={})
        session = (await browser.reply("open"))["value"]["session"]
        send = browser.socket.send_bytes if isinstance(said, bytes) else browser.socket.send_str
        await send(said)
        ended = await browser.end()
        assert ended[0] == code
        assert words in ended[1]
        async with gateway.walk(session) as client:  # which the session outlives
            await client.next("joined")


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"move": {}}, 4003, "begins with open or join"),
        ({"close": {}}, 4003, "begins with open or join"),
        ({"join": {}}, 4003, "names a session"),
        ({"join": {"session": "nobody"}}, 4005, "nobody"),
    ],
)
async def test_a_conversation_that_begins_wrong_ends(tmp_path, said, code, words):
    async with web(tmp_path, "a") as (_, _, talk), talk() as browser:
        await browser.say(**said)
        ended = await browser.end()
        assert ended[0] == code
        assert words in ended[1]


async def test_calls_that_fail_end_no_conversation(tmp_path):
    async with web(tmp_path, "a") as (_, _, talk), talk() as browser:
        await browser.say(open={"world": "w"})
        await browser.reply("open")
        await browser.say(fork={"world": "w"})
        assert (await browser.reply("fork"))["error"]["status"] == "ALREADY_EXISTS"
        await browser.say(rewind={"at": 7})
        assert (await browser.reply("rewind"))["error"] == {
            "code": 3,
            "status": "INVALID_ARGUMENT",
            "words": "at = 7: the world has 0 chunks",
        }
        await browser.say(move={"actions": [{}]})
        await browser.next("drawn")


async def test_a_close_that_fails_is_answered_and_the_walk_goes_on(tmp_path):
    async with web(tmp_path, "a", "b") as (made, _, talk), talk() as browser:
        await browser.say(open={})
        session = (await browser.reply("open"))["value"]["session"]
        made.home(session).dies = lambda stage: stage == "closing"
        await browser.say(close={})
        await browser.say(move={"actions": [{}], "number": 1})
        found = [(await browser.hear())[0] for _ in range(6)]
        assert [each["error"]["status"] for each in found if "reply" in each] == ["UNAVAILABLE"]
        assert [each["drawn"]["number"] for each in found if "drawn" in each] == ["1"]


async def test_where_nobody_answers_nothing_opens(tmp_path):
    async with web(tmp_path, "a") as (made, gateway, talk):
        await made.kill("a")
        async with talk() as browser:
            await browser.say(open={})
            assert (await browser.end())[0] == 4014
        await until(lambda: gateway.figure("generators", state="silent"))
        async with aiohttp.ClientSession(f"http://{gateway.web}") as http:
            assert (await http.get("/readyz")).status == 503
            assert (await http.get("/healthz")).status == 200


async def test_a_slow_browser_misses_pictures_and_no_steps(tmp_path):
    sizes = {"toy_picture_bytes": 1_000_000, "picture_bytes": 3_000_000}
    async with web(tmp_path, "a", **sizes) as (made, gateway, talk), talk() as browser:
        await browser.say(open={})
        session = (await browser.reply("open"))["value"]["session"]
        for number in range(1, 61):
            await browser.say(move={"actions": [{"forward": 1}], "number": number})
        await until(lambda: len(made.tier.record("default", session).moves) == 60)  # nobody has read anything
        drawn = [await browser.next("drawn") for _ in range(60)]
        assert [int(each["number"]) for each in drawn] == [*range(1, 61)]
        missed = [each.get("picturesDropped", False) for each in drawn]
        assert any(missed)
        assert not missed[-1], "the newest are shown"
    await until(lambda: gateway.figure("pictures_dropped_total") == sum(missed))


async def test_pages_of_strangers_may_not_walk(tmp_path):
    async with web(tmp_path, "a", origins=("https://known.org",)) as (_, gateway, talk):
        for origin in ("https://known.org", f"http://{gateway.web}"):
            async with talk(Origin=origin) as browser:
                await browser.say(open={})
                await browser.reply("open")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            async with talk(Origin="https://stranger.org"):
                pass
    async with web(tmp_path, "a", origins=("*",)) as (_, gateway, talk), talk(Origin="https://stranger.org") as browser:
        await browser.say(open={})
        await browser.reply("open")


async def test_a_tenant_has_to_be_a_name(tmp_path):
    async with web(tmp_path, "a") as (_, _, talk):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            async with talk("?tenant=No+Name"):
                pass


async def test_a_page_says_what_this_is(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    (folder / "walk.js").write_text("script")
    async with web(tmp_path, "a") as (_, gateway, _), aiohttp.ClientSession(f"http://{gateway.web}") as http:
        assert "WorldKV" in await (await http.get("/")).text()
        await until(lambda: gateway.figure("generators", state="answering"))
        assert (await http.get("/readyz")).status == 200
        assert (await http.get("/nothing")).status == 404
        assert (await http.get("/..%2f..%2fconfig.py")).status in (403, 404)
        assert (await http.get("/v1/walk")).status == 400, "this is for WebSockets"
    async with web(tmp_path, "a", folder=folder) as (_, gateway, _), aiohttp.ClientSession() as http:
        assert await (await http.get(f"http://{gateway.web}/")).text() == "mine"
        assert await (await http.get(f"http://{gateway.web}/walk.js")).text() == "script"


async def test_a_gateway_that_ends_says_so(tmp_path):
    async with fleet(tmp_path, "a") as made, aiohttp.ClientSession() as http:
        async with made.gateway(WebConfig(address="127.0.0.1:0")) as gateway:
            browser = Browser(await http.ws_connect(f"http://{gateway.web}/v1/walk"))
            await browser.say(open={})
            session = (await browser.reply("open"))["value"]["session"]
            ended = asyncio.create_task(browser.end())
        code, words = await ended
        assert (code, "this gateway ends" in words) == (4014, True)
        async with made.gateway() as other, other.walk(session) as client:
            await client.next("joined")


async def test_a_gateway_that_ends_is_not_ready(tmp_path):
    host = Host(rpc.server(), CollectorRegistry(), asyncio.Event())
    async with fleet(tmp_path, "a") as made, aiohttp.ClientSession() as http:
        config = GatewayConfig(members=made.members, web=WebConfig(address="127.0.0.1:0"))
        async with assembled(config, host) as (_, address):
            url = f"http://{address}/readyz"
            answering = ("worldkv_gateway_generators", {"state": "answering"})
            await until(lambda: host.registry.get_sample_value(*answering))
            assert (await http.get(url)).status == 200
            host.ending.set()
            assert (await http.get(url)).status == 503
        await host.server.stop(None)


async def test_browsers_come_in_over_tls_too(tmp_path, tls):
    face = WebConfig(address="localhost:0", tls=rpc.TLS(tls.certificate, tls.key))
    trusting = ssl.create_default_context(cafile=tls.authority)
    async with fleet(tmp_path, "a") as made, made.gateway(face) as gateway, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"https://{gateway.web}/v1/walk", ssl=trusting) as socket:
            browser = Browser(socket)
            await browser.say(open={})
            await browser.reply("open")


@pytest.mark.parametrize(
    ("given", "words"), [(("c", "k", None), "cannot be read"), ((None, None, "a"), "needs web.tls")]
)
async def test_half_a_certificate_is_refused(tmp_path, given, words):
    tls = rpc.TLS(*(each and tmp_path / each for each in given))
    async with fleet(tmp_path, "a") as made:
        with pytest.raises(InvalidConfig, match=words):
            async with made.gateway(WebConfig(address="localhost:0", tls=tls)):
                pass


async def test_a_taken_address_is_refused(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway(WebConfig(address="127.0.0.1:0")) as gateway:
        with pytest.raises(Unavailable, match="cannot show web pages"):
            async with made.gateway(WebConfig(address=gateway.web)):
                pass
