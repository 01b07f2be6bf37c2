"""Any commands in any order against what must hold of every memory: nothing wrong is recalled, nothing kept is lost."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.remembering import SPEC, Held, Layers, Toy, down, kv_of, memory_of, part_of, query, recall, tasks, until
from tests.remembering import again as made_again
from worldkv.actions import Action
from worldkv.errors import Unavailable
from worldkv.format import Frame
from worldkv.memory import Recalled
from worldkv.store import PartKey

pytestmark = pytest.mark.slow

CHUNK = SPEC.raw_bytes
SOME = st.lists(st.integers(0, 9), max_size=4, unique=True)


class Remembering(RuleBasedStateMachine):
    """A memory over a store that fails and forgets as it is told.

    The model: how many chunks were remembered, and which of them were deleted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store, self.memory = Held(), memory_of()
        self.next, self.deleted, self.up = 0, set[int](), True

    def run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(doing)

    @initialize(
        behind=st.booleans(),
        layered=st.booleans(),
        hot=st.integers(0, 4),
        queue=st.integers(1, 4),
        prefetch=st.booleans(),
        reencode=st.booleans(),
    )
    def make(self, behind: bool, layered: bool, hot: int, queue: int, prefetch: bool, reencode: bool) -> None:
        async def made() -> Toy:
            later = {"keep_seconds": 0.0, "queue_bytes": queue * CHUNK} if behind else {}
            settings = {"hot_bytes": hot * CHUNK, "prefetch": prefetch, "reencode": reencode, "layered_bytes": 0}
            return memory_of(Layers() if layered else Held(), **settings, **later)

        self.memory = self.run(made())
        self.store = self.memory.store
        self.behind = behind

    @rule()
    def remember(self) -> None:
        index = self.next
        try:
            self.run(self.memory.remember(part_of(self.memory.lineage, index), kv_of(index)))
        except Unavailable:
            assert not self.up
            assert not self.behind
        else:
            self.next += 1

    @rule(names=SOME, spares=SOME)
    def recall(self, names: list[int], spares: list[int]) -> None:
        names = [i for i in names if i < self.next]
        spares = [i for i in spares if i < self.next and i not in names]
        there = self.run(self.there(names[: self.memory.slots]))
        before = self.memory.stats.reencoded
        found = self.run(recall(self.memory, *names, spares=spares))
        numbers = [each.hit.key.index for each in found]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= {*names, *spares}
        assert len(numbers) <= self.memory.slots
        assert set(numbers) >= there, "what is kept, or waits to be, comes"
        assert self.memory.stats.reencoded <= before + self.memory.config.reencode
        self.check(found)

    @rule(names=SOME, ticks=st.integers(0, 6))
    def recall_and_think_better_of_it(self, names: list[int], ticks: int) -> None:
        async def going() -> None:
            step = asyncio.create_task(recall(self.memory, *(i for i in names if i < self.next)))
            for _ in range(ticks):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)

        self.run(going())

    @rule(names=SOME, step=st.integers(0, 3))
    def ahead(self, names: list[int], step: int) -> None:
        async def going() -> None:
            self.memory.finder.names = [i for i in names if i < self.next]
            poses = query(27 * step).poses.repeat(3, 0)
            await self.memory.ahead(self.next + step, poses, Action(turn=9.0), (), poses, ())
            for _ in range(step):
                await asyncio.sleep(0)

        self.run(going())

    @rule(i=st.integers(0, 9))
    def evict(self, i: int) -> None:
        self.run(self.store.delete([PartKey(self.memory.lineage.key(i), "kv")]))

    @precondition(lambda self: self.next > 6)
    @rule(i=st.integers(2, 4))
    def delete(self, i: int) -> None:
        self.run(self.store.delete([PartKey(self.memory.lineage.key(i), "part")]))
        self.deleted.add(i)

    @rule()
    def fail(self) -> None:
        self.store.errors = {f"{method} {kind}": down() for method in ("get", "put") for kind in ("part", "kv")}
        self.up = False

    @rule()
    def answer_again(self) -> None:
        self.store.errors, self.up = {}, True

    @precondition(lambda self: self.up)
    @rule()
    def settle(self) -> None:
        self.run(self.memory.settle())
        assert self.memory.unkept == 0
        assert self.memory._queue.used_bytes == 0
        if not self.deleted:
            assert self.memory.kept.end == self.next

    @invariant()
    def bounds_hold(self) -> None:
        memory = self.memory
        assert memory._hot.used_bytes <= memory.config.hot_bytes
        assert memory._queue.used_bytes <= memory.config.queue_bytes
        assert memory.kept.end <= self.next
        held = {key.chunk for key in self.store._parts}
        for index in {*range(self.next)} - self.deleted:
            key = memory.lineage.key(index)
            assert key in held or memory._keeper.part(key), f"chunk {index} is lost"

    def teardown(self) -> None:
        async def ended() -> None:
            await self.memory.settle()
            await self.memory.close()
            await until(lambda: tasks() == set())

        self.answer_again()
        self.run(ended())
        self.bounds_hold()
        self.runner.close()

    async def there(self, names: list[int]) -> set[int]:
        """Which of these must come: held by the store that answers, at hand, or waiting."""
        keys = {i: self.memory.lineage.key(i) for i in names}
        kept = {i for i, key in keys.items() if self.up and isinstance(self.store._find(PartKey(key, "kv")), Frame)}
        return kept | {i for i, key in keys.items() if self.memory._holds(key)}

    def check(self, found: list[Recalled]) -> None:
        """All that was recalled is what was remembered, or says that it was made again."""
        for each in found:
            index, kv = each.hit.key.index, kv_of(each.hit.key.index)
            assert each.entry.tag in ((each.hit.key, False), (each.hit.key, True))
            if each.entry.tag == (each.hit.key, True):
                kv = made_again(part_of(self.memory.lineage, index), ())
            assert torch.equal(each.entry.kv.keys, kv.keys)
            assert torch.equal(each.entry.kv.values, kv.values)
            assert each.entry.begin == index * SPEC.frames


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
