"""Three nodes of a Ray cluster that share no memory: who runs where, and what becomes of walks when a node dies."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.rows import ROWS
from benchmarks.faults.run import BEFORE, outcome
from benchmarks.faults.soak import soak
from benchmarks.faults.stage import NODES, PATIENCE, Counts, Stage, stage
from benchmarks.faults.wanderer import Wanderer
from benchmarks.registry import Skipped
from worldkv.client import WalkClient
from worldkv.v1 import fleet_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.redis, pytest.mark.timeout(600)]

SETTINGS = {
    "GENERATOR__MEMORY__HOT_BYTES": "0",
    "GENERATOR__LIVE__IDLE_SECONDS": "2",
    "GENERATOR__SERVICE__DRAIN_SECONDS": "1",
}
SOAK_SECONDS = 8.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stage]:
    try:
        with stage(Counts(), SETTINGS) as made:
            asyncio.run(made.ready())
            yield made
    except Skipped as why:
        pytest.skip(str(why))


def arenas(pid: int) -> set[str]:
    """Names of the arenas that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.rpartition("/")[2].removesuffix(" (deleted)") for line in lines if "-arena-" in line}


def test_generators_stand_where_gpus_are_declared_and_who_looks_after_all_on_the_head(cluster):
    places = {name: cluster.node_of(name) for name in cluster.pids()}
    assert places["supervisor"] == places["gateway-1"] == ""
    assert {places[f"{kind}-{n}"] for kind in ("generator", "kvstore") for n in (1, 2)} <= set(NODES)


async def walk(cluster: Stage) -> None:
    async with WalkClient(cluster.address) as client:
        walks = [Wanderer(client, seed, paced=False, most=BEFORE) for seed in range(2)]
        await asyncio.gather(*(each.run() for each in walks))
    assert [each.ended for each in walks] == [None, None]
    assert any(step.recalls for each in walks for step in each.steps)


def test_nodes_share_no_memory_and_parts_of_one_node_do(cluster):
    asyncio.run(walk(cluster))
    pids = cluster.pids()
    nodes = {name: cluster.node_of(name) for name in pids}
    shards = {name: arenas(pids[name]) for name in pids if name.startswith("kvstore")}
    assert all(len(own) == 1 for own in shards.values())
    for name in ("generator-1", "generator-2"):
        near = set().union(*(own for shard, own in shards.items() if nodes[shard] == nodes[name]))
        assert arenas(pids[name]) <= near


def test_whatever_happens_for_a_while_no_promise_is_broken(cluster):
    found = asyncio.run(soak(cluster, 1, SOAK_SECONDS, resting=0.0))
    assert found.broken == []
    assert all(each.chunks and each.read for each in found.seen)


def test_walks_outlive_a_node_that_dies_with_all_that_runs_on_it(cluster):
    (row,) = (row for row in ROWS if row.name == "node killed")
    dead = cluster.node_of("retriever-1")
    found = asyncio.run(outcome(cluster, row, patience=PATIENCE))
    assert (found.lost, found.ended) == ((), ())
    assert found.kept > 2 * BEFORE
    assert found.seconds < PATIENCE, "recall came back"
    parts = asyncio.run(cluster.parts())
    assert {part.state for part in parts.values()} == {pb.PART_STATE_READY}
    assert parts["retriever-1"].restarts
    assert dead not in {cluster.node_of(name) for name in cluster.pids()}
