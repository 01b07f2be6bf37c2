"""What every catalog of worlds promises. A new catalog is one more line in CATALOGS."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from services.kvstore.redis_catalog import RedisCatalog
from tests.contract.kv_client import client_of
from tests.redis_process import connected, slow_clusters
from worldkv.catalog import MAX_WORLD_NAME, Catalog, RamCatalog, World
from worldkv.chunk import Lineage
from worldkv.errors import Conflict, InvalidInput, NotFound
from worldkv.store import Level


@asynccontextmanager
async def ram() -> AsyncIterator[Catalog]:
    yield RamCatalog()


@asynccontextmanager
async def redis(**settings: Any) -> AsyncIterator[Catalog]:
    async with connected(**settings) as server:
        yield RedisCatalog(server, "tenant")


def client(shards: int) -> Callable[[], AbstractAsyncContextManager[Catalog]]:
    @asynccontextmanager
    async def made() -> AsyncIterator[Catalog]:
        async with client_of(shards) as kv:
            yield kv.worlds

    return made


CATALOGS: dict[str, Callable[[], AbstractAsyncContextManager[Catalog]]] = {
    "ram": ram,
    "redis": redis,
    "redis cluster": partial(redis, cluster=True),
    "client of one shard": client(1),
    "client of three shards": client(3),
}


@pytest.fixture(params=slow_clusters(CATALOGS))
async def catalog(request: pytest.FixtureRequest) -> AsyncIterator[Catalog]:
    async with CATALOGS[request.param]() as made:
        yield made


def world(name: str = "harbour", chunks: int = 0) -> World:
    lineage = Lineage.begin(b"r" * 16).fork(3, b"s" * 16).fork(7, b"t" * 16)
    return World(name, lineage, spec="0a" * 16, chunks=chunks)


async def names(catalog: Catalog, prefix: str = "", after: str = "") -> list[str]:
    return [each.name async for each in catalog.list(prefix, after)]


async def test_a_record_is_read_as_it_was_written_but_for_its_version(catalog: Catalog):
    record = world(chunks=9)
    written = await catalog.swap("harbour", 0, record)
    assert (written.world.version, written.world.lineage, written.world.spec) == (1, record.lineage, record.spec)
    assert written.level in Level
    assert (await catalog.read("harbour")).world == written.world
    assert written.world.chunks == 9


async def test_the_version_counts_swaps_whatever_the_record_says(catalog: Catalog):
    for expected in range(3):
        stored = await catalog.swap("harbour", expected, World("harbour", Lineage.begin(), 77))
        assert stored.world.version == expected + 1


@pytest.mark.parametrize("expected", [0, 2, 9])
async def test_a_swap_of_another_version_changes_nothing(catalog: Catalog, expected: int):
    held = (await catalog.swap("harbour", 0, world())).world
    with pytest.raises(Conflict, match="harbour"):
        await catalog.swap("harbour", expected, world(chunks=5))
    assert (await catalog.read("harbour")).world == held


async def test_a_swap_of_what_is_not_there_is_a_conflict(catalog: Catalog):
    with pytest.raises(Conflict, match="harbour"):
        await catalog.swap("harbour", 1, world())
    assert await names(catalog) == []


async def test_of_several_who_swap_at_once_one_wins(catalog: Catalog):
    await catalog.swap("harbour", 0, world())

    async def swap(chunks: int) -> int:
        try:
            return (await catalog.swap("harbour", 1, world(chunks=chunks))).world.chunks
        except Conflict:
            return 0

    won = [chunks for chunks in await asyncio.gather(*map(swap, range(1, 9))) if chunks]
    assert [(await catalog.read("harbour")).world.chunks] == won


async def test_a_record_goes_under_its_own_name(catalog: Catalog):
    with pytest.raises(InvalidInput, match="quay"):
        await catalog.swap("quay", 0, world("harbour"))


async def test_worlds_are_listed_by_name(catalog: Catalog):
    for name in ("b", "a/2", "a", "a/10", "Z", "ä", "\U0001f30d", "\uff21", "a b"):
        await catalog.swap(name, 0, world(name))
    everything = sorted(["b", "a/2", "a", "a/10", "Z", "ä", "\U0001f30d", "\uff21", "a b"])
    assert await names(catalog) == everything
    assert await names(catalog, "a/") == ["a/10", "a/2"]
    assert await names(catalog, "a", after="a/10") == ["a/2"]
    assert await names(catalog, after="b") == ["ä", "\uff21", "\U0001f30d"]
    assert await names(catalog, "nothing") == []


async def test_a_removed_world_is_gone_and_its_name_is_free(catalog: Catalog):
    await catalog.swap("harbour", 0, world())
    await catalog.swap("quay", 0, world("quay"))
    await catalog.remove("harbour")
    assert await names(catalog) == ["quay"]
    with pytest.raises(NotFound, match="harbour"):
        await catalog.read("harbour")
    with pytest.raises(NotFound, match="harbour"):
        await catalog.remove("harbour")
    assert (await catalog.swap("harbour", 0, world())).world.version == 1


async def test_a_world_that_changed_meanwhile_is_not_removed(catalog: Catalog):
    await catalog.swap("harbour", 0, world())
    await catalog.swap("harbour", 1, world())
    with pytest.raises(Conflict, match="harbour"):
        await catalog.remove("harbour", 1)
    await catalog.remove("harbour", 2)
    assert await names(catalog) == []


@pytest.mark.parametrize("name", ["", "x" * (MAX_WORLD_NAME + 1), "a\nb", " a", "a ", "\0", "\ud800", "a\u200bb"])
async def test_odd_names_are_refused(catalog: Catalog, name: str):
    with pytest.raises(InvalidInput, match="name"):
        await catalog.read(name)
    with pytest.raises(InvalidInput, match="name"):
        await catalog.remove(name)
    with pytest.raises(InvalidInput, match="name"):
        await catalog.swap(name, 0, world())
    assert await names(catalog) == []


async def test_names_are_never_more_than_names(catalog: Catalog):
    odd = ["*", "a*", "[a]", "a{b}c", "../up", "x" * MAX_WORLD_NAME, "a:b", "%s", "{0}", '"', "\\"]
    for n, name in enumerate(odd):
        await catalog.swap(name, 0, world(name, n))
    for n, name in enumerate(odd):
        assert (await catalog.read(name)).world.chunks == n
    assert await names(catalog, "a*") == ["a*"]
    assert await names(catalog, "*") == ["*"]


async def test_many_worlds_are_all_listed_once_while_others_come_and_go(catalog: Catalog):
    stay = [f"world {n:03}" for n in range(120)]
    for name in stay:
        await catalog.swap(name, 0, world(name))
    seen = []
    async for each in catalog.list("world"):
        seen.append(each.name)
        if len(seen) == 10:
            await catalog.swap("world 000a", 0, world("world 000a"))
    assert [name for name in seen if name in stay] == stay
