"""What a world that is larger than the memory it lives in shows of what was seen, against one with room for everything.

The generator keeps a tenth of the world's decoded chunks at hand, a shard in a process of its own a third of its bytes.
The rest is had from Redis, or made again from latents.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache

from benchmarks.faults.redis import redis_server
from benchmarks.judged import model
from benchmarks.kv_shard import shard
from benchmarks.registry import Case, bench
from services.generator.metrics import score
from services.generator.recording import Recording
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.walks import BASELINE_GAP, DEFAULT, run_walk, walk_with
from worldkv.chunk import Lineage
from worldkv.client import ClientConfig, KVClient, fixed
from worldkv.coding import coded_bytes
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import make_selector

KINDS = ("wide", "wander")
SEEDS = range(2)
TENTH, THIRD = 10, 3
"""How many times a world is larger than what the generator keeps at hand, and than a shard's memory."""
LANDING = 64 << 20
PART_BYTES = 4096
"""Of an immutable part beside its latents, at most."""


@bench("gen.beyond", bar="<= 0.2", about="revisit PSNR lost by worlds beyond all memory, dB; baseline: without bounds")
def beyond() -> Iterator[Case]:
    for redis in (True, False):
        for kind in KINDS:
            walks = [SCENARIOS[kind](seed) for seed in SEEDS]
            bounded = [asyncio.run(_walk(walk, redis)) for walk in walks]
            free = [_free(kind, seed) for seed in SEEDS]
            lost = [best - psnr for best, (psnr, _) in zip(free, bounded, strict=True)]
            words = "; ".join(words for _, words in bounded)
            beneath = "Redis beneath" if redis else "latents beneath"
            yield Case(f"{kind}, {beneath}: {words}", statistics.fmean(lost), "dB", statistics.fmean(free), lost)


@cache
def _free(kind: str, seed: int) -> float:
    return _psnr(run_walk(model(), SCENARIOS[kind](seed), DEFAULT))


def _psnr(walk: Recording) -> float:
    found = score(walk, BASELINE_GAP).truth_psnr
    assert found == found, f"{walk.scenario} of seed {walk.seed} looks at nothing again"
    return found


async def _walk(scenario: Scenario, redis: bool) -> tuple[float, str]:
    """PSNR of revisits of a walk whose memory is bounded, dB; and what came of its recalls."""
    spec, coding, lineage = model().spec, DEFAULT.coding(model()), Lineage.begin()
    chunks = len(scenario.walkers) // spec.frames
    channels, height, width = spec.latent
    latents = 2 * spec.frames * channels * height * width + PART_BYTES
    kv = coded_bytes(coding, spec)
    # Latents stay where they are if there is nothing beneath: keys and values have a third of their room beside them.
    room = chunks * (latents + kv) // THIRD if redis else chunks * (latents + kv // THIRD)
    with ExitStack() as stack:
        url = {"REDIS__URL": stack.enter_context(redis_server()).url} if redis else {}
        async with (
            shard(room, **url) as address,
            KVClient(fixed(address), ClientConfig(landing_bytes=1 << 26)) as store,
        ):
            finder = LocalFinder(ScanIndex(), make_selector(DEFAULT.selector, scenario.seed), lineage)
            config = MemoryConfig(coding, hot_bytes=chunks * spec.raw_bytes // TENTH)
            memory = Memory(spec, DEFAULT.window, config, store, finder, lineage)
            recording = await walk_with(model(), scenario, DEFAULT, memory)
            stats = memory.stats
            await memory.close()
    missed = sum(stats.missed.values())
    words = f"{chunks} chunks, {stats.recalled} recalled, {stats.reencoded} made again, {missed} missed"
    return _psnr(recording), words
