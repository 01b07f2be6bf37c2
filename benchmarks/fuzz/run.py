"""How many of a million fuzzed messages and files crash, hang or deceive what reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.registry import Case, bench

MESSAGES = 1_000_000
SEEDS = (1, 2)
"""Of a process each; every seed is a share of the messages."""


@bench("fuzz.crashes", bar="== 0", about="crashes, hangs or wrong data over a million fuzzed messages and files")
def crashes() -> Iterator[Case]:
    share = -(-MESSAGES // len(SEEDS))
    command = [sys.executable, "-m", "benchmarks.fuzz.feed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(seed), str(share)], env=environment, stdout=subprocess.PIPE, text=True)
        for seed in SEEDS
    ]
    messages, refused, problems = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, int](int)
    for process in processes:
        said, _ = process.communicate()
        for fed in map(json.loads, said.splitlines()):
            messages[fed["target"]] += fed["messages"]
            refused[fed["target"]] += fed["refused"]
            problems[fed["target"]] += fed["problems"]
            _tell(fed)
        if process.returncode:
            problems[f"process that ended with {process.returncode}"] += 1
    for target, count in problems.items():
        yield Case(f"{target}: {messages[target]:,} messages, {refused[target]:,} refused", count, "problems")
    yield Case(f"all: {sum(messages.values()):,} messages", sum(problems.values()), "problems")


def _tell(fed: dict[str, Any]) -> None:
    for words in fed["words"]:
        print(f"{fed['target']}: {words}", file=sys.stderr, flush=True)
