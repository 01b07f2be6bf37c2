"""Begin, fork, rewind, open, remove: what stands in the catalog, and what is left in the store."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as some
from worldkv.catalog import RamCatalog, Stored, World
from worldkv.chunk import MAX_INDEX, ChunkKey, Lineage
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, SpecMismatch, Unavailable
from worldkv.format import Frame
from worldkv.store import Miss, PartKey, RamStore
from worldkv.worlds import Swept, begin, fork, length, remove, shared, sweep
from worldkv.worlds.lineages import BATCH, DOOMED

SPEC, OTHER = "0a" * 16, "0b" * 16


@pytest.fixture
def store() -> RamStore:
    return RamStore(1 << 20)


@pytest.fixture
def catalog() -> RamCatalog:
    return RamCatalog()


async def write(store: RamStore, world: World, begin: int, end: int, kinds=("part", "kv")) -> None:
    await store.put(
        {PartKey(ChunkKey(world.lineage.head, n), kind): Frame.of(b"x") for n in range(begin, end) for kind in kinds}
    )


async def held(store: RamStore, world: World, end: int) -> list[bool]:
    keys = [PartKey(key, "part") for key in world.lineage.keys(end)]
    found = await store.get(keys)
    return [isinstance(found[key], Frame) for key in keys]


async def walked(store: RamStore, catalog: RamCatalog, name: str = "harbour", chunks: int = 10) -> World:
    world = (await begin(catalog, name, SPEC)).world
    await write(store, world, 0, chunks)
    return world


@given(some.lineages(), some.lineages(), st.integers(0, 40), st.integers(0, 40))
def test_worlds_share_the_chunks_before_the_first_that_differs(world, stranger, a, b):
    for other in (world, world.fork(a), world.fork(a).fork(b), stranger):
        found = shared(world, other)
        same = [own == key for own, key in zip(world.keys(99), other.keys(99), strict=True)]
        assert found == (None if all(same) else same.index(False)) == shared(other, world)


async def test_a_world_begins_empty_and_once(store, catalog):
    world = (await begin(catalog, "harbour", SPEC)).world
    assert (world.version, world.spec, world.chunks, world.lineage.start) == (1, SPEC, 0, 0)
    assert await length(store, world.lineage) == 0
    with pytest.raises(AlreadyExists, match="harbour"):
        await begin(catalog, "harbour")


async def test_a_world_is_as_long_as_its_immutable_parts_reach_without_a_gap(store, catalog):
    world = (await begin(catalog, "harbour")).world
    await write(store, world, 0, 3)
    await write(store, world, 3, 4, kinds=("kv",))
    await write(store, world, 4, 6)
    assert await length(store, world.lineage) == 3


async def test_a_fork_shares_what_came_before_it(store, catalog):
    source = await walked(store, catalog)
    used = store.used_bytes
    made = (await fork(store, catalog, "harbour", 4, "quay")).world
    assert list(made.lineage.keys(4)) == list(source.lineage.keys(4))
    assert not source.lineage.covers(made.lineage.key(4))
    assert (made.version, made.spec, made.chunks) == (1, SPEC, 4)
    assert (await catalog.read("harbour")).world == source
    assert store.used_bytes == used
    await write(store, made, 4, 6)
    assert await length(store, made.lineage) == 6


async def test_opening_walks_on_where_the_world_ends(store, catalog):
    source = await walked(store, catalog)
    opened = (await fork(store, catalog, "harbour")).world
    assert (opened.version, opened.lineage.start, opened.chunks) == (3, 10, 10)
    assert opened.lineage.head != source.lineage.head
    await write(store, source, 10, 12)  # the old writer was only frozen
    await write(store, opened, 10, 11)
    assert await length(store, opened.lineage) == 11
    assert opened.lineage.key(10).branch == opened.lineage.head


async def test_whose_branch_is_not_the_head_any_more_takes_nothing_over(store, catalog):
    first = await walked(store, catalog)
    mine = bytes(16)
    second = (await fork(store, catalog, "harbour", heads=[first.lineage.head], branch=mine)).world
    assert second.lineage.head == mine
    with pytest.raises(Conflict, match=mine.hex()):
        await fork(store, catalog, "harbour", heads=[first.lineage.head])
    assert (await catalog.read("harbour")).world == second
    third = (await fork(store, catalog, "harbour", 4, heads=[first.lineage.head, mine])).world
    assert third.lineage.start == 4


async def test_a_branch_can_be_named_before_the_world_begins(catalog):
    assert (await begin(catalog, "harbour", SPEC, bytes(16))).world.lineage.head == bytes(16)


async def test_rewinding_leaves_what_came_after_for_the_sweep(store, catalog):
    source = await walked(store, catalog)
    again = (await fork(store, catalog, "harbour", 3)).world
    assert (again.name, again.version, again.chunks) == ("harbour", 2, 3)
    assert await held(store, source, 10) == [True] * 10
    assert await sweep(store, catalog) == Swept(7, 14)
    assert await held(store, source, 10) == [True] * 3 + [False] * 7


@pytest.mark.parametrize("at", [0, 4, 10])
async def test_a_fork_at_any_chunk_outlives_its_source(store, catalog, at):
    await walked(store, catalog)
    made = (await fork(store, catalog, "harbour", at, "quay")).world
    await write(store, made, at, 12)
    assert await remove(store, catalog, "harbour") == Swept(10 - at, 2 * (10 - at))
    assert await held(store, made, 12) == [True] * 12
    assert await remove(store, catalog, "quay") == Swept(12, 24)
    assert store.used_bytes == 0


async def test_what_is_removed_is_gone_for_good(store, catalog):
    world = await walked(store, catalog)
    await remove(store, catalog, "harbour", 1)
    with pytest.raises(NotFound, match="harbour"):
        await catalog.read("harbour")
    key = PartKey(world.lineage.key(3), "kv")
    assert await store.get([key]) == {key: Miss.DELETED}


async def test_late_writes_of_a_dead_branch_are_swept(store, catalog):
    old = await walked(store, catalog)
    empty = (await fork(store, catalog, "harbour")).world  # opened, nothing written, and opened again
    live = (await fork(store, catalog, "harbour")).world
    assert len(live.lineage.parts) == 2
    await write(store, old, 10, 12)
    await write(store, empty, 10, 11)
    await write(store, live, 10, 11)
    assert await sweep(store, catalog) == Swept(3, 6)
    assert await held(store, live, 11) == [True] * 11
    assert await sweep(store, catalog) == Swept()
    assert [each.name async for each in catalog.list()] == ["harbour"]


async def test_a_writer_of_a_removed_world_is_swept_later(store, catalog):
    world = await walked(store, catalog)
    await remove(store, catalog, "harbour")
    await write(store, world, 10, 12)
    assert await sweep(store, catalog) == Swept(2, 4)
    await sweep(store, catalog)
    assert store.used_bytes == 0
    assert [each.name async for each in catalog.list()] == []


async def test_chunks_of_which_only_kv_is_left_are_swept(store, catalog):
    world = (await begin(catalog, "harbour")).world
    await write(store, world, 0, 3, kinds=("kv",))
    assert await remove(store, catalog, "harbour") == Swept(3, 3)


async def test_long_worlds_are_swept_in_batches(store, catalog):
    await walked(store, catalog, chunks=2 * BATCH + 7)
    assert await remove(store, catalog, "harbour") == Swept(2 * BATCH + 7, 2 * (2 * BATCH + 7))


async def test_a_removal_that_was_cut_short_is_finished_by_a_sweep(store, catalog):
    await walked(store, catalog)

    async def die(keys):
        raise Unavailable("gone")

    delete, store.delete = store.delete, die
    with pytest.raises(Unavailable):
        await remove(store, catalog, "harbour")
    store.delete = delete
    assert await sweep(store, catalog) == Swept(10, 20)


async def test_bad_input_is_named(store, catalog):
    await walked(store, catalog)
    await walked(store, catalog, "quay")
    before = [each async for each in catalog.list()]
    for error, words, call in [
        (NotFound, "atlantis", fork(store, catalog, "atlantis", 1, "new")),
        (NotFound, "atlantis", remove(store, catalog, "atlantis")),
        (NotFound, "chunk 10", fork(store, catalog, "harbour", 11, "new")),
        (InvalidInput, "-1", fork(store, catalog, "harbour", -1, "new")),
        (InvalidInput, "up to", fork(store, catalog, "harbour", MAX_INDEX + 1, "new")),
        (AlreadyExists, "quay", fork(store, catalog, "harbour", 1, "quay")),
        (AlreadyExists, "harbour", fork(store, catalog, "harbour", 1, "harbour")),
        (InvalidInput, "name", fork(store, catalog, "harbour", 1, "")),
        (InvalidInput, "of our own", fork(store, catalog, "harbour", 1, "~new")),
        (InvalidInput, "of our own", begin(catalog, DOOMED)),
        (SpecMismatch, OTHER, fork(store, catalog, "harbour", 1, "new", OTHER)),
        (Conflict, "version 1", remove(store, catalog, "harbour", 7)),
    ]:
        with pytest.raises(error, match=words):
            await call
    assert [each async for each in catalog.list()] == before


class Interrupted(RamCatalog):
    """A catalog in which somebody else does something just before a swap."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Callable[[], Awaitable[object]] | None = None
        self.lost = False

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        first, self.first = self.first, None
        if first:
            await first()
        stored = await super().swap(name, expected, record)
        if self.lost:
            self.lost = False
            raise Unavailable("the answer was lost")
        return stored


