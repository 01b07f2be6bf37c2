"""What all tests share: nothing leaves the machine, slow machines are given time, and shared memory is given back."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports Ray: it neither reports home nor writes a token into the home directory.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Before anything imports torch, here or in what is started: two tests run at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("worldkv", deadline=None, print_blob=True)
settings.register_profile("long", settings.get_profile("worldkv"), max_examples=2000)  # see tests/fuzz.py
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "worldkv"))

LINGER = 15.0
"""Seconds that memory of a killed process may stay: another process may just be about to sweep it."""
TOGETHER = ("ray",)
"""Markers whose tests share what is dear to start, or take the whole machine: never two of them at once."""
FIRST = ("browser", "e2e")
"""Folders that take longest."""

_before = pytest.StashKey[set[str]]()


@pytest.hookimpl(wrapper=True)  # outside the one that reads the groups, which wants to be first as well
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """In several processes at once: a file's tests stay together, and the long ones begin first."""
    if not hasattr(config, "workerinput"):
        yield
        return

    def place(item: pytest.Item) -> tuple[int, bool, str]:
        folder = item.path.parent.name
        group = next((mark for mark in TOGETHER if item.get_closest_marker(mark)), None)
        group = group or (folder if folder == "browser" else str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))
        return (FIRST.index(folder) if folder in FIRST else len(FIRST)), group not in TOGETHER, group

    items.sort(key=place)
    yield


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_before] = _ownerless()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """No test leaves a segment of shared memory behind whose process is gone."""
    yield
    if hasattr(session.config, "workerinput"):
        return  # others still test
    end, before = time.monotonic() + LINGER, session.config.stash[_before]
    while (left := _ownerless() - before) and time.monotonic() < end:
        time.sleep(0.1)
    if left:
        print(f"left in /dev/shm: {', '.join(sorted(left))}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _ownerless() -> set[str]:
    """Segments of ours that no process holds."""
    found = set()
    for path in Path("/dev/shm").glob("worldkv*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found.add(path.name)
    return found
