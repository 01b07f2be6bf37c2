"""What processes hold while a soak goes on: memory of their own, files, shared memory, and keys in Redis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

SHARED = Path("/dev/shm")


class Held(NamedTuple):
    """What a process holds: its number, bytes that are its own alone, and open files."""

    pid: int
    own_bytes: int
    files: int


class Sample(NamedTuple):
    """What all hold at a time.

    seconds  since the soak began
    held     by each part
    shared   bytes of shared memory
    keys     in Redis; None: it did not answer
    """

    seconds: float
    held: Mapping[str, Held]
    shared: int
    keys: int | None


def held(pids: Mapping[str, int]) -> dict[str, Held]:
    """By each process that is still there."""
    found = {}
    for name, pid in pids.items():
        try:
            found[name] = Held(pid, _own_bytes(pid), len(os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            continue
    return found


def _own_bytes(pid: int) -> int:
    """Resident bytes that no other process has, shared memory left out: a shard's arena is no leak of its own."""
    total, counts = 0, True
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):  # the head of a mapping: addresses, and what is mapped
                counts = str(SHARED) not in rest
            elif counts and name in ("Private_Clean:", "Private_Dirty:"):
                total += int(rest.split()[0]) << 10
    return total


def shared_bytes(prefix: str) -> int:
    """Of all shared memory whose name begins so."""
    total = 0
    for file in SHARED.glob(f"{prefix}*"):
        try:
            total += file.stat().st_blocks * 512
        except OSError:
            continue
    return total


def growth(begin: Sample, samples: Sequence[Sample], half: float) -> dict[str, tuple[float, int]]:
    """Growth of every part's own memory over what it was at first, and that, bytes; of those that ran all the time.

    begin  taken before: who has started since then has not come to rest yet
    half   seconds: medians of the samples before and after it are compared
    """
    found = {}
    first = _held([sample for sample in samples if sample.seconds < half])
    last = _held([sample for sample in samples if sample.seconds >= half])
    for name in first.keys() & last.keys():
        pids = {each.pid for each in (*first[name], *last[name])}
        if name in begin.held and pids == {begin.held[name].pid}:
            before, after = (median(each.own_bytes for each in some) for some in (first[name], last[name]))
            found[name] = after / before - 1, int(before)
    return found


def _held(some: Sequence[Sample]) -> dict[str, list[Held]]:
    names = {name for sample in some for name in sample.held}
    return {name: [sample.held[name] for sample in some if name in sample.held] for name in names}


def slope(samples: Sequence[Sample], values: Sequence[float]) -> float:
    """Of values taken with these samples, a minute."""
    if len(values) < 2:
        return 0.0
    minutes = np.array([sample.seconds for sample in samples]) / 60
    return float(np.polyfit(minutes, np.array(values, np.float64), 1)[0])
