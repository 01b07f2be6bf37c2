"""What all tests share: nothing leaves the machine, slow machines are given time, and shared memory is given back."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

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
TOGETHER = {"tests/browser/": "browser", "tests/e2e/test_cluster.py": "ray", "tests/e2e/test_nodes.py": "ray"}
"""Begins of files whose tests share what is dear to start, or take the whole machine: never two of them at once."""

_before = pytest.StashKey[set[str]]()


def _unit(nodeid: str) -> str:
    """What a test is run together with: its file, or several."""
    file = nodeid.partition("::")[0]
    return next((unit for begin, unit in TOGETHER.items() if file.startswith(begin)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In several processes at once: the tests of a unit one after the other, in one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class InUnits(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return InUnits(config, log)


SERVERS = ("browser", "e2e", "wire")
"""Folders of tests that start programs, and wait for them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first."""
    units = [*dict.fromkeys(TOGETHER.values())]

    def place(item: pytest.Item) -> tuple[int, bool]:
        unit = _unit(item.nodeid)
        return units.index(unit) if unit in units else len(units), item.path.parent.name != "e2e"

    items.sort(key=place)
    for item in items:
        # Real servers on a machine that others share: a test that fails once and never again is said, and no more.
        if item.path.parent.name in SERVERS:
            item.add_marker(pytest.mark.flaky(reruns=1))


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
