"""Eight minutes of random commands by two tenants, while parts die and freeze at random: what breaks, and what leaks.

Of each kind there are two parts. The second of each is killed now and then; the first never is, so that it can be seen
whether it leaks while others come and go. Both freeze, and so does Redis, which is killed and started again too.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from time import monotonic

from benchmarks.faults.leaks import Sample, growth, held, shared_bytes, slope
from benchmarks.faults.machine import Kept, Seen, machines
from benchmarks.faults.stage import Counts, Stage, stage
from benchmarks.registry import Case, bench
from services.cluster.roster import KINDS, name_of
from worldkv.client import ClientConfig, KVClient
from worldkv.errors import Unavailable

SEED = 6
SECONDS = 480.0
SETTLED_SECONDS = 180.0
"""From when on nothing may grow."""
TENANTS = ("one", "other")
COUNTS = Counts(kvstore=2, retriever=2, generator=2, gateway=2)
CALM_SECONDS = 8.0
"""Between the end of a fault and the next one, at least; on average twice as long."""
FROZEN_SECONDS = 2.0
AWAY_SECONDS = 2.0
SAMPLE_SECONDS = 5.0
RESTING_SECONDS = 24.0
"""After minute 3 and at the end, when all sessions are closed: what is held then nobody needs. The second half of it
counts: sessions are suspended first, what they leave goes to Redis, and parts give back free memory every 5 s."""
SETTINGS = {
    "GENERATOR__LIVE__IDLE_SECONDS": "2",  # sessions are suspended all the time
    "GENERATOR__MEMORY__HOT_BYTES": str(4 << 20),
    "GENERATOR__SERVICE__DRAIN_SECONDS": "1",
}


@dataclass
class Soaked:
    """What came of a soak.

    seen     by each tenant
    faults   by name
    samples  of what processes held, and
    resting  what they held when nobody walked: after the first part of it, and at its end
    """

    seen: list[Seen] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    resting: list[Sample] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        return [words for each in self.seen for words in each.broken]

    @property
    def grown(self) -> dict[str, tuple[float, int]]:
        """Growth of what each part held when nobody walked, see `growth`."""
        return growth(self.samples[0], self.resting, SECONDS / 2)

    @property
    def words(self) -> str:
        """What was done, for people."""
        chunks, read = (sum(getattr(each, name) for each in self.seen) for name in ("chunks", "read"))
        commands = sum((each.done for each in self.seen), Counter[str]())
        return (
            f"{chunks} chunks, {commands.total()} commands, {self.faults.total()} faults, "
            f"{read} acknowledged chunks read back"
        )


@bench("soak.broken", bar="== 0", about="promises broken in an 8-minute seeded soak of commands and faults")
def broken() -> Iterator[Case]:
    found = soaked()
    yield Case(f"seed {SEED}: {found.words}", len(found.broken), "promises")


@bench("soak.leak", bar="<= 0.05", about="private memory of a soak, arena excluded, minute 3 to 8, worst process")
def leak() -> Iterator[Case]:
    if not (grown := soaked().grown):
        raise Unavailable("no part ran all the time: there is nothing to compare")
    worst = max(grown, key=lambda name: grown[name][0])
    runs = [grown[name][0] for name in sorted(grown)]
    yield Case(f"worst of {', '.join(sorted(grown))}: {worst}", grown[worst][0], "of minute 3", None, runs)


@bench("soak.slopes", bar="", about="what grows in a soak from minute 3 on: memory, files, shared memory, keys")
def slopes() -> Iterator[Case]:
    samples = [sample for sample in soaked().samples if sample.seconds >= SETTLED_SECONDS]
    for name in sorted(soaked().grown):
        there = [sample for sample in samples if name in sample.held]
        own = [sample.held[name].own_bytes / 1e6 for sample in there]
        files = [sample.held[name].files for sample in there]
        yield Case(f"{name}: private memory", slope(there, own), "MB a minute", own[0], own)
        yield Case(f"{name}: open files", slope(there, files), "a minute", files[0], files)
    shared = [sample.shared / 1e6 for sample in samples]
    yield Case("shared memory", slope(samples, shared), "MB a minute", shared[0], shared)
    answered = [sample for sample in samples if sample.keys is not None]
    keys = [sample.keys or 0 for sample in answered]
    yield Case("keys in Redis", slope(answered, keys), "a minute", keys[0], keys)


@cache
def soaked() -> Soaked:
    """The soak that all these figures are of."""
    with stage(COUNTS, SETTINGS) as made:
        return asyncio.run(soak(made, SEED, SECONDS))


async def soak(made: Stage, seed: int, seconds: float, resting: float = RESTING_SECONDS) -> Soaked:
    """Let two machines and the faults go on for so long; the same commands and faults for the same seed.

    resting  seconds after minute 3, or the half, and at the end, for which nobody walks; part of it all
    """
    await made.ready()
    found, begun = Soaked(), monotonic()

    async def generators() -> list[str]:
        parts = (await made.parts()).items()
        return [part.address for name, part in parts if name.startswith("generator") and part.address]

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                KVClient(
                    made.members,
                    ClientConfig(tenant=tenant, deadline_seconds=20.0, shared=False, landing_bytes=32 << 20),
                )
            )
            for tenant in TENANTS
        ]
        kept = [Kept(each.config.tenant, each, each.worlds) for each in clients]
        tenants = machines(made.addresses, kept, generators, seed)
        found.seen = [each.seen for each in tenants]
        rng = random.Random(seed)
        for end in (min(SETTLED_SECONDS, seconds / 2), seconds):
            left = partial(_left, begun + end - resting)
            await asyncio.gather(
                _hurt(made, rng, found, left),
                _watch(made, found.samples, begun, left),
                *(each.run(partial(_goes_on, left)) for each in tenants),
            )
            await asyncio.sleep(resting / 2)  # what was let go of is given back
            await _watch(made, found.resting, begun, partial(_left, monotonic() + resting / 2), 1.0)
    for words in found.broken:
        print(words, file=sys.stderr, flush=True)
    if found.broken:
        print(f"logs are kept in {made.keep_logs()}", file=sys.stderr, flush=True)
    print(found.words, dict(found.faults), [dict(each.excused) for each in found.seen], file=sys.stderr, flush=True)
    return found


def _goes_on(left: Callable[[], float], number: int) -> bool:
    """Whether there is another command."""
    return left() > 0


def _left(end: float) -> float:
    """Seconds until then."""
    return end - monotonic()


async def _watch(
    made: Stage, samples: list[Sample], begun: float, left: Callable[[], float], every: float = SAMPLE_SECONDS
) -> None:
    """Take samples."""
    while left() > 0:
        samples.append(
            await asyncio.to_thread(
                lambda: Sample(monotonic() - begun, held(made.pids()), shared_bytes(made.prefix), made.redis.keys())
            )
        )
        await asyncio.sleep(min(every, max(left(), 0)))


async def _hurt(made: Stage, rng: random.Random, found: Soaked, left: Callable[[], float]) -> None:
    """One fault after the other, each when all serve again."""
    while True:
        await asyncio.sleep(CALM_SECONDS * (0.5 + rng.random()))
        if left() < CALM_SECONDS:
            return
        parts = [name_of(kind, n) for kind in KINDS for n in range(1, getattr(made.counts, kind) + 1)]
        name = rng.choice([*parts, "redis", "redis"])
        kills = rng.random() < 0.5 and not name.endswith("-1")
        found.faults[f"{name} {'killed' if kills else 'frozen'}"] += 1
        if name == "redis" and kills:
            await asyncio.to_thread(made.redis.kill)
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(made.redis.start)
        elif kills:
            made.send(name, signal.SIGKILL)
        else:
            send = made.redis.send if name == "redis" else partial(made.send, name)
            send(signal.SIGSTOP)
            try:
                await asyncio.sleep(FROZEN_SECONDS)
            finally:
                send(signal.SIGCONT)
        await made.ready()
