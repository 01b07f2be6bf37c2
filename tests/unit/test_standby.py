"""A session whose index is silent: it reads its own world back, and chooses as the index would."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.replica import meta, metas, query
from tests.wire.shard import until
from worldkv.chunk import Branch, Lineage, Meta
from worldkv.client import RemoteFinder, Standby
from worldkv.client import standby as module
from worldkv.errors import Unavailable, WorldKVError
from worldkv.finder import Finder, LocalFinder
from worldkv.index import Batch, Hit, ScanIndex
from worldkv.select import make_selector
from worldkv.wire_retriever import Found, Lookup

LINEAGE = Lineage.begin(b"r" * 16).fork(5, b"f" * 16)


@dataclass
class Index:
    """A retriever that chooses among all that it was told, unless it is away or asleep."""

    away: bool = False
    asleep: bool = False
    own: ScanIndex = field(default_factory=ScanIndex)
    asked: int = 0
    missing: int = 0

    async def add(self, lineage: Lineage, metas: Sequence[Meta], **_: float) -> int:
        await self._answers()
        return sum(map(self.own.add, metas))

    async def nearest(self, lookups: Sequence[Lookup], **_: float) -> list[Found | WorldKVError]:
        self.asked += 1
        await self._answers()
        (one,) = lookups
        for each in one.pending:
            self.own.add(each)
        selector = make_selector(one.selector, one.seed)
        return [
            Found(
                self.own.nearest(one.query, selector, one.count, one.lineage, one.exclude, one.spares), 0, self.missing
            )
        ]

    async def remove(self, keys, **_: float) -> int:
        await self._answers()
        return self.own.remove_many(keys)

    async def least_useful(self, lineage, count, view_range, protect=(), exclude=(), **_: float):
        await self._answers()
        return self.own.least_useful(lineage, count, view_range, protect, exclude)

    async def _answers(self) -> None:
        if self.away:
            raise Unavailable("the index is away")
        if self.asleep:
            await asyncio.Event().wait()


@dataclass
class Kept:
    """What the store says of chunks that are kept."""

    metas: list[Meta] = field(default_factory=list)
    away: bool = False
    reads: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def batches(self, branch: Branch, begin: int, end: int | None) -> AsyncIterator[Batch]:
        self.reads += 1
        await self.opened.wait()
        if self.away:
            raise Unavailable("the store is away")
        own = [each for each in self.metas if each.key.branch == branch and begin <= each.key.index]
        for each in own:
            if end is None or each.key.index < end:
                yield Batch.of([each])


async def world(chunks: int = 12) -> tuple[Standby, Index, Kept]:
    """A session in a fork: its parent's chunks, and its own."""
    index, kept = Index(), Kept(metas(LINEAGE, chunks))
    kept.opened.set()
    for each in kept.metas:
        index.own.add(each)
    return Standby(RemoteFinder(index, LINEAGE, "pose", 3, "0" * 32, 0.5, chunks), kept.batches), index, kept


def told(found: Sequence[Hit]) -> list[tuple[int, float, bool]]:
    return [(each.key.index, each.score, each.spare) for each in found]


async def test_it_is_what_a_memory_asks_for():
    made: Finder = (await world())[0]
    assert made


@given(
    st.integers(1, 6),
    st.sets(st.integers(0, 14)),
    st.integers(0, 3),
    st.integers(0, 150),
    st.sampled_from(["pose", "coverage", "fov", "random"]),
)
def test_it_chooses_as_the_index_would(k, exclude, spares, at, selector):
    async def both() -> None:
        made, index, kept = await world()
        made.choose_by(selector)
        kept.metas.append(meta(LINEAGE.key(12)))
        await made.add(kept.metas[-1])
        wanted = await made.nearest(query(at), k, exclude, spares)
        assert not made.stands_in
        index.away = True
        assert told(await made.nearest(query(at), k, exclude, spares)) == told(wanted)
        assert made.stands_in

    asyncio.run(both())


async def test_chunks_that_are_drawn_meanwhile_are_candidates_too():
    made, index, kept = await world()
    index.away = True
    kept.opened.clear()
    late, unkept = meta(LINEAGE.key(12)), meta(LINEAGE.key(13))
    await made.add(late)
    nearest = asyncio.create_task(made.nearest(query(), 14))
    await until(lambda: made.stands_in)
    await made.add(unkept, kept=False)
    kept.opened.set()
    assert {each.key.index for each in await nearest} == set(range(14))
    after = meta(LINEAGE.key(14))
    await made.add(after)
    assert {each.key.index for each in await made.nearest(query(), 15)} == set(range(15))
    assert kept.reads == 2, "a branch each, once"


async def test_the_index_chooses_again_when_it_answers():
    made, index, kept = await world()
    index.away = True
    await made.nearest(query(), 3)
    await made.add(meta(LINEAGE.key(12)))
    index.away, index.missing = False, 5
    assert len(await made.nearest(query(), 3)) == 3
    assert made._asking is not None
    await made._asking
    assert made.stands_in, "it has not read all of the world back yet"
    index.missing = 0
    assert len(await made.nearest(query(), 3)) == 3
    await until(lambda: not made.stands_in)
    asked = index.asked
    assert 12 in {each.key.index for each in await made.nearest(query(), 13)}
    assert (index.asked, kept.reads) == (asked + 1, 2)


async def test_an_index_need_not_know_what_the_store_has_not_got():
    made, index, kept = await world()
    del kept.metas[4]
    index.away = True
    assert len(await made.nearest(query(), 12)) == 11
    index.away, index.missing = False, 1
    await made.nearest(query(), 3)
    await until(lambda: not made.stands_in)


async def test_one_that_sleeps_is_asked_once_at_a_time():
    made, index, _ = await world()
    index.away = True
    await made.nearest(query(), 3)
    index.away, index.asleep, asked = False, True, index.asked
    for _ in range(5):
        assert len(await made.nearest(query(), 3)) == 3
    assert index.asked == asked + 1
    assert made._asking is not None
    made._asking.cancel()


async def test_a_lookup_that_had_to_be_given_up_is_answered_the_next_time(monkeypatch):
    made, index, _ = await world()
    index.asleep = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.nearest(query(), 3), 0.01)
    assert not made.stands_in, "nobody waited long for it"
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.nearest(query(), 3), 0.01)
    assert len(await made.nearest(query(), 3)) == 3
    assert made._asking is not None
    made._asking.cancel()


async def test_without_the_store_nobody_answers_and_later_it_is_read_anew():
    made, index, kept = await world()
    index.away = kept.away = True
    for reads in (1, 2):
        with pytest.raises(Unavailable, match="the store is away"):
            await made.nearest(query(), 3)
        assert (kept.reads, made.stands_in) == (reads, False)
    kept.away = False
    assert len(await made.nearest(query(), 3)) == 3


async def test_a_world_loses_what_it_can_do_without_meanwhile():
    made, index, _ = await world()
    index.away = True
    with pytest.raises(Unavailable):
        await made.least_useful(2, 8.0, (), ())
    await made.nearest(query(), 3)
    local = LocalFinder(index.own, make_selector("pose"), LINEAGE)
    useless = await made.least_useful(2, 8.0, {0}, {1})
    assert useless == await local.least_useful(2, 8.0, {0}, {1})
    with pytest.raises(Unavailable):  # the index is to be told as well
        await made.remove(useless)
    assert useless[0] not in {each.key for each in await made.nearest(query(), 12)}
