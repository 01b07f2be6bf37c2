"""Chunks that a step asks for, as far as they come in time, and what it waited for meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

from worldkv.chunk import ChunkKey
from worldkv.memory.fetching import Fetches, Outcome
from worldkv.memory.hot import HotSet
from worldkv.memory.source import Fetched
from worldkv.store import Miss
from worldkv.window import Entry


class Clock:
    """The moment by which a recall has to end, `seconds` from now; None: never."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @property
    def left(self) -> float | None:
        """Seconds left, from 0; None: as many as it takes."""
        return None if self.end is None else max(self.end - asyncio.get_running_loop().time(), 0)

    @property
    def over(self) -> bool:
        return self.left == 0


class Gathered(NamedTuple):
    """What came of some chunks.

    entries  those that came in time, and
    lost     why the others did not
    fetch_seconds   that were waited for bytes, and
    decode_seconds  for what had come to be decoded after that
    """

    entries: dict[ChunkKey, Entry]
    lost: dict[ChunkKey, Miss]
    fetch_seconds: float
    decode_seconds: float


@dataclass
class RecallReport:
    """How one recall went.

    missed  chunks that were named for recall and are not in the window, and why
    fetch_seconds   that it waited for bytes from the store, and
    decode_seconds  for keys and values to be decoded or made again; what is left of its time is the index's
    """

    missed: dict[ChunkKey, Miss] = field(default_factory=dict)
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0

    def note(self, gathered: Gathered) -> None:
        """Chunks were waited for."""
        self.fetch_seconds += gathered.fetch_seconds
        self.decode_seconds += gathered.decode_seconds


async def gather(keys: Sequence[ChunkKey], hot: HotSet, fetches: Fetches, clock: Clock) -> Gathered:
    """These chunks from the hot set, or fetched, as far as they come in time."""
    entries: dict[ChunkKey, Entry] = {}
    lost: dict[ChunkKey, Miss] = {}
    coming: dict[ChunkKey, asyncio.Future[Outcome]] = {}
    for key in keys:
        if (entry := hot.get(key)) is not None:
            entries[key] = entry
        else:
            coming[key] = fetches.want(key)
    if not coming:
        return Gathered(entries, lost, 0.0, 0.0)
    began = came = perf_counter()
    await asyncio.wait(coming.values(), timeout=clock.left)
    ended = perf_counter()
    for key, result in coming.items():
        outcome = result.result() if result.done() else Miss.LATE
        if isinstance(outcome, Fetched):
            entries[key], came = outcome.entry, max(came, outcome.came)
        else:
            lost[key], came = outcome, ended
    came = min(came, ended)
    return Gathered(entries, lost, came - began, ended - came)
