"""python -m tests.fuzz --minutes 10: feed whatever reads bytes or messages of others with more than a test run can.

Runs the property tests of these files again and again, each time from another seed, until the time is over or one
fails. A failure prints how to play it again, and stays in `.hypothesis`, where the next test run finds it.
"""

import argparse
import os
import secrets
import subprocess
import sys
from time import monotonic

FILES = (
    "tests/unit/test_format.py",
    "tests/unit/test_format_corrupt.py",
    "tests/unit/test_world_files.py",
    "tests/unit/test_chunk.py",
    "tests/wire/test_wire.py",
    "tests/wire/test_kvstore_fuzz.py",
    "tests/wire/test_redis_faults.py",
    "tests/wire/test_redis_tier.py",
)
"""What reads bytes that anybody may have written: chunks, files of worlds, messages, streams of a put, Redis."""


def main() -> int:
    """Run until the time is over; answers pytest's exit code of the last round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default 10)")
    end = monotonic() + parser.parse_args().minutes * 60
    options = ["-q", "-x", "-m", "hypothesis", "-p", "no:cacheprovider", "--timeout=3600"]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "long"}
    rounds = 0
    while monotonic() < end:
        seed, rounds = secrets.randbits(32), rounds + 1
        print(f"round {rounds}, seed {seed}, {(end - monotonic()) / 60:.1f} minutes left", flush=True)
        command = [sys.executable, "-m", "pytest", *options, f"--hypothesis-seed={seed}", *FILES]
        code = subprocess.run(command, env=environment, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
