"""How much memory there is for a shard: the machine's, or its container's."""

from __future__ import annotations

from pathlib import Path

from worldkv.errors import InvalidConfig

MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a container, under either version of control groups; a machine without has none, or a word, or a huge number."""


def check_room(budget_bytes: int, meminfo: Path = MEMINFO, limits: tuple[Path, ...] = LIMITS) -> None:
    """Raise InvalidConfig for a budget that would have the kernel kill the shard while it touches its memory."""
    there = memory_bytes(meminfo, limits)
    if there is not None and budget_bytes >= there:
        raise InvalidConfig(
            f"ram.budget_bytes = {budget_bytes}: this machine, or its container, has {there} bytes of memory"
        )


def memory_bytes(meminfo: Path = MEMINFO, limits: tuple[Path, ...] = LIMITS) -> int | None:
    """All memory that this process may have; None where nobody says."""
    found = [_total(meminfo), *map(_limit, limits)]
    return min((each for each in found if each is not None), default=None)


def _total(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:")), None)


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
