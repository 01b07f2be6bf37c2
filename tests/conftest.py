"""What all tests share: nothing leaves the machine, slow machines are given time, and shared memory is given back."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports Ray: it neither reports home nor writes a token into the home directory.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

settings.register_profile("worldkv", deadline=None, print_blob=True)
settings.register_profile("long", settings.get_profile("worldkv"), max_examples=2000)  # see tests/fuzz.py
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "worldkv"))

LINGER = 15.0
"""Seconds that memory of a killed process may stay: somebody else's tests may just be about to start it again."""


@pytest.fixture(scope="session", autouse=True)
def _shared_memory_is_given_back() -> Iterator[None]:
    """No test leaves a segment behind whose process is gone."""
    before = _ownerless()
    yield
    end = time.monotonic() + LINGER
    while (left := _ownerless() - before) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, f"left in /dev/shm: {', '.join(sorted(left))}"


def _ownerless() -> set[str]:
    """Segments of ours that no process holds."""
    found = set()
    for path in Path("/dev/shm").glob("worldkv*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found.add(path.name)
    return found
