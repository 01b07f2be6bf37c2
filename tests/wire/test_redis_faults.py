"""What becomes of callers when Redis stops, freezes, or comes back empty. Real servers; patience where it must wait."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import RedisError
from xxhash import xxh3_64_intdigest

from services.kvstore.redis_breaker import Breaker
from services.kvstore.redis_catalog import RedisCatalog, RedisSnapshots
from services.kvstore.redis_config import RedisConfig
from services.kvstore.redis_link import Link, Misfit, Missing, Piece, Span
from services.kvstore.redis_server import connect
from services.kvstore.redis_tier import RedisTier
from tests.redis_process import PATIENCE, RedisProcess, become, connected, redis_process, shared_process
from worldkv.catalog import Snapshot, World
from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import ChunkCorrupt, InvalidConfig, NotFound, Unavailable
from worldkv.format import Frame, join
from worldkv.store import Miss, PartKey

pytestmark = pytest.mark.redis

TENANT = "tenant"
KEY = PartKey(ChunkKey(b"b" * 16, 0), "kv")
LARGE = os.urandom(30 << 20)


@pytest.fixture
def process() -> Iterator[RedisProcess]:
    with redis_process() as made:
        yield made


def config(process: RedisProcess, **settings: Any) -> RedisConfig:
    return RedisConfig(process.url, **{"timeout_seconds": PATIENCE, "longest_retry_seconds": 0.2, **settings})


async def put(tier: RedisTier, data: bytes, key: PartKey = KEY) -> None:
    await tier.put(TENANT, key, [memoryview(data)], xxh3_64_intdigest(data))


async def get(tier: RedisTier, key: PartKey = KEY) -> bytes | Miss:
    rooms: list[bytearray] = []

    def into(size: int, checksum: int) -> list[memoryview]:
        rooms[:] = [bytearray(size)]
        return [memoryview(rooms[0])]

    found = await tier.get(TENANT, key, into)
    return found if isinstance(found, Miss) else bytes(rooms[0])


async def test_a_server_that_is_not_there_yet_is_found_when_it_comes(process: RedisProcess):
    process.kill()
    async with connect(config(process)) as server:
        tier = RedisTier(server)
        assert not tier.available
        with pytest.raises(Unavailable, match="Redis does not answer"):
            await put(tier, b"early")
        process.start()
        await become(lambda: tier.available)
        await put(tier, b"late")
        assert await get(tier) == b"late"


async def test_a_server_that_died_is_unavailable_and_comes_back_empty(process: RedisProcess):
    losses: list[None] = []
    async with connect(config(process), lambda: losses.append(None)) as server:
        tier, worlds, states = RedisTier(server), RedisCatalog(server, TENANT), RedisSnapshots(server, TENANT)
        await put(tier, LARGE)
        process.kill()
        for call in (
            lambda: put(tier, b"x", KEY._replace(kind="part")),
            lambda: get(tier),
            lambda: tier.delete(TENANT, [KEY]),
            lambda: tier.sweep_orphans(),
            lambda: worlds.read("harbour"),
            lambda: worlds.swap("harbour", 0, World("harbour", Lineage.begin())),
            lambda: states.save("walk", Snapshot(0, Frame.of(b"x"))),
            lambda: states.load("walk"),
        ):
            with pytest.raises(Unavailable, match="Redis does not answer"):
                await call()
        assert (server.breaker.trips, losses) == (1, [])
        process.start()
        await become(lambda: tier.available)
        assert losses == [None]
        assert await get(tier) is Miss.NEVER_STORED
        await put(tier, LARGE)
        assert await get(tier) == LARGE


async def test_a_server_that_was_restarted_while_nobody_looked_is_found_out(process: RedisProcess):
    losses: list[None] = []
    async with connect(config(process), lambda: losses.append(None)) as server:
        await put(RedisTier(server), b"gone")
        process.kill()
        process.start()
        await become(lambda: len(losses) == 1)
        assert await get(RedisTier(server)) is Miss.NEVER_STORED


async def test_connections_that_the_server_closed_are_made_anew(process: RedisProcess):
    async with connect(config(process)) as server:
        tier = RedisTier(server)
        await put(tier, LARGE)
        with process.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        assert await get(tier) == LARGE


async def test_a_server_killed_in_the_middle_leaves_no_half_part(process: RedisProcess):
    async with connect(config(process)) as server:
        tier = RedisTier(server)
        puts = [asyncio.create_task(put(tier, LARGE, KEY._replace(kind=kind))) for kind in ("part", "kv")]
        await asyncio.sleep(0.02)
        process.kill()
        for each in puts:
            with suppress(Unavailable):  # unless it was faster
                await each
        process.start()
        await become(lambda: tier.available)
        assert await get(tier) is Miss.NEVER_STORED
        await put(tier, LARGE)
        assert await get(tier) == LARGE


@pytest.mark.slow
async def test_a_frozen_server_costs_one_timeout_and_nobody_writes_later(process: RedisProcess):
    async with connect(config(process, timeout_seconds=2.0)) as server:
        tier, room = RedisTier(server), bytearray(len(LARGE))
        await become(lambda: tier.available)
        await put(tier, LARGE)

        def into(size: int, checksum: int) -> list[memoryview]:
            process.freeze()
            return [memoryview(room)]

        with pytest.raises(Unavailable):
            await tier.get(TENANT, KEY, into)
        process.thaw()
        await become(lambda: tier.available)
        process.freeze()
        assert server.breaker.trips >= 1
        with pytest.raises(Unavailable):
            await put(tier, LARGE, KEY._replace(kind="part"))
        for _ in range(1000):  # each would cost two seconds
            with pytest.raises(Unavailable):
                await get(tier)
        seen = bytes(room)
        process.thaw()
        await become(lambda: tier.available)
        assert await get(tier) == LARGE
        assert room == seen


async def test_who_cancels_gets_his_buffers_back(process: RedisProcess):
    async with connect(config(process)) as server:
        tier, room = RedisTier(server), bytearray(len(LARGE))
        await put(tier, LARGE)
        asked = asyncio.Event()

        def into(size: int, checksum: int) -> list[memoryview]:
            process.freeze()
            asked.set()
            return [memoryview(room)]

        task = asyncio.create_task(tier.get(TENANT, KEY, into))
        await asked.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = bytes(room)
        process.thaw()
        assert await get(tier) == LARGE, "what was cancelled trips nothing"
        assert room == seen
        assert server.breaker.trips == 0


async def test_who_cancels_a_put_leaves_nothing_for_long(process: RedisProcess):
    async with connect(config(process)) as server:
        tier = RedisTier(server)
        task = asyncio.create_task(put(tier, LARGE))
        await asyncio.sleep(0.02)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if isinstance((await tier.heads(TENANT, [KEY]))[KEY], Miss):
            with process.client() as client:
                await become(lambda: not list(client.scan_iter("wkv:p:*")))
            await put(tier, LARGE)
        assert await get(tier) == LARGE


async def test_two_hundred_callers_at_once():
    async with connected() as server:
        tier = RedisTier(server)
        texts = {KEY._replace(chunk=ChunkKey(bytes([n]) * 16, n)): os.urandom(1000 + n) for n in range(200)}
        await asyncio.gather(*(put(tier, text, key) for key, text in texts.items()))
        found = await asyncio.gather(*(get(tier, key) for key in texts))
        assert found == [*texts.values()]
        assert not server._transfers
        with shared_process().client() as client:
            assert len(client.client_list()) < 8 + 2 * server.config.connections + 4


async def test_a_flipped_byte_of_a_record_or_a_state_is_told():
    async with connected() as server:
        worlds, states = RedisCatalog(server, TENANT), RedisSnapshots(server, TENANT)
        await worlds.swap("harbour", 0, World("harbour", Lineage.begin()))
        for n in range(2):
            await states.save("walk", Snapshot(n, Frame.of(b"state" * 100)))
        with shared_process().client() as client:
            name = f"{server.config.prefix}:w:{{{TENANT}}}"
            held = bytearray(client.hget(name, "harbour"))
            held[-5] ^= 4
            client.hset(name, "harbour", bytes(held))
            client.setrange(next(client.scan_iter(f"{server.config.prefix}:p:*", count=1000)), 7, b"\xff")
        with pytest.raises(ChunkCorrupt):
            await worlds.read("harbour")
        readable = 0
        for previous in (False, True):
            with suppress(ChunkCorrupt):
                assert join((await states.load("walk", previous)).state) == b"state" * 100
                readable += 1
        assert readable == 1
        assert await states.delete("walk") == 2
        with pytest.raises(NotFound):
            await states.load("walk")


def test_a_breaker_asks_less_and_less_often():
    breaker = Breaker(0.05, 1.0)
    breaker.check()
    assert breaker.trip("gone")
    assert not breaker.trip("still gone")
    with pytest.raises(Unavailable, match="still gone"):
        breaker.check()
    pauses = breaker.pauses()
    assert [next(pauses) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [next(pauses) for _ in range(2000)][-1] == 1.0
    breaker.close()
    breaker.check()
    assert (breaker.open, breaker.trips, breaker.reason) == (False, 1, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "http://host"),
        ("prefix", ""),
        ("prefix", "a{b}"),
        ("connections", 0),
        ("piece_bytes", 0),
        ("piece_bytes", 512 << 20),
        ("timeout_seconds", 0.0),
        ("orphan_seconds", float("nan")),
    ],
)
def test_a_bad_setting_is_named(name: str, value: Any):
    with pytest.raises(InvalidConfig, match=name):
        RedisConfig(**{name: value})


def test_passwords_are_not_shown():
    assert "secret" not in repr(RedisConfig("redis://:secret@host"))


class Wire:
    """A connection whose other end says what a test wants."""

    def __init__(self, answer: bytes) -> None:
        self.near, self._far = socket.socketpair()
        self._answer = answer

    def connect(self) -> None:
        threading.Thread(target=self._talk).start()

    def _talk(self) -> None:
        with self._far as far, suppress(OSError):
            far.sendall(self._answer)
            far.shutdown(socket.SHUT_WR)
            while far.recv(65536):
                pass

    def _get_socket(self) -> socket.socket:
        return self.near

    def disconnect(self) -> None:
        self.near.close()


def linked(answer: bytes) -> Link:
    wire: Any = Wire(answer)
    return Link(lambda: wire, PATIENCE)


def fetched(answer: bytes, sizes: list[int]) -> list[bytes]:
    """What a link makes of an answer to a question for values of these sizes."""
    rooms = [bytearray(size) for size in sizes]
    pieces = iter([Piece(b"n", Span([memoryview(room)]).cut(0, len(room)), len(room)) for room in rooms])
    link = linked(answer)
    try:
        link.fetch(lambda: next(pieces, None), lambda piece: None)
    finally:
        link.close()
    return [bytes(room) for room in rooms]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_a_link_reads_what_was_said(values: list[bytes]):
    answer = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
    assert fetched(answer, [len(value) for value in values]) == values


words = st.sampled_from([b"$", b"-", b"+OK", b"1", b"3", b"\r\n", b"-OOM "])
noise = st.one_of(st.binary(max_size=60), st.lists(words).map(b"".join))


@given(noise, st.integers(1, 12))
def test_noise_is_an_error_never_a_value(answer: bytes, size: int):
    if answer.startswith(b"$%d\r\n" % size) and answer[len(b"$%d\r\n" % size) + size :][:2] == b"\r\n":
        return
    with pytest.raises((RedisError, OSError, Missing, Misfit)):
        fetched(answer, [size])


@given(noise)
def test_noise_never_stores(answer: bytes):
    if answer.startswith(b"+OK\r\n"):
        return
    pieces = iter([Piece(b"n", [memoryview(b"value")], 5)])
    link = linked(answer)
    with pytest.raises((RedisError, OSError)):
        link.send(lambda: next(pieces, None), 1.0)
    link.close()
