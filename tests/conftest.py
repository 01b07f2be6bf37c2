"""What all tests share: nothing leaves the machine, and slow machines are given time."""

import os

from hypothesis import settings

# Before anything imports Ray: it neither reports home nor writes a token into the home directory.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

settings.register_profile("worldkv", deadline=None, print_blob=True)
settings.load_profile("worldkv")
