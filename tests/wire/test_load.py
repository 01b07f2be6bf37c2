"""Load on a toy service: who comes, who is turned away, and that slow chunks are not missing because they are slow."""

import asyncio

import pytest

from benchmarks.serve.arrivals import KINDS, Visit, arrivals
from benchmarks.serve.tally import Visited
from benchmarks.serve.visiting import Plan, Visits, loaded, playing_seconds, probe
from tests.wire.toy_sessions import ToySessions, serving
from worldkv.client import WalkClient, WalkClientConfig

PLAYING = 0.1
CONFIG = WalkClientConfig(deadline_seconds=20, reconnect_seconds=0.0)
LONG = 1000.0


def plan(**changes: object) -> Plan:
    return Plan(**{"seconds": 1.0, "settle": 0.3, "stay": 0.3, "mix": {"turns": 1}, "warm": 1, "lead": 1, **changes})


async def visit(kind: str = "turns", lasts: float = LONG, **ways: object) -> tuple[Visited, ToySessions]:
    """One session that plays five chunks, unless all is over before."""
    toy = ToySessions(**ways)
    async with serving(toy) as address, WalkClient(address, config=CONFIG) as client:
        now = asyncio.get_running_loop().time()
        visits = Visits(plan(), now, now + lasts)
        return await visits.visit(client, Visit(0.0, kind, 5 * PLAYING, seed=1), now), toy


@pytest.mark.parametrize("kind", KINDS)
async def test_a_session_comes_walks_and_leaves(kind):
    seen, toy = await visit(kind)
    assert (seen.refused, seen.failed, seen.unanswered) == (None, None, [])
    assert [each.chunk for each in seen.played] == [1, 2, 3, 4]
    assert len(seen.spent) == 4
    assert seen.first is not None
    assert seen.after is not None
    assert seen.before is not None
    assert seen.after.recalled > seen.before.recalled
    assert toy.sittings == {}, "it was closed"


async def test_who_is_turned_away_is_counted():
    seen, _ = await visit(room=0)
    assert (seen.refused, seen.first, seen.played) == ("OverBudget", None, [])


async def test_a_session_that_breaks_is_counted():
    seen, _ = await visit(cuts=[7])
    assert seen.refused is None
    assert seen.failed is not None


async def test_who_waits_in_vain_has_waited_until_all_was_over():
    seen, _ = await visit(lasts=0.5, deaf=True)
    assert (seen.first, seen.played) == (0.5, [])


@pytest.mark.slow
async def test_slow_chunks_count_from_when_their_move_was_due():
    seen, _ = await visit(slow=0.3)
    assert all(each.latency >= 0.299 for each in seen.played)
    assert all(each.stall >= 0.299 - PLAYING for each in seen.played)


async def test_all_that_arrive_once_a_load_has_settled_are_counted():
    chosen, toy = plan(seed=2), ToySessions()
    async with serving(toy) as address, WalkClient(address, config=CONFIG) as client:
        found = await loaded(client, 8.0, chosen, PLAYING)
    whole = arrivals(8.0, chosen.settle + chosen.seconds, chosen.stay, chosen.mix, chosen.seed)
    assert found.sessions == sum(each.at >= chosen.settle for each in whole)
    assert found.refused == {}


async def test_a_probe_says_how_long_chunks_play():
    async with serving(ToySessions()) as address, WalkClient(address, config=CONFIG) as client:
        assert playing_seconds(await probe(client)) == pytest.approx(PLAYING)