@pytest.mark.parametrize("rewound", [True, False])
async def test_a_fork_of_what_is_removed_meanwhile_is_undone(store, rewound):
    catalog = Interrupted()
    await walked(store, catalog)

    async def meanwhile() -> None:
        if rewound:
            await fork(store, catalog, "harbour", 2)
            await sweep(store, catalog)
        else:
            await remove(store, catalog, "harbour")

    catalog.first = meanwhile
    with pytest.raises(Conflict, match="harbour"):
        await fork(store, catalog, "harbour", 4, "quay")
    assert [each.name async for each in catalog.list() if each.name == "quay"] == []


async def test_a_fork_of_what_was_rewound_to_after_it_stands(store):
    catalog = Interrupted()
    await walked(store, catalog)

    async def meanwhile() -> None:
        await fork(store, catalog, "harbour", 6)
        await sweep(store, catalog)

    catalog.first = meanwhile
    made = (await fork(store, catalog, "harbour", 4, "quay")).world
    assert await held(store, made, 4) == [True] * 4


async def test_a_swap_whose_answer_was_lost_has_happened(store):
    catalog = Interrupted()
    await walked(store, catalog)
    catalog.lost = True
    assert (await fork(store, catalog, "harbour", 4, "quay")).world.version == 1
    catalog.lost = True
    assert (await fork(store, catalog, "harbour", 4)).world.version == 2


