"""What a walking client is told of its memory, and that nobody is shown what is not of his world."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from benchmarks.faults.machine import Kept, Seen, Ways, machines
from services.generator.tier import Inside, Tier
from tests.toys import toy_spec
from tests.wire.generator import CONFIG, generating, inside
from worldkv import wire
from worldkv.chunk import Lineage
from worldkv.errors import Unavailable
from worldkv.finder import Finder, LocalFinder
from worldkv.index import Hit, ScanIndex
from worldkv.select import Query, make_selector
from worldkv.store import Level, PartKey
from worldkv.store_wrappers import Faults, FaultyStore
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb


@dataclass
class Weak(Inside):
    """Tiers whose store may refuse, and says how safe what it takes is; and whose index may not answer."""

    faults: Faults = field(default_factory=Faults)
    level: Level = Level.TWO
    index_down: bool = False

    def __call__(self, tenant: str) -> Tier:
        tier = super().__call__(tenant)
        return replace(tier, store=_Leveled(tier.store, self), finder=lambda *given: _Silent(tier.finder(*given), self))


class _Leveled(FaultyStore):
    def __init__(self, inner: Any, weak: Weak) -> None:
        super().__init__(inner, weak.faults)
        self.weak = weak

    async def put(self, items: Any) -> dict[PartKey, Level]:
        self.faults = self.weak.faults
        return dict.fromkeys(await super().put(items), self.weak.level)


class _Silent:
    def __init__(self, inner: Finder, weak: Weak) -> None:
        self.inner, self.weak = inner, weak

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        if self.weak.index_down:
            raise Unavailable("the index is down")
        return await self.inner.nearest(query, k, exclude, spares)


def live(**memory: Any) -> Any:
    """Sessions that do not wait in lockstep."""
    return replace(CONFIG, memory=replace(CONFIG.memory, keep_seconds=0.01, **memory))


async def heard(walk: Any, kind: int) -> pb.Notice:
    while (notice := await walk.next("notice")).kind != kind:
        pass
    assert isinstance(notice, pb.Notice)
    return notice


async def test_a_session_pauses_while_too_much_is_not_kept_and_goes_on():
    weak = Weak(1 << 28, 1 << 26)
    async with generating(weak, live(most_unkept=2)) as caller:
        async with caller.walk((await caller.open(lockstep=False)).session) as walk:
            await walk.step()
            weak.faults = Faults(refused=1.0)
            for _ in range(4):
                await walk.move()
            notice = await heard(walk, pb.NOTICE_KIND_PAUSED)
            assert (notice.chunk, "2 chunks" in notice.text) == (3, True)
            assert sum(each.HasField("drawn") for each in walk.told) == 3, "pictures do not wait for the store"
            weak.faults = Faults()
            await heard(walk, pb.NOTICE_KIND_RESUMED)
            assert [(await walk.next("drawn")).key.index for _ in range(2)] == [3, 4]
            while max(each.remembered.end for each in walk.told) < 5:
                await walk.hear()


async def test_a_change_of_the_level_is_told():
    weak = Weak(1 << 28, 1 << 26)
    async with generating(weak) as caller, caller.walk((await caller.open()).session) as walk:
        await walk.step()
        while (told := await walk.next("remembered")).end < 1:
            pass
        assert told.level == chunk_pb2.LEVEL_TWO
        weak.level = Level.ONE
        await walk.step()
        assert "one" in (await heard(walk, pb.NOTICE_KIND_LEVEL_CHANGED)).text


async def test_dropped_keys_and_values_are_told():
    async with generating(config=live(queue_bytes=1)) as caller:
        async with caller.walk((await caller.open(lockstep=False)).session) as walk:
            await walk.move()
            assert (await heard(walk, pb.NOTICE_KIND_KV_DROPPED)).chunk == 0
            assert (await walk.step()).counts.kv_dropped >= 1


async def test_a_chunk_says_how_like_its_view_what_was_recalled_is():
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        drawn = (await walk.steps(6))[-1]
    assert len(drawn.recalled) > 0
    for each in drawn.recalled:  # all turn on one spot, 20 degrees a frame
        turns = [20 * (3 * (drawn.key.index - each.key.index) + frame) for frame in range(-2, 3)]
        nearest = min(min(turn % 360, -turn % 360) for turn in turns)
        assert (each.distance, each.angle) == pytest.approx((0, nearest), abs=1e-3)
        assert 0 <= each.overlap <= 1


async def test_a_chunk_says_where_its_time_went_and_what_its_memory_takes():
    spec = toy_spec()
    async with generating() as caller, caller.walk((await caller.open()).session) as walk:
        drawn = await walk.steps(6)
        memory = caller.made.live.find("default", walk.session).resident.memory
        assert memory.kv_bytes == drawn[-1].held.stored
    for each in drawn:
        parts = [getattr(each.spent, field.name) for field in each.spent.DESCRIPTOR.fields]
        assert min(parts) >= 0
        assert sum(parts) <= each.seconds
        assert each.spent.draw > 0
        assert each.spent.lookup + each.spent.fetch + each.spent.decode == pytest.approx(each.recall_seconds)
        assert each.mode == pb.MEMORY_MODE_WORLDKV
    row = spec.raw_bytes * 4  # sink, two recalled, recent
    assert [each.held.window - row for each in drawn[:3]] == [spec.raw_bytes, 2 * spec.raw_bytes, 2 * spec.raw_bytes]
    assert drawn[0].held.stored < drawn[-1].held.stored
    assert drawn[-1].held.hot > 0


async def test_what_was_wanted_and_is_gone_is_named_with_its_reason():
    tiers = inside()
    async with generating(tiers, replace(CONFIG, memory=replace(CONFIG.memory, hot_bytes=0))) as caller:
        async with caller.walk((await caller.open()).session) as walk:
            keys = [wire.chunk_of(each.key) for each in await walk.steps(6)]
            await tiers("default").store.delete([PartKey(key, "kv") for key in keys])
            drawn = await walk.step()
    again = {wire.chunk_of(each.key) for each in drawn.recalled if each.reencoded}
    gone = {wire.chunk_of(each.key): each.reason for each in drawn.missed}
    assert len(again) == 1, "one a step is made again"
    assert set(gone.values()) == {chunk_pb2.MISS_REASON_EVICTED}
    assert again.isdisjoint(gone)
    assert drawn.left_out == 0


async def test_chunks_that_are_demoted_are_named():
    config = replace(CONFIG, memory=replace(CONFIG.memory, budget_bytes=20_000))
    async with generating(config=config) as caller, caller.walk((await caller.open()).session) as walk:
        drawn = await walk.steps(12)
        memory = caller.made.live.find("default", walk.session).resident.memory
        named = [each.index for one in drawn for each in one.demoted]
        assert memory.stats.demoted == len(named) > 0
        assert 0 not in named, "the first chunk stays"
        assert all(each.held.stored <= 20_000 for each in drawn)


async def test_an_index_that_does_not_answer_is_told_and_does_not_stop_a_walk():
    weak = Weak(1 << 28, 1 << 26)
    async with generating(weak) as caller, caller.walk((await caller.open()).session) as walk:
        await walk.steps(4)
        weak.index_down = True
        await walk.move()
        assert (await heard(walk, pb.NOTICE_KIND_RECALL_DOWN)).chunk == 4
        assert (await walk.next("drawn")).recalled == []
        assert (await walk.step()).counts.unanswered == 2
        weak.index_down = False
        await walk.move()
        assert (await heard(walk, pb.NOTICE_KIND_RECALL_UP)).chunk == 6
        assert len((await walk.next("drawn")).recalled) > 0


async def test_a_store_that_refuses_in_lockstep_ends_the_stream_and_draws_the_move_when_it_is_back():
    weak = Weak(1 << 28, 1 << 26)
    async with generating(weak) as caller:
        session = (await caller.open()).session
        async with caller.walk(session) as walk:
            await walk.step(number=1)
            weak.faults = Faults(refused=1.0)
            await walk.move(number=2)
            with pytest.raises(Unavailable):
                await walk.ended()
        weak.faults = Faults()
        async with caller.walk(session, seen=1) as walk:
            drawn = await walk.step(number=2)
            assert (drawn.key.index, drawn.number) == (1, 2)


async def soaked(tiers: Inside, commands: int) -> list[Seen]:
    """What two tenants see that give so many commands at random, each."""
    async with generating(tiers) as caller:

        async def generators() -> list[str]:
            return [caller.address]

        kept = [Kept(tenant, tiers(tenant).store, tiers(tenant).worlds) for tenant in ("one", "other")]
        ways = Ways(scene="", lockstep=True, least=Level.ONE)
        made = machines([caller.address], kept, generators, 1, ways)
        return [await each.run(lambda number: number < commands) for each in made]


@pytest.mark.slow
async def test_sessions_are_shown_nothing_but_their_own_worlds_and_all_that_is_kept():
    seen = await soaked(inside(), 20)
    assert sum(each.recalled for each in seen) > 20
    assert sum(each.read for each in seen) > 50
    assert [each.broken for each in seen] == [[], []]


class Mixed(Inside):
    """Tiers whose index answers everybody as it would answer whoever came first: a defect on purpose."""

    def __init__(self) -> None:
        super().__init__(1 << 28, 1 << 26)
        self.indices: dict[str, ScanIndex] = {}
        self.first: dict[str, Lineage] = {}

    def __call__(self, tenant: str) -> Tier:
        index = self.indices.setdefault(tenant, ScanIndex())

        def finder(lineage: Lineage, *_: object) -> Finder:
            return LocalFinder(index, make_selector("pose"), self.first.setdefault(tenant, lineage))

        return replace(super().__call__(tenant), finder=finder)


@pytest.mark.slow
async def test_a_stray_does_not_go_unseen():
    assert any(each.strays and each.broken for each in await soaked(Mixed(), 20))
