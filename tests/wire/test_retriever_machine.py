"""Any order of commands, on a replica that may be killed and that forgets, against an index that saw everything."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.wire.replica import Setting, Watched, keep, meta, oracle, query, retriever
from worldkv.chunk import ChunkKey, Lineage
from worldkv.errors import NotFound, Unavailable
from worldkv.rpc import DEFAULT_TENANT
from worldkv.store import PartKey
from worldkv.wire_retriever import Found, Lookup

numbers = st.integers(0, 11)
selectors = st.sampled_from(["pose", "coverage", "fov", "latest"])


class RetrieverMachine(RuleBasedStateMachine):
    """Worlds of up to 12 chunks and their forks; the store holds what the oracle knows.

    kept     chunks in the store
    deleted  chunks that were
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.stack = asyncio.new_event_loop(), AsyncExitStack()
        self.stores: dict[str, Watched] = defaultdict(Watched)
        self.made: Setting | None = None
        self.worlds = [Lineage.begin(bytes([n]) * 16) for n in range(2)]
        self.kept, self.deleted = set[ChunkKey](), set[ChunkKey]()

    def run(self, job: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(job, 60))

    @property
    def store(self) -> Watched:
        return self.stores[DEFAULT_TENANT]

    @initialize()
    def start(self) -> None:
        self.made = self.run(
            self.stack.enter_async_context(retriever(stores=self.stores, max_chunks=40, gap_seconds=0))
        )

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.stack = AsyncExitStack()
        self.start()

    @rule(down=st.booleans())
    def turn(self, down: bool) -> None:
        self.store.down = down

    @precondition(lambda self: len(self.worlds) < 5)
    @rule(data=st.data(), at=numbers)
    def fork(self, data: st.DataObject, at: int) -> None:
        lineage = data.draw(st.sampled_from(self.worlds))
        self.worlds.append(lineage.fork(at, bytes([len(self.worlds)]) * 16))

    @rule(data=st.data(), some=st.sets(numbers, max_size=5), told=st.booleans())
    def publish(self, data: st.DataObject, some: set[int], told: bool) -> None:
        lineage = data.draw(st.sampled_from(self.worlds))
        keys = [key for key in map(lineage.key, sorted(some)) if key.branch == lineage.head]
        new = [meta(key) for key in keys if key not in self.deleted]
        self.run(keep(self.store, new))
        self.kept |= {each.key for each in new}
        if told:
            assert self.run(self.made.client.add(lineage, new)) <= len(new)

    @rule(data=st.data(), some=st.sets(numbers, max_size=4), whole=st.booleans())
    def delete(self, data: st.DataObject, some: set[int], whole: bool) -> None:
        lineage = data.draw(st.sampled_from(self.worlds))
        gone = {lineage.key(n) for n in some} & self.kept
        self.run(self.store.delete([PartKey(key, "part") for key in gone]))
        self.kept -= gone
        self.deleted |= gone
        down, self.store.down = self.store.down, False
        keys = [] if whole else [lineage.key(n) for n in range(12)]
        branches = [branch for branch, _ in lineage.parts] if whole else []
        self.run(self.made.client.remove(keys, branches))
        self.store.down = down

    @rule(data=st.data(), name=selectors, exclude=st.sets(numbers, max_size=3), count=st.integers(0, 6))
    def look(self, data: st.DataObject, name: str, exclude: set[int], count: int) -> None:
        lineage = data.draw(st.sampled_from(self.worlds))
        asked = Lookup(lineage, query(count), count, 2, sorted(exclude), 12, (), name)
        known = [meta(key) for key in lineage.keys(12) if key in self.kept]
        try:
            (found,) = self.run(self.made.client.nearest([asked]))
        except Unavailable:
            assert self.store.down
            return
        except NotFound:
            assert not known
            return
        assert isinstance(found, Found)
        if found.missing == 12 - len(known):
            assert found.hits == oracle(known, asked)
        else:
            assert self.store.down, "all that the store has is found"
            assert {hit.key for hit in found.hits} <= self.kept

    @invariant()
    def counts_fit(self) -> None:
        if self.made is not None:
            holding = self.made.replica.holding
            assert holding.chunks == len(holding.index(DEFAULT_TENANT)) <= 40
            assert all(not record.calls for record in holding._records.values())
            assert not self.made.figure("failed_total", error="WorldKVError")
            assert self.made.client.counters["failures"] == 0

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()


TestRetrieverMachine = RetrieverMachine.TestCase
TestRetrieverMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
