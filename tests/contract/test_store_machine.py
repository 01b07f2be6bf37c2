"""Random commands to a bounded store and to plain dicts: they agree, except that the store may also miss KV."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worldkv.chunk import ChunkKey
from worldkv.errors import Conflict, OverBudget
from worldkv.format import Frame
from worldkv.store import Level, Miss, PartKey, RamStore, Store
from worldkv.store_wrappers import Faults, FaultyStore, ObservedStore

T = TypeVar("T")
BUDGET = 100
BRANCHES = [b"a" * 16, b"b" * 16]
keys = st.builds(
    PartKey, st.builds(ChunkKey, st.sampled_from(BRANCHES), st.integers(0, 4)), st.sampled_from(["part", "kv"])
)
frames = st.integers(0, 60).map(lambda n: Frame.of(bytes(n)))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a store in memory has nothing to wait for")


class StoreMachine(RuleBasedStateMachine):
    """The oracle: what was put and not deleted, which chunks were deleted, which KV was ever acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.ram = RamStore(BUDGET)
        self.store: Store = self.wrap(self.ram)
        self.held: dict[PartKey, Frame] = {}
        self.deleted: set[ChunkKey] = set()
        self.known: set[PartKey] = set()

    def wrap(self, ram: RamStore) -> Store:
        return ram

    @rule(items=st.dictionaries(keys, frames, max_size=4))
    def put(self, items: dict[PartKey, Frame]) -> None:
        before = self.contents()
        try:
            levels = run(self.store.put(items))
        except Conflict:
            assert any(key.chunk in self.deleted for key in items)
            assert self.contents() == before
            return
        except OverBudget:
            new = sum(frame.nbytes for key, frame in items.items() if key not in before)
            stays = sum(frame.nbytes for key, frame in before.items() if key.kind == "part" or key in items)
            assert new + stays > BUDGET, "room could have been made"
            assert self.contents() == before
            return
        assert not any(key.chunk in self.deleted for key in items)
        assert levels == dict.fromkeys(items, Level.ONE)
        self.held |= {key: frame for key, frame in items.items() if key not in before}
        self.known |= items.keys()
        for key in items:
            assert self.contents()[key] is self.held[key]

    @rule(asked=st.lists(keys, max_size=6))
    def get(self, asked: list[PartKey]) -> None:
        found = run(self.store.get(asked))
        assert found.keys() == set(asked)
        for key, frame in found.items():
            if key.chunk in self.deleted:
                assert frame is Miss.DELETED
            elif key not in self.known:
                assert frame is Miss.NEVER_STORED
            elif key.kind == "part":
                assert frame is self.held[key]
            else:
                assert frame is Miss.EVICTED or frame is self.held[key]

    @rule(doomed=st.lists(keys, max_size=3))
    def delete(self, doomed: list[PartKey]) -> None:
        before = self.contents()
        self.deleted |= {key.chunk for key in doomed if key.kind == "part"}
        gone = {key for key in before if key in doomed or key.chunk in self.deleted}
        assert run(self.store.delete(doomed)) == len(gone)
        assert self.contents() == {key: frame for key, frame in before.items() if key not in gone}
        for key in gone:
            del self.held[key]

    @rule(branch=st.sampled_from(BRANCHES))
    def scan(self, branch: bytes) -> None:
        async def listed() -> list[PartKey]:
            return [key async for key in self.store.scan(branch)]

        seen = run(listed())
        assert seen == sorted(seen, key=lambda key: (key.chunk.index, key.kind == "kv"))
        assert set(seen) == {key for key in self.contents() if key.chunk.branch == branch}

    @invariant()
    def stays_within_its_budget_and_whole(self) -> None:
        self.ram.check_integrity()
        assert self.ram.used_bytes == sum(frame.nbytes for frame in self.contents().values()) <= BUDGET

    @invariant()
    def never_drops_an_immutable_part(self) -> None:
        assert {k for k in self.held if k.kind == "part"} == {k for k in self.contents() if k.kind == "part"}

    def contents(self) -> dict[PartKey, Frame]:
        """What is held, looked at behind the interface: asking would change what was used last."""
        return {**self.ram._parts, **self.ram._kv}


class WrappedStoreMachine(StoreMachine):
    def wrap(self, ram: RamStore) -> Store:
        return ObservedStore(FaultyStore(ram, Faults()))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [StoreMachine, WrappedStoreMachine])
def test_random_commands_agree_with_a_dict(machine: type[StoreMachine]):
    case = machine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
    case().runTest()


def test_stores_answer_several_callers_at_a_time():
    async def walk(store: Store, branch: bytes) -> None:
        for index in range(50):
            key = PartKey(ChunkKey(branch, index), "part")
            await store.put({key: Frame.of(b"x")})
            assert isinstance((await store.get([key]))[key], Frame)

    async def together() -> RamStore:
        ram = RamStore(1000)
        await asyncio.gather(
            *(walk(FaultyStore(ram, Faults(delay_seconds=1e-4), n), bytes([n]) * 16) for n in range(8))
        )
        return ram

    ram = asyncio.run(together())
    ram.check_integrity()
    assert ram.used_bytes == 400
