"""What a memory does when the store or the index fails: the walk goes on, poorer, and says so."""

from collections.abc import Collection, Mapping

import pytest
import torch

from services.generator.session import Session, SessionConfig
from tests.toys import toy_model
from worldkv.actions import Action, Walker
from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.coding import Coding
from worldkv.errors import DeadlineExceeded, OverBudget, Unavailable, WorldKVError
from worldkv.finder import LocalFinder
from worldkv.format import Frame
from worldkv.index import Hit, ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import Pose, Query
from worldkv.store import Level, PartKey, RamStore, Store
from worldkv.store_wrappers import Faults, FaultyStore
from worldkv.window import WindowConfig

TURN = Action(turn=20.0)


class Moody:
    """A finder that does not answer while it has an `error`."""

    def __init__(self, inner: LocalFinder) -> None:
        self.inner, self.error = inner, None

    async def add(self, meta: Meta, kept: bool = True) -> None:
        await self.inner.add(meta, kept)

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        self._complain()
        return await self.inner.nearest(query, k, exclude, spares)

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        self._complain()
        return await self.inner.least_useful(count, view_range, protect, exclude)

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        self._complain()
        await self.inner.remove(keys)

    def _complain(self) -> None:
        if self.error:
            raise self.error


class Closed(RamStore):
    """A store that takes no keys and values."""

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        if any(key.kind == "kv" for key in items):
            raise OverBudget("no room, on purpose")
        return await super().put(items)


def session_of(store: Store | None = None, **config: object) -> Session:
    model, lineage = toy_model(), Lineage.begin()
    finder = Moody(LocalFinder(ScanIndex(), Pose(), lineage))
    settings = MemoryConfig(coding=Coding("raw", "raw"), **config)
    memory = Memory(model.spec, WindowConfig(), settings, store or RamStore(1 << 30), finder, lineage)
    return Session(model, SessionConfig(seed=3), Walker(6.0, 6.0), memory)


async def pictures_of(session: Session, chunks: int) -> torch.Tensor:
    return torch.cat([(await session.step(TURN)).pictures for _ in range(chunks)])


@pytest.mark.parametrize("error", [Unavailable("down"), DeadlineExceeded("slow")])
async def test_a_walk_goes_on_without_recall_while_the_index_does_not_answer(error: WorldKVError) -> None:
    session = session_of()
    await pictures_of(session, 6)
    session.memory.finder.error = error
    steps = [await session.step(TURN) for _ in range(3)]
    assert [step.recalled for step in steps] == [()] * 3
    assert session.memory.stats.unanswered == 3
    session.memory.finder.error = None
    known = {r.hit.key.index for _ in range(2) for r in (await session.step(TURN)).recalled}
    assert known, "what was added meanwhile is found again"


async def test_keys_and_values_that_the_store_does_not_take_are_dropped_and_made_again() -> None:
    session = session_of(Closed(1 << 30), hot_bytes=0)
    steps = [await session.step(TURN) for _ in range(8)]
    stats = session.memory.stats
    assert stats.dropped >= 8
    assert stats.reencoded
    assert any(step.recalled for step in steps)
    assert session.memory.kv_bytes == 0


async def test_a_chunk_whose_immutable_part_the_store_refuses_ends_the_step() -> None:
    session = session_of(FaultyStore(RamStore(1 << 30), Faults(refused=1.0)))
    with pytest.raises(Unavailable):
        await session.step(TURN)


async def test_a_walk_goes_on_without_recall_while_the_store_does_not_answer() -> None:
    store = FaultyStore(RamStore(1 << 30), Faults())
    session = session_of(store, hot_bytes=0)
    await pictures_of(session, 6)
    store.faults = Faults(refused=1.0)
    query = Query(session.walker.pose[None], 1.0, 0.75, 8.0)
    assert await session.memory.recall(query, (), session._reencode) == []
    assert session.memory.stats.missed
    store.faults = Faults()
    assert (await session.step(TURN)).recalled


async def test_a_budget_waits_for_the_index() -> None:
    session = session_of(budget_bytes=3 * toy_model().spec.raw_bytes)
    session.memory.finder.error = Unavailable("down")
    await pictures_of(session, 6)
    assert session.memory.kv_bytes > session.memory.config.budget_bytes
    session.memory.finder.error = None
    await pictures_of(session, 1)
    assert session.memory.kv_bytes <= session.memory.config.budget_bytes


async def test_a_chunk_that_was_deleted_is_forgotten_by_the_index() -> None:
    session = session_of(hot_bytes=0)
    await pictures_of(session, 6)
    index = session.memory.finder.inner.index
    before = len(index)
    await session.memory.store.delete([PartKey(session.lineage.key(i), "part") for i in (1, 2, 3)])
    await pictures_of(session, 4)
    assert len(index) == before + 4 - 3


async def test_a_chunk_that_is_made_again_is_charged_for_once() -> None:
    session = session_of(budget_bytes=6 * toy_model().spec.raw_bytes, hot_bytes=0)
    memory = session.memory
    await pictures_of(session, 6)
    for _ in range(6):
        held = [PartKey(session.lineage.key(i), "kv") for i in range(session.next)]
        await memory.store.delete(held)
        await pictures_of(session, 1)
        assert memory.kv_bytes == sum(memory._budget._sizes.values())
    assert memory.stats.reencoded >= 6


async def test_a_fork_is_charged_for_its_own_chunks_and_demotes_no_others() -> None:
    parent = session_of()
    await pictures_of(parent, 6)
    lineage = parent.lineage.fork(6)
    store, index = parent.memory.store, parent.memory.finder.inner.index
    raw = toy_model().spec.raw_bytes
    finder = Moody(LocalFinder(index, Pose(), lineage))
    settings = MemoryConfig(coding=Coding("raw", "raw"), budget_bytes=3 * raw)
    memory = Memory(toy_model().spec, WindowConfig(), settings, store, finder, lineage)
    child = Session(toy_model(), SessionConfig(seed=4), Walker(6.0, 6.0), memory)
    child.next = 6
    await store.delete([PartKey(lineage.key(2), "kv")])
    await pictures_of(child, 6)
    assert memory.kv_bytes <= 3 * raw
    kept = await store.get([PartKey(lineage.key(i), "kv") for i in (0, 1, 3, 4, 5)])
    assert all(isinstance(each, Frame) for each in kept.values()), "what the parent wrote is the parent's"
