"""Walks, a chunk after the other, and what each took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from resource import getpagesize
from time import perf_counter
from typing import NamedTuple

import torch

from benchmarks.drawer import Drawer
from benchmarks.shape.bank import WAITING, memory_of
from benchmarks.shape.plan import Plan
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.session import Mode, Session
from services.generator.step import HeldBytes, Seconds
from worldkv.actions import Action, Walker, parse_path
from worldkv.memory import Memory

PATH = "R90_3L180_3R180_3L90_3"
"""To and fro, for ever: what is looked at was seen before, and has left the window."""
PICTURES = 4
"""Of a latent frame. A world's first frame gives one alone, and counts as four all the same."""


class Row(NamedTuple):
    """What a chunk took.

    chunk    its number, from 1
    seconds  from the chunk before it to this one
    spent    of these, by what for
    behind   of these, waiting so that what is to be stored does not pile up
    held     bytes of keys and values
    placed   bytes of keys and values written into the window
    device   most bytes that were allocated on it meanwhile; without one, what the process holds afterwards
    recalled  chunks put back
    """

    chunk: int
    seconds: float
    spent: Seconds
    behind: float
    held: HeldBytes
    placed: int
    device: int
    recalled: int

    def flat(self) -> dict[str, float]:
        """The same by name, with the names of the parts of `spent` and `held` in place of these."""
        flat: dict[str, float] = {}
        for name, value in self._asdict().items():
            flat |= value._asdict() if isinstance(value, Seconds | HeldBytes) else {name: value}
        return flat


@dataclass(frozen=True)
class Walked:
    """A walk.

    trouble  why it ended before its last chunk, or what was lost on it; empty: all went well
    """

    mode: Mode
    rows: tuple[Row, ...]
    trouble: str = ""


async def walk(
    plan: Plan, model: WanWorldModel, modes: Sequence[Mode], told: Callable[[Mode, Row], object]
) -> list[Walked]:
    """Walk in these modes, taking turns chunk by chunk, each as far as the plan says or the device has room.

    told  is told of every chunk
    """
    async with AsyncExitStack() as stack:
        walkers = []
        for mode in modes:
            memory = await stack.enter_async_context(memory_of(plan, model.spec)) if mode == "worldkv" else None
            walkers.append(_Walker(plan, Session(model, plan.session(mode), Walker(0, 0), memory)))
        for actions in islice(_chunks(model.spec.frames), plan.chunks):
            for mode, walker in zip(modes, walkers, strict=True):
                if await walker.walk(actions):
                    told(mode, walker.rows[-1])
        return [Walked(mode, tuple(each.rows), each.trouble) for mode, each in zip(modes, walkers, strict=True)]


class _Walker:
    """Walks a session as far as it gets."""

    def __init__(self, plan: Plan, session: Session) -> None:
        self.session, self._cuda = session, torch.device(plan.device).type == "cuda"
        self._drawer = Drawer(session)
        spec = session.model.spec
        self._token_bytes = spec.raw_bytes // (spec.frames * spec.frame_tokens)
        self.rows: list[Row] = []
        self._ended = ""

    @property
    def trouble(self) -> str:
        """See `Walked`."""
        memory = self.session.memory
        lost = memory.stats.dropped if memory else 0
        return self._ended or (f"{lost} chunks were not stored, and could not be recalled" if lost else "")

    async def walk(self, actions: list[Action]) -> bool:
        """Add the next chunk; False if the walk has ended."""
        if not self._ended:
            try:
                self.rows.append(await self._step(actions))
            except torch.OutOfMemoryError as error:
                self._ended = f"no room on the device for chunk {len(self.rows) + 1}: {error}"
        return not self._ended

    async def _step(self, actions: list[Action]) -> Row:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        began = perf_counter()
        step = await self._drawer.step(actions)
        behind = await self._room(self.session.memory)
        placed = self._drawer.placed_tokens * self._token_bytes
        device = torch.cuda.max_memory_allocated() if self._cuda else _resident_bytes()
        seconds, recalled = perf_counter() - began, len(step.recalled)
        return Row(step.index + 1, seconds, step.seconds, behind, step.held, placed, device, recalled)

    async def _room(self, memory: Memory | None) -> float:
        """Wait until the chunk that is drawn next can wait to be stored; the seconds that this took."""
        began, most, moved = perf_counter(), (WAITING - 1) * self.session.model.spec.raw_bytes, asyncio.Event()
        if memory:
            memory.listener = moved.set
        while memory and memory.queued_bytes > most:
            moved.clear()
            await moved.wait()
        return perf_counter() - began


def _chunks(frames: int) -> Iterator[list[Action]]:
    """Actions of one chunk after the other."""
    actions = cycle(parse_path(PATH))
    while True:
        yield list(islice(actions, frames))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
