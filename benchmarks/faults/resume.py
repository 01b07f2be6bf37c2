"""What a walk loses whose generator is killed, and which goes on elsewhere from its last kept chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import fmean

from benchmarks.faults.wanderer import Step, Wanderer, home_of, mean_psnr
from benchmarks.registry import Case, bench
from services.generator.processes import Process, free_addresses, service
from worldkv.client import WalkClient
from worldkv.client.walk_events import NoticeKind
from worldkv.errors import Unavailable

SEEDS = range(5)
BEFORE, AFTER = 24, 24
"""Chunks drawn before the kill, and after it."""


class Generators:
    """Two generators over one tier, behind a gateway; one that is killed can be started again where it was."""

    def __init__(self, stack: ExitStack) -> None:
        tier = service({}, shards=1, generators=0, gateways=0)
        made = stack.enter_context(tier)
        self._settings = {"STORE__SHARDS": made.shards[0], "INDEX__REPLICAS": made.replica, "THREADS": "1"}
        self._stack = stack
        self.addresses = free_addresses(2)
        self._processes: dict[str, Process] = {}
        for address in self.addresses:
            self._processes[address] = self._start(address)
        for process in self._processes.values():
            process.address()
        door = {"GENERATORS": ",".join(self.addresses), "WEB__ADDRESS": ""}
        self.address = stack.enter_context(Process("gateway", door)).address()

    def kill(self, address: str) -> None:
        """End it at once."""
        self._processes[address].running.kill()
        self._processes[address].running.wait()

    def start(self, address: str) -> None:
        """Start it again; returns when it serves."""
        self._processes[address] = self._start(address)
        self._processes[address].address()

    def _start(self, address: str) -> Process:
        return self._stack.enter_context(Process("generator", {**self._settings, "SERVICE__ADDRESS": address}))


@contextmanager
def generators() -> Iterator[Generators]:
    """Two generators, ready to serve."""
    with ExitStack() as stack:
        yield Generators(stack)


@bench("gen.resume.crash", bar="<= 0.5", about="generator killed, walk continued elsewhere: revisit PSNR lost, dB")
def resume_crash() -> Iterator[Case]:
    losses, whole = list[float](), list[float]()
    with generators() as made:
        for seed in SEEDS:
            undisturbed, killed = asyncio.run(_both(made, seed))
            losses.append(undisturbed - killed)
            whole.append(undisturbed)
            yield Case(f"seed {seed}, {BEFORE} chunks, then {AFTER} elsewhere", losses[-1], "dB", undisturbed)
    yield Case(f"mean of {len(losses)} seeds", fmean(losses), "dB", fmean(whole), losses)


async def _both(made: Generators, seed: int) -> tuple[float, float]:
    """PSNR of the chunks after the kill that look again: of a walk without it, and of one with it."""
    undisturbed, _ = await _walked(made, seed, kills=False)
    killed, moved = await _walked(made, seed, kills=True)
    if not moved:
        raise Unavailable(f"the walk of seed {seed} did not move to another generator")
    return mean_psnr(undisturbed), mean_psnr(killed)


async def _walked(made: Generators, seed: int, kills: bool) -> tuple[list[Step], bool]:
    """The chunks of a walk after the middle of it, where its generator may be killed; and whether it moved."""
    async with WalkClient(made.address) as client, asyncio.TaskGroup() as group:
        walker = Wanderer(client, seed, lockstep=True, paced=False, most=BEFORE + AFTER)
        group.create_task(walker.run())
        await walker.drawn(BEFORE)
        if kills and walker.walk is not None:
            home = await home_of(walker.walk.session, made.addresses)
            made.kill(home)
    if walker.ended is not None:
        raise walker.ended
    if kills:
        made.start(home)
    moved = any(notice.kind is NoticeKind.MOVED for notice in walker.notices)
    return walker.steps[BEFORE:], moved
