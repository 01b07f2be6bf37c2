"""`worldkv retriever` against a real replica."""

import json
import subprocess
import sys

import pytest

from tests.e2e.retriever_process import replica
from tests.wire.replica import CLIENT, metas
from worldkv.chunk import Lineage
from worldkv.client import RetrieverClient, fixed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LINEAGE = Lineage.begin()


async def test_replicas_are_listed_and_those_that_do_not_answer_are_said():
    async with replica() as made, RetrieverClient(fixed(made.address), CLIENT) as client:
        await client.add(LINEAGE, metas(LINEAGE, 7))
        done = _run("--replica", made.address, "--json")
        assert done.returncode == 0, done.stderr
        (row,) = map(json.loads, done.stdout.splitlines())
        assert {name: row[name] for name in ("replica", "answers", "branches", "chunks", "rebuilt")} == {
            "replica": made.address,
            "answers": True,
            "branches": 1,
            "chunks": 7,
            "rebuilt": 0,
        }
        done = _run("--replica", f"a={made.address}", "--replica", "b=127.0.0.1:9", "--deadline", "5")
        assert (done.returncode, "do not answer: b" in done.stderr) == (1, True), done.stderr
        assert "chunks" in done.stdout


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from worldkv.cli import main; main()", "retriever", "stat", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
