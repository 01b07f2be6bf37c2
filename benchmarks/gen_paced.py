"""What memory costs a step on its critical path, with chunks as large as the real models' and a real store.

A paced model walks here; a shard of the store and a replica of the index are processes of their own. Keys and values
cross by shared memory. All that stands in the window is checked at every step, and all that was put at the end.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from benchmarks.idx_replica import replica
from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from services.generator.adapters.paced.adapter import PacedWorldModel, place_of
from services.generator.adapters.paced.shapes import SHAPES
from services.generator.engine import Engine, EngineConfig
from services.generator.session import Session, SessionConfig
from worldkv.actions import Walker, parse_path
from worldkv.chunk import ChunkKey, Lineage
from worldkv.client import ClientConfig, KVClient, RetrieverClient, RetrieverClientConfig, fixed
from worldkv.coding import Coding, decode_kv
from worldkv.format import decode_kv as read_kv
from worldkv.memory import Memory, MemoryConfig
from worldkv.store import Miss, PartKey
from worldkv.window import WindowConfig

WALKS = (
    ("paced-mg2", "round and back", "R360_3L360_3"),
    ("paced-mg2", "to and fro", "R90_3L180_3R180_3L90"),
    ("paced-mg2", "out and back", "W4_3R180W4_3R180W2"),
    ("paced-lingbot", "round and back", "R360_3L360_3"),
)
"""Models and paths that look again at what they have seen, some 28 chunks each."""
SLOTS, HOT = 6, 8
"""Chunks recalled at most, and decoded chunks at hand: those that one step recalls and two more, of 28."""
WARM = 8
"""Chunks before anything is measured: sink, recent and recalled slots are full by then."""
SELECTOR = "coverage_early"


@dataclass
class Seen:
    """What a walk waited for, from chunk `WARM` on.

    recall    share of a step that each waited for memory
    recalled, late, fetched   chunks put back, those that did not come in time, and those that came from the store
    place     share of a step that it took to write chunks into the window, on this machine's cores
    """

    recall: list[float] = field(default_factory=list)
    place: list[float] = field(default_factory=list)
    recalled: int = 0
    late: int = 0
    fetched: int = 0

    @property
    def words(self) -> str:
        """How much of it needed the store."""
        share = self.fetched / max(self.recalled, 1)
        return f"{len(self.recall)} steps recall {self.recalled} chunks, {share:.2f} from the store each"


@bench(
    "gen.paced.recall", bar="<= 0.05", about="waiting for memory over the step, mean; baseline: nothing fetched ahead"
)
def recall() -> Iterator[Case]:
    yield from _cases(lambda seen: statistics.fmean(seen.recall), lambda seen: seen.recall)


@bench("gen.paced.p95", bar="<= 0.15", about="the same, 95th percentile; baseline: nothing fetched ahead")
def p95() -> Iterator[Case]:
    yield from _cases(lambda seen: float(np.quantile(seen.recall, 0.95)), lambda seen: seen.recall)


@bench(
    "gen.paced.late", bar="<= 0.01", about="share of wanted chunks that came too late; baseline: nothing fetched ahead"
)
def late() -> Iterator[Case]:
    yield from _cases(lambda seen: seen.late / max(seen.recalled + seen.late, 1), lambda seen: [])


@bench("gen.paced.place", bar="", about="writing chunks into the window over the step, mean, on cores without a device")
def place() -> Iterator[Case]:
    yield from _cases(lambda seen: statistics.fmean(seen.place), lambda seen: seen.place)


def _cases(value: Callable[[Seen], float], runs: Callable[[Seen], Sequence[float]]) -> Iterator[Case]:
    for name, kind, path in WALKS:
        ahead, plain = _walked(name, path, True), _walked(name, path, False)
        yield Case(f"{name}, {kind}: {ahead.words}", value(ahead), "ratio", value(plain), runs(ahead))


@cache
def _walked(name: str, path: str, ahead: bool) -> Seen:
    return asyncio.run(walk(PacedWorldModel(SHAPES[name]), path, ahead))


async def walk(model: PacedWorldModel, path: str, ahead: bool) -> Seen:
    """Walk a path in a world of its own. `ahead`: chunks are fetched before they are needed."""
    spec, frames, actions = model.spec, model.spec.frames, parse_path(path)
    size, steps = spec.raw_bytes, len(actions) // frames
    lineage, seen, places = Lineage.begin(), Seen(), dict[ChunkKey, int]()
    window = WindowConfig(recalled=SLOTS * frames)
    # Deadlines are the service's, by a chunk that plays as long as it takes to draw.
    config = MemoryConfig(
        Coding("raw", "raw"),
        hot_bytes=HOT * size,
        recall_seconds=0.25,
        keep_seconds=model.shape.step_seconds / 2,
        queue_bytes=3 * size,
        prefetch=ahead,
    )
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(shard((steps + 1) * (size + (2 << 20))))
        found = await stack.enter_async_context(replica(address, "services.retriever"))
        room = ClientConfig(staging_bytes=size + (64 << 20), landing_bytes=2 * size)
        store = await stack.enter_async_context(KVClient(fixed(address), room))
        finders = await stack.enter_async_context(RetrieverClient(fixed(found), RetrieverClientConfig()))
        engine = await stack.enter_async_context(Engine(model, EngineConfig(batch=1, rows=1)))
        finder = finders.finder(lineage, SELECTOR, spec=spec.digest)
        memory = Memory(spec, window, config, store, finder, lineage)
        session = Session(model, SessionConfig(window=window, context="alone"), Walker(0, 0), memory)
        engine.admit("walk", session.config, config.coding)
        stats = memory.stats
        for index in range(steps):
            if index == WARM:
                before = (stats.recalled, stats.missed[Miss.LATE], stats.fetched_bytes)
            draft = await session.begin(actions[index * frames : (index + 1) * frames])
            drawn = await engine.draw("walk", draft, 0)
            await session.end(draft, drawn)
            places[lineage.key(index)] = place_of(drawn.latents)
            if index >= WARM:
                seen.recall.append(draft.recall_seconds / model.shape.step_seconds)
                seen.place.append(drawn.window_seconds / model.shape.step_seconds)
        seen.recalled, seen.late = stats.recalled - before[0], stats.missed[Miss.LATE] - before[1]
        seen.fetched = (stats.fetched_bytes - before[2]) // size
        await memory.settle()
        await memory.close()
        there = [await _right(store, model, key, begin) for key, begin in places.items()]
        assert len(there) - sum(there) <= stats.dropped, f"{stats.dropped} chunks found no room to wait in: {there}"
    return seen


async def _right(store: KVClient, model: PacedWorldModel, key: ChunkKey, begin: int) -> bool:
    """Whether what was put is there; if it is, all of its bytes are."""
    frame = (await store.get([PartKey(key, "kv")]))[PartKey(key, "kv")]
    if isinstance(frame, Miss):
        return False
    _, _, part = await asyncio.to_thread(read_kv, frame)
    assert model.well.holds(decode_kv(part, model.spec), begin), f"{key} is not what was put"
    return True
