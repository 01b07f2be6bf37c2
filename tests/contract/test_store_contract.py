"""What every store promises, whatever it is made of. A new store is one more line in STORES."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from services.kvstore.ram import RamConfig, RamTier
from tests.contract.kv_client import client_of
from tests.contract.ram_tier import TierStore
from tests.redis_process import redis_store, slow_clusters
from worldkv.chunk import ChunkKey
from worldkv.errors import Conflict, InvalidInput
from worldkv.format import Frame, join
from worldkv.store import Level, Miss, PartKey, RamStore, Store
from worldkv.store_wrappers import Faults, FaultyStore, ObservedStore

ROOM = 1 << 20
"""Bytes that a store under this contract has at least: nothing is evicted here."""


@asynccontextmanager
async def ram() -> AsyncIterator[Store]:
    store = RamStore(ROOM)
    yield store
    store.check_integrity()


@asynccontextmanager
async def observed() -> AsyncIterator[Store]:
    async with ram() as inner:
        yield ObservedStore(inner)


@asynccontextmanager
async def faultless() -> AsyncIterator[Store]:
    async with ram() as inner:
        yield FaultyStore(inner, Faults())


@asynccontextmanager
async def arena() -> AsyncIterator[Store]:
    tier = RamTier(RamConfig(ROOM, prefix="worldkv-contract"))
    yield TierStore(tier)
    tier.check_integrity()
    tier.close()


STORES: dict[str, Callable[[], AbstractAsyncContextManager[Store]]] = {
    "ram": ram,
    "observed": observed,
    "faultless": faultless,
    "arena": arena,
    "redis": redis_store,
    "redis, pieces of three bytes": partial(redis_store, piece_bytes=3),
    "redis cluster": partial(redis_store, cluster=True),
    "client of one shard": partial(client_of, 1),
    "client of one shard elsewhere": partial(client_of, 1, shared=False),
    "client of three shards": partial(client_of, 3),
}


@pytest.fixture(params=slow_clusters(STORES))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with STORES[request.param]() as made:
        yield made


BRANCH, OTHER = b"b" * 16, b"o" * 16


def part(index: int = 0, branch: bytes = BRANCH) -> PartKey:
    return PartKey(ChunkKey(branch, index), "part")


def kv(index: int = 0, branch: bytes = BRANCH) -> PartKey:
    return PartKey(ChunkKey(branch, index), "kv")


def frame(*pieces: bytes) -> Frame:
    return Frame.of(*(pieces or (b"some", b"bytes")))


async def bytes_of(store: Store, key: PartKey) -> bytes | Miss:
    found = (await store.get([key]))[key]
    return found if isinstance(found, Miss) else join(found)


async def keys_of(store: Store, branch: bytes = BRANCH) -> list[PartKey]:
    return [key async for key in store.scan(branch)]


async def test_what_was_put_is_got(store: Store):
    items = {part(): frame(b"one"), kv(): frame(b"two", b"three"), part(1): frame(b"3")}
    assert set((await store.put(items)).values()) <= set(Level)
    found = await store.get([*items])
    assert {key: join(value) for key, value in found.items() if isinstance(value, Frame)} == {
        key: join(value) for key, value in items.items()
    }


async def test_an_empty_frame_which_no_chunk_has_is_kept_or_refused(store: Store):
    try:
        await store.put({kv(): frame(b"")})
    except InvalidInput:
        assert await bytes_of(store, kv()) == Miss.NEVER_STORED
    else:
        assert await bytes_of(store, kv()) == b""


async def test_every_key_put_is_acknowledged(store: Store):
    items = {part(): frame(), kv(): frame()}
    assert (await store.put(items)).keys() == items.keys()
    assert (await store.put(items)).keys() == items.keys()


async def test_every_key_asked_for_is_answered_once(store: Store):
    await store.put({part(): frame()})
    found = await store.get([part(), part(), kv(), part(9)])
    assert found.keys() == {part(), kv(), part(9)}
    assert found[kv()] == found[part(9)] == Miss.NEVER_STORED


async def test_nothing_asked_is_nothing_answered(store: Store):
    assert await store.get([]) == {}
    assert await store.put({}) == {}
    assert await store.delete([]) == 0
    assert await keys_of(store) == []


async def test_the_two_parts_of_a_chunk_are_kept_apart(store: Store):
    await store.put({kv(): frame(b"kv")})
    assert await bytes_of(store, part()) == Miss.NEVER_STORED
    await store.put({part(): frame(b"part")})
    assert (await bytes_of(store, part()), await bytes_of(store, kv())) == (b"part", b"kv")


async def test_a_part_that_is_held_stays_as_it_is(store: Store):
    for key in (part(), kv()):
        await store.put({key: frame(b"first")})
        await store.put({key: frame(b"second")})
        assert await bytes_of(store, key) == b"first"


async def test_kv_deleted_alone_is_evicted_and_may_come_again(store: Store):
    await store.put({part(): frame(b"part"), kv(): frame(b"first")})
    assert await store.delete([kv()]) == 1
    assert await bytes_of(store, kv()) == Miss.EVICTED
    assert await bytes_of(store, part()) == b"part"
    await store.put({kv(): frame(b"again")})
    assert await bytes_of(store, kv()) == b"again"


async def test_a_deleted_chunk_is_gone_with_its_kv(store: Store):
    await store.put({part(): frame(), kv(): frame(), part(1): frame()})
    assert await store.delete([part()]) == 2
    assert await bytes_of(store, part()) == await bytes_of(store, kv()) == Miss.DELETED
    assert await keys_of(store) == [part(1)]
    assert await store.delete([part(), kv()]) == 0


async def test_a_deleted_chunk_stays_deleted_also_if_its_kv_went_before(store: Store):
    await store.put({part(): frame(), kv(): frame()})
    await store.delete([kv()])
    await store.delete([part()])
    assert await bytes_of(store, kv()) == Miss.DELETED


@pytest.mark.parametrize("key", [part(), kv()], ids=str)
@pytest.mark.parametrize("stored", [True, False])
async def test_what_was_deleted_cannot_be_put_again(store: Store, key: PartKey, stored: bool):
    if stored:
        await store.put({part(): frame()})
    await store.delete([part()])
    with pytest.raises(Conflict, match=str(key)):
        await store.put({part(1): frame(), key: frame(), kv(1): frame()})
    assert await bytes_of(store, key) == Miss.DELETED
    assert await keys_of(store) == [], "a refused put leaves nothing behind"


async def test_delete_counts_what_went_in_any_order(store: Store):
    for keys in ([part(), kv()], [kv(1), part(1)]):
        await store.put({key: frame() for key in keys})
        assert await store.delete([*keys, part(9), kv(9)]) == 2


async def test_deleting_kv_that_was_never_here_changes_nothing(store: Store):
    assert await store.delete([kv()]) == 0
    assert await bytes_of(store, kv()) == Miss.NEVER_STORED
    await store.put({kv(): frame(b"late")})
    assert await bytes_of(store, kv()) == b"late"


async def test_scan_lists_a_branch_by_number_with_the_immutable_part_first(store: Store):
    keys = [part(10), kv(2), part(2), kv(10), part(0), kv(9), part(3, OTHER)]
    await store.put({key: frame() for key in keys})
    assert await keys_of(store) == [part(0), part(2), kv(2), kv(9), part(10), kv(10)]
    assert await keys_of(store, OTHER) == [part(3, OTHER)]
    assert await keys_of(store, b"n" * 16) == []


async def test_scan_lists_what_is_asked_for(store: Store):
    await store.put({key: frame() for n in range(5) for key in (part(n), kv(n))})
    assert [key async for key in store.scan(BRANCH, 1, 3)] == [part(1), kv(1), part(2), kv(2)]
    assert [key async for key in store.scan(BRANCH, 3, kind="part")] == [part(3), part(4)]
    assert [key async for key in store.scan(BRANCH, end=2, kind="kv")] == [kv(0), kv(1)]
    assert [key async for key in store.scan(BRANCH, 2, 2)] == []
    assert [key async for key in store.scan(BRANCH, 9)] == []


async def test_a_scan_may_be_left_and_the_store_changed_meanwhile(store: Store):
    await store.put({part(n): frame() for n in range(4)})
    seen = []
    async for key in store.scan(BRANCH):
        seen.append(key)
        await store.delete([part(3)])
        await store.put({part(7): frame()})
        if len(seen) == 2:
            break
    assert seen == [part(0), part(1)]
    assert await keys_of(store) == [part(0), part(1), part(2), part(7)]


async def test_what_is_got_stays_readable_after_it_was_deleted(store: Store):
    await store.put({kv(): frame(b"held", b"on")})
    found = (await store.get([kv()]))[kv()]
    await store.delete([part(), kv()])
    assert isinstance(found, Frame)
    assert join(found) == b"heldon"
