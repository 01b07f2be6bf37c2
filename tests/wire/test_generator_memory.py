"""What a walking client is told of its memory, and that nobody is shown what is not of his world."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from benchmarks.gen_soak import soak
from services.generator.tier import Inside, Tier
from tests.wire.generator import CONFIG, generating, inside
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


async def test_sessions_are_shown_nothing_but_their_own_worlds():
    async with generating(inside()) as caller:
        seen = await soak(caller.address, seed=1, rounds=60)
    assert seen.recalled > 50
    assert seen.strays == []


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


async def test_a_stray_does_not_go_unseen():
    async with generating(Mixed()) as caller:
        seen = await soak(caller.address, seed=1, rounds=40)
    assert seen.strays
