"""What the retriever's client decides by itself: whom to ask, and what a session's finder keeps."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.replica import meta, metas, query
from worldkv.chunk import Lineage, Meta
from worldkv.client import Membership, RemoteFinder, RetrieverClient, RetrieverClientConfig
from worldkv.client.retriever_replicas import Replicas
from worldkv.errors import AlreadyExists, InvalidConfig, NotFound, Unavailable, WorldKVError
from worldkv.finder import Finder
from worldkv.wire_retriever import Found, Lookup

WORLDS = [Lineage.begin(bytes([n % 256, n // 256]) * 8) for n in range(300)]


async def placed(names: Sequence[str], leaving: Sequence[str] = ()) -> list[str]:
    """Which replica is asked about each of the worlds."""
    texts = {name: f"{name}=127.0.0.1:{1000 + n}" for n, name in enumerate("abcdefgh")}
    membership = Membership.of(1, [texts[n] for n in names], [texts[n] for n in leaving])
    replicas = Replicas(lambda: membership, RetrieverClientConfig())
    try:
        return [replicas.of(world).member.name for world in WORLDS]
    finally:
        await replicas.close()


@given(st.sets(st.sampled_from("abcdefgh"), min_size=2, max_size=6), st.data())
def test_who_joins_or_leaves_moves_only_its_own_worlds(names, data):
    one = data.draw(st.sampled_from(sorted(names)))
    others = sorted(names - {one})
    before, after = asyncio.run(placed(others)), asyncio.run(placed(sorted(names)))
    assert all(b == a or a == one for b, a in zip(before, after, strict=True))
    share = after.count(one) / len(WORLDS)
    assert 0.4 / len(names) < share < 2 / len(names)
    assert asyncio.run(placed(others, leaving=[one])) == before


async def test_forks_are_where_their_first_branch_is():
    membership = Membership.of(1, ["a=h:1", "b=h:2", "c=h:3"])
    replicas = Replicas(lambda: membership, RetrieverClientConfig())
    for world in WORLDS[:50]:
        assert replicas.of(world.fork(3)) is replicas.of(world)
    await replicas.close()


async def test_the_line_to_who_is_no_replica_ends():
    now = Membership.of(1, ["a=h:1", "b=h:2"])
    replicas = Replicas(lambda: now, RetrieverClientConfig(deadline_seconds=0.05))
    first, second = (each.line.channel for each in replicas.everyone())
    now = Membership.of(2, ["b=h:2"])
    assert [each.line.channel for each in replicas.everyone()] == [second]
    async with asyncio.timeout(30):
        while first.get_state() != grpc.ChannelConnectivity.SHUTDOWN:  # noqa: ASYNC110 - gRPC tells nobody
            await asyncio.sleep(0.01)
    assert second.get_state() != grpc.ChannelConnectivity.SHUTDOWN
    await replicas.close()
    assert second.get_state() == grpc.ChannelConnectivity.SHUTDOWN


async def test_settings_that_are_wrong_are_refused():
    for wrong in ({"deadline_seconds": 0}, {"failover_seconds": -1}):
        with pytest.raises(InvalidConfig, match=str(*wrong.values())):
            RetrieverClientConfig(**wrong)


@dataclass
class Index:
    """A retriever that notes what it is asked, and fails as it is told."""

    fails: WorldKVError | None = None
    refuses: set[int] = field(default_factory=set)
    added: list[list[int]] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    missing: int = 0

    async def add(self, lineage: Lineage, metas: Sequence[Meta], **_: float) -> int:
        if self.fails:
            raise self.fails
        numbers = [each.key.index for each in metas]
        if self.refuses.intersection(numbers):
            raise AlreadyExists(f"{numbers}")
        self.added.append(numbers)
        return len(metas)

    async def nearest(self, lookups: Sequence[Lookup], **_: float) -> list[Found | WorldKVError]:
        self.lookups += lookups
        if self.fails:
            raise self.fails
        return [Found([], 0, self.missing)]


LINEAGE = Lineage.begin(b"r" * 16).fork(5, b"f" * 16)


def finder(index: Index, published: int | None = None) -> RemoteFinder:
    return RemoteFinder(index, LINEAGE, "pose", 3, "0" * 32, 0.5, published)


def test_it_is_what_a_memory_asks_for():
    made: Finder = finder(Index())
    assert made


async def test_chunks_stay_pending_until_the_index_has_them():
    index = Index(fails=Unavailable("gone"))
    made = finder(index)
    for each in metas(LINEAGE, 100, begin=5):
        await made.add(each)
    with pytest.raises(Unavailable, match="gone"):
        await made.nearest(query(), 3, {1}, 2)
    (asked,) = index.lookups
    assert (asked.published, asked.count, asked.spares, asked.exclude) == (100, 3, 2, {1})
    assert [each.key.index for each in asked.pending] == [*range(36, 100)], "the newest, a bounded number"
    index.fails = None
    await made.add(meta(LINEAGE.key(100)))
    assert index.added == [[*range(5, 101)]]
    await made.nearest(query(), 3)
    assert (index.lookups[-1].pending, index.lookups[-1].published) == ([], 101)


async def test_what_is_not_kept_yet_is_a_candidate_of_the_session_and_of_nobody_else():
    index = Index()
    made = finder(index)
    await made.add(meta(LINEAGE.key(5)), kept=False)
    await made.add(meta(LINEAGE.key(6)))
    assert index.added == [[6]]
    await made.nearest(query(), 3)
    (asked,) = index.lookups
    assert ([each.key.index for each in asked.pending], asked.published) == ([5], 5)
    await made.add(meta(LINEAGE.key(5)))
    assert index.added == [[6], [5]]
    await made.nearest(query(), 3)
    assert (index.lookups[-1].pending, index.lookups[-1].published) == ([], 7)


async def test_what_is_published_has_no_holes():
    index = Index()
    made = finder(index)
    assert made.published == 5, "a world that is opened is there up to its fork"
    await made.add(meta(LINEAGE.key(6)))
    assert made.published == 5
    await made.add(meta(LINEAGE.key(5)))
    assert made.published == 7
    assert finder(index, published=9).published == 9


async def test_a_chunk_that_no_index_takes_is_named_and_holds_up_no_other():
    index = Index(fails=Unavailable("gone"))
    made = finder(index)
    for each in metas(LINEAGE, 8, begin=5):
        await made.add(each)
    index.fails, index.refuses = None, {6}
    with pytest.raises(AlreadyExists, match="6"):
        await made.add(meta(LINEAGE.key(8)))
    await made.add(meta(LINEAGE.key(9)))
    assert sorted(n for some in index.added for n in some) == [5, 7, 8, 9]
    assert made.pending == []


async def test_a_world_that_the_index_has_lost_is_as_good_as_no_index():
    with pytest.raises(Unavailable, match="lost"):
        await finder(Index(fails=NotFound("lost"))).nearest(query(), 3)


async def test_a_finder_says_how_much_was_missing():
    made = finder(Index(missing=7))
    await made.nearest(query(), 3)
    assert made.missing == 7


async def test_nobody_there_is_unavailable():
    address = f"127.0.0.1:{secrets.choice(range(1, 9))}"
    async with RetrieverClient(lambda: Membership.of(0, [address])) as client:
        lookup = Lookup(LINEAGE, query(), 3)
        for call in (
            lambda: client.nearest([lookup]),
            lambda: client.add(LINEAGE, metas(LINEAGE, 6, begin=5)),
            lambda: client.least_useful(LINEAGE, 1, 8.0),
            lambda: client.remove([LINEAGE.key(1)]),
        ):
            with pytest.raises(Unavailable):
                await call()
        assert await client.stats() == {address: None}
        assert client.replicas.of(LINEAGE).resting
        assert np.isfinite(client.replicas.of(LINEAGE).line.silent_seconds)
