"""Memory over the wire: what it costs of a walk, how little has to be fetched, and how much of it is there in time.

Shard and replica of the index are processes of their own. Where pictures do not matter walks are recorded poses, see
`benchmarks.memory_walks`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
import torch

from benchmarks.judged import model
from benchmarks.memory_walks import Paced, Tier, memory_for, tier, walk
from benchmarks.registry import Case, bench
from benchmarks.smooth_walks import SMOOTH
from pocket.rooms import slide
from services.generator.drawing import draw, window_for
from services.generator.scenarios import SCENARIOS, Scenario, wide
from services.generator.session import Session, SessionConfig
from services.generator.walks import DEFAULT
from worldkv.actions import Action
from worldkv.chunk import ChunkKey, Lineage
from worldkv.coding import coded_bytes
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.motion import Held
from worldkv.pose import Matrix
from worldkv.prefetch import Ask, PrefetchConfig, Prefetcher
from worldkv.select import Query, make_selector
from worldkv.store import RamStore
from worldkv.window import Window

BLOCK, PAIRS = 2, 32
"""Chunks that one walk is timed over before the other's turn, and turns."""
SLOTS = (2, 4)
WIDE = range(5)
"""Seeds of wide walks."""
SEED = 1_000_000
CHUNKS, FIRST = 140, 60
"""Chunks of a smooth walk, and the first that counts: by then there is a world to look back to."""
HOT = 8
"""Chunks at hand for each slot, on smooth walks."""
PACE = 0.03
"""Seconds that drawing a chunk is taken to last, a tenth of what it does: fetches ahead have no more time than that."""


class _Walker:
    """A session that draws in a worker thread, as the service does, and is timed a block of chunks at a time."""

    def __init__(self, memory: Memory, path: Scenario) -> None:
        config = SessionConfig(seed=path.seed)
        self.session = Session(model(), config, path.start, memory, partial(slide, path.rooms))
        self.path = path
        self.window: Window | None = None

    async def block(self) -> float:
        """Latent frames a second, all that was remembered kept."""
        begin = perf_counter()
        for _ in range(BLOCK):
            await self._step()
        memory = self.session.memory
        assert memory is not None
        await memory.settle()
        return BLOCK * self.session.frames / (perf_counter() - begin)

    async def _step(self) -> None:
        session, actions = self.session, self.path.actions
        held = [actions[(session.next * session.frames + i) % len(actions)] for i in range(session.frames)]
        draft = await session.begin(held)
        self.window = window = window_for(session.model, draft.shape.sizes, self.window)
        (drawn,) = await asyncio.to_thread(draw, session.model, window, [0], [draft])
        await session.end(draft, drawn)


async def _pairs(config: MemoryConfig) -> list[tuple[float, float]]:
    """Frames a second of a walk with its memory here and of the same walk with its memory there, block by block."""
    torch.set_num_threads(1)
    spec, path = model().spec, SCENARIOS["wander"](0)
    inside = MemoryConfig(config.coding, hot_bytes=config.hot_bytes)
    async with tier() as remote:
        lineages = Lineage.begin(), Lineage.begin()
        local = LocalFinder(ScanIndex(), make_selector(DEFAULT.selector, 0), lineages[0])
        memories = (
            Memory(spec, DEFAULT.window, inside, RamStore(4 << 30), local, lineages[0]),
            Memory(spec, DEFAULT.window, config, remote.store, remote.finder(lineages[1], spec), lineages[1]),
        )
        here, there = (_Walker(memory, path) for memory in memories)
        pairs = []
        for turn in range(PAIRS + 1):
            first, second = (here, there) if turn % 2 else (there, here)
            speeds = {first: await first.block(), second: await second.block()}
            pairs.append((speeds[here], speeds[there]))
        assert memories[1].stats.fetched_bytes, "the store was needed"
        assert not memories[1].stats.missed
        for memory in memories:
            await memory.close()
    return pairs[1:]


@bench("gen.remote_fps", bar=">= 0.95", about="FPS of a walk with memory in other processes over memory in its own")
def remote_fps() -> Iterator[Case]:
    """Blocks of the two walks in turn; a hot set of twice the recalled chunks, so that the store is needed."""
    lockstep = MemoryConfig(DEFAULT.coding(model()), hot_bytes=4 * model().spec.raw_bytes)
    live = replace(lockstep, keep_seconds=1.0, recall_seconds=1.0, queue_bytes=64 << 20, prefetch=True)
    for name, config in (("live: kept behind, fetched ahead", live), ("lockstep: waits for everything", lockstep)):
        pairs = asyncio.run(_pairs(config))
        runs = [there / here for here, there in pairs]
        yield Case(name, statistics.median(runs), "ratio", statistics.median(here for here, _ in pairs), runs)


def _wide(seed: int) -> Paced:
    path = wide(seed)
    poses = np.stack([walker.pose for walker in path.walkers])
    return Paced(poses, [Action(), *path.actions], first=3, seconds=0.0)


