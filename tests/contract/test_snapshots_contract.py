"""What every keeper of session states promises. A new one is one more line in SNAPSHOTS."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from services.kvstore.redis_catalog import RedisSnapshots
from tests.contract.kv_client import client_of
from tests.redis_process import connected, slow_clusters
from worldkv.catalog import MAX_WORLD_NAME, RamSnapshots, Snapshot, Snapshots
from worldkv.errors import InvalidInput, NotFound, OverBudget
from worldkv.format import Frame, join
from worldkv.store import Level

ROOM = 16 << 20
"""Bytes that may be kept under this contract, at least."""


@asynccontextmanager
async def ram() -> AsyncIterator[Snapshots]:
    yield RamSnapshots(ROOM)


@asynccontextmanager
async def redis(**settings: Any) -> AsyncIterator[Snapshots]:
    async with connected(**settings) as server:
        yield RedisSnapshots(server, "tenant")


def client(shards: int) -> Callable[[], AbstractAsyncContextManager[Snapshots]]:
    @asynccontextmanager
    async def made() -> AsyncIterator[Snapshots]:
        async with client_of(shards) as kv:
            yield kv.sessions

    return made


SNAPSHOTS: dict[str, Callable[[], AbstractAsyncContextManager[Snapshots]]] = {
    "ram": ram,
    "redis": redis,
    "redis cluster": partial(redis, cluster=True),
    "client of one shard": client(1),
    "client of three shards": client(3),
}


@pytest.fixture(params=slow_clusters(SNAPSHOTS))
async def snapshots(request: pytest.FixtureRequest) -> AsyncIterator[Snapshots]:
    async with SNAPSHOTS[request.param]() as made:
        yield made


async def state(snapshots: Snapshots, session: str = "walk", previous: bool = False) -> tuple[int, bytes]:
    found = await snapshots.load(session, previous)
    return found.chunks, join(found.state)


async def test_the_last_two_states_are_kept(snapshots: Snapshots):
    for n, text in enumerate((b"first", b"second", b"third")):
        assert await snapshots.save("walk", Snapshot(n, Frame.of(text, b"!"))) in Level
    assert await state(snapshots) == (2, b"third!")
    assert await state(snapshots, previous=True) == (1, b"second!")


async def test_what_was_never_saved_is_not_found(snapshots: Snapshots):
    for previous in (False, True):
        with pytest.raises(NotFound, match="walk"):
            await snapshots.load("walk", previous)
    await snapshots.save("walk", Snapshot(1, Frame.of(b"only")))
    with pytest.raises(NotFound, match="walk"):
        await snapshots.load("walk", previous=True)
    with pytest.raises(NotFound, match="other"):
        await snapshots.load("other")


async def test_sessions_are_apart(snapshots: Snapshots):
    await snapshots.save("a", Snapshot(1, Frame.of(b"a")))
    await snapshots.save("b", Snapshot(2, Frame.of(b"b")))
    assert (await state(snapshots, "a"), await state(snapshots, "b")) == ((1, b"a"), (2, b"b"))
    assert await snapshots.delete("a") == 1
    assert await state(snapshots, "b") == (2, b"b")


async def test_states_are_deleted_together_and_counted(snapshots: Snapshots):
    for n in range(3):
        await snapshots.save("walk", Snapshot(n, Frame.of(b"x")))
    assert await snapshots.delete("walk") == 2
    assert await snapshots.delete("walk") == 0
    with pytest.raises(NotFound):
        await snapshots.load("walk")


async def test_a_state_may_be_empty_or_large(snapshots: Snapshots):
    await snapshots.save("walk", Snapshot(0, Frame.of(b"")))
    assert await state(snapshots) == (0, b"")
    large = bytes(range(256)) * (5 << 12)  # five pieces of the wire
    await snapshots.save("walk", Snapshot(7, Frame.of(large[:1000], large[1000:])))
    assert await state(snapshots) == (7, large)
    assert await state(snapshots, previous=True) == (0, b"")


@pytest.mark.parametrize("session", ["", "x" * (MAX_WORLD_NAME + 1), "a\nb", " a", "\0", "\ud800"])
async def test_odd_sessions_are_refused(snapshots: Snapshots, session: str):
    with pytest.raises(InvalidInput, match="session"):
        await snapshots.save(session, Snapshot(0, Frame.of(b"x")))
    with pytest.raises(InvalidInput, match="session"):
        await snapshots.load(session)
    with pytest.raises(InvalidInput, match="session"):
        await snapshots.delete(session)


async def test_states_over_the_budget_are_refused_and_change_nothing():
    snapshots = RamSnapshots(10)
    await snapshots.save("walk", Snapshot(0, Frame.of(b"1234")))
    await snapshots.save("walk", Snapshot(1, Frame.of(b"5678")))
    with pytest.raises(OverBudget, match="walk"):
        await snapshots.save("walk", Snapshot(2, Frame.of(b"7 bytes")))
    assert await state(snapshots) == (1, b"5678")
    assert snapshots.used_bytes == 8
    await snapshots.save("walk", Snapshot(2, Frame.of(b"6bytes")))
    assert snapshots.used_bytes == 10
    await snapshots.delete("walk")
    assert snapshots.used_bytes == 0