async def test_who_did_not_hear_that_a_world_is_his_knows_it_as_it_was_then(store):
    class Unheard(RamCatalog):
        heard = True

        async def swap(self, name: str, expected: int, record: World) -> Stored:
            stored = await super().swap(name, expected, record)
            if self.heard or record.lineage.start == 0:
                return stored
            self.heard = True
            await super().swap(name, expected + 1, record)  # somebody is taking it over already
            raise Unavailable("the answer was lost")

    catalog = Unheard()
    await walked(store, catalog)
    catalog.heard = False
    mine = (await fork(store, catalog, "harbour", 4)).world
    assert (mine.version, (await catalog.read("harbour")).world.version) == (2, 3)


async def test_of_two_who_open_a_world_at_once_one_is_told_to_read_again(store):
    catalog = Interrupted()
    await walked(store, catalog)

    async def meanwhile() -> None:
        await fork(store, catalog, "harbour")

    catalog.first = meanwhile
    with pytest.raises(Conflict, match="harbour"):
        await fork(store, catalog, "harbour")
    assert (await catalog.read("harbour")).world.version == 3


async def test_who_takes_a_world_over_tells_its_writer_before_he_looks_how_long_it_is(catalog):
    class Looked(RamStore):
        async def scan(self, *args, **kwargs):
            versions.append((await catalog.read("harbour")).world.version)
            async for key in super().scan(*args, **kwargs):
                yield key

    store, versions = Looked(1 << 20), list[int]()
    before = await walked(store, catalog)
    opened = (await fork(store, catalog, "harbour")).world
    assert versions == [2]
    assert (before.version, opened.version, opened.lineage.start) == (1, 3, 10)


async def test_whose_taking_over_was_begun_by_another_goes_on_with_it(store):
    catalog = Interrupted()
    before = await walked(store, catalog)

    async def meanwhile() -> None:
        await catalog.swap("harbour", 1, before)

    catalog.first = meanwhile
    opened = (await fork(store, catalog, "harbour")).world
    assert (opened.version, opened.lineage.start) == (3, 10)
    catalog.lost = True
    assert (await fork(store, catalog, "harbour")).world.version == 5


async def test_a_world_that_moves_under_another_name_while_the_list_is_read_is_not_swept(store):
    class Moving(RamCatalog):
        """A list that has passed "a" when "harbour" is forked there, and not reached "harbour" when it is removed."""

        moved = False

        async def list(self, prefix="", after=""):
            async for world in super().list(prefix, after):
                if world.name == "b" and not self.moved:
                    self.moved = True
                    await fork(store, self, "harbour", 10, "a")
                    await remove(store, self, "harbour")
                if world.name in self._worlds:
                    yield world

    catalog = Moving()
    await begin(catalog, "b")
    await walked(store, catalog)
    await fork(store, catalog, "harbour")  # so that a sweep looks at its branches, whoever has them
    doomed = (await catalog.read("harbour")).world
    await catalog.swap(DOOMED + doomed.lineage.head.hex(), 0, World(DOOMED + doomed.lineage.head.hex(), doomed.lineage))
    await sweep(store, catalog)
    assert catalog.moved
    assert await held(store, (await catalog.read("a")).world, 10) == [True] * 10


async def test_worlds_that_never_hold_still_are_not_swept(store, catalog):
    await walked(store, catalog)

    class Restless(RamCatalog):
        async def list(self, prefix="", after=""):
            yield World("harbour", Lineage.begin())

    with pytest.raises(Conflict, match="sweep again"):
        await sweep(store, Restless())
    assert store.used_bytes == 20


async def test_tenants_have_worlds_of_their_own(store):
    one, two = RamCatalog(), RamCatalog()
    await asyncio.gather(begin(one, "harbour"), begin(two, "harbour"))
    assert (await one.read("harbour")).world.lineage != (await two.read("harbour")).world.lineage