async def _delta(slots: int, hot: int) -> list[tuple[float, float]]:
    """Recalled over fetched bytes of each wide walk; and if it were known what will be recalled."""
    size = coded_bytes(DEFAULT.coding(model()), model().spec)
    ratios = []
    async with tier() as remote:
        for seed in WIDE:
            lineage = Lineage.begin()
            memory = memory_for(remote.store, remote.finder(lineage, model().spec), lineage, slots, hot)
            steps = await walk(memory, _wide(seed))
            recalled = sum(map(len, steps)) * size
            fetches = _fewest([[key.index for key in step] for step in steps], hot, first=3)
            ratios.append((recalled / max(memory.stats.fetched_bytes, size), recalled / (max(fetches, 1) * size)))
    return ratios


def _fewest(steps: Sequence[Sequence[int]], room: int, first: int) -> int:
    """Fetches of a hot set that knows what will be recalled: it lets go of what is not needed for the longest time."""
    hot, fetches = set(range(first)), 0
    for at, step in enumerate(steps):
        fetches += len(set(step) - hot)
        hot |= {*step, first + at}
        due = {chunk: next((n for n, later in enumerate(steps[at + 1 :]) if chunk in later), CHUNKS) for chunk in hot}
        hot = set(sorted(hot, key=lambda chunk: (due[chunk], chunk))[:room])
    return fetches


def _with(slots: int, hot: int) -> Case:
    pairs = asyncio.run(_delta(slots, hot))
    runs, best = [ours for ours, _ in pairs], statistics.fmean(known for _, known in pairs)
    return Case(f"k = {slots}, {hot} chunks at hand", statistics.fmean(runs), "ratio", best, runs)


@bench("gen.delta", bar=">= 5", about="recalled over fetched bytes, wide walks; baseline: if the future were known")
def delta() -> Iterator[Case]:
    """Nothing is fetched ahead; what was drawn is at hand like what was fetched, in a hot set of twice the slots."""
    for slots in SLOTS:
        yield _with(slots, 2 * slots)


@bench("gen.delta.room", bar="", about="the same with more chunks at hand; baseline: if the future were known")
def room() -> Iterator[Case]:
    """The service keeps 64 MiB of decoded chunks at hand: 45 of the pocket model's."""
    for slots in SLOTS:
        for hot in (4 * slots, 45):
            yield _with(slots, hot)


class Standing(Prefetcher):
    """Takes every camera for one that stands still: fetches what the current view calls for."""

    def step(
        self,
        index: int,
        poses: Matrix,
        held: Held | None,
        recalled: Collection[ChunkKey],
        at_hand: Collection[ChunkKey],
        visible: Matrix,
        exclude: Collection[int],
    ) -> list[Ask]:
        self._index = -2  # what was before is forgotten
        still = np.repeat(poses[-1:], len(poses), 0)
        return super().step(index, still, None, recalled, at_hand, visible, exclude)


class Blind(Memory):
    """A memory with such a prefetcher."""

    def _prefetcher(self, lens: Query) -> Prefetcher:
        return Standing(PrefetchConfig(self.slots, lens.fov, lens.aspect, lens.view_range, 1, 0.0))


Counts = tuple[int, int, int, int]
"""Recalled anew and asked for before; recalled anew; fetched ahead and recalled; fetched ahead."""


async def _ahead(remote: Tier, kind: str, slots: int, memory_kind: type[Memory]) -> Counts:
    recorded = SMOOTH[kind](SEED, CHUNKS * 3)
    lineage = Lineage.begin()
    finder = remote.finder(lineage, model().spec)
    memory = memory_for(remote.store, finder, lineage, slots, HOT * slots, memory_kind, prefetch=True)
    await walk(memory, Paced(recorded.poses, recorded.actions, FIRST, PACE))
    stats = memory.stats.ahead
    asked = stats.used + stats.early + stats.late
    fetched = stats.requested - stats.cancelled - stats.gone - stats.failed
    return asked, asked + stats.unforeseen, asked, fetched


async def _walks(slots: int, memory_kind: type[Memory]) -> list[Counts]:
    async with tier() as remote:
        return [await _ahead(remote, kind, slots, memory_kind) for kind in SMOOTH]


def _cases(share: Callable[[Sequence[Counts]], float]) -> Iterator[Case]:
    for slots in SLOTS:
        ours, blind = (asyncio.run(_walks(slots, kind)) for kind in (Memory, Blind))
        yield Case(f"smooth walks, k = {slots}", share(ours), "share", share(blind), [share([each]) for each in ours])


@bench("gen.prefetch.hit", bar=">= 0.8", about="of chunks recalled anew, share asked for ahead; baseline: current view")
def hit() -> Iterator[Case]:
    """Anew: not recalled by the step before, and at hand for no other reason than that they were fetched ahead."""
    yield from _cases(lambda counts: sum(c[0] for c in counts) / sum(c[1] for c in counts))


@bench("gen.prefetch.waste", bar="<= 0.4", about="of chunks fetched ahead, share never used; baseline: current view")
def waste() -> Iterator[Case]:
    """Those that are still at hand when the walk ends count as never used."""
    yield from _cases(lambda counts: 1 - sum(c[2] for c in counts) / sum(c[3] for c in counts))
