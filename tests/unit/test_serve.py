"""Load as it is put on a service: who comes when, what a viewer sees, and what figures are made of it."""

import json
from itertools import islice
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve import report
from benchmarks.serve.arrivals import KINDS, LEAST, MIX, MOST, Visit, arrivals, parse_mix
from benchmarks.serve.run import mix_for, settings_for
from benchmarks.serve.tally import Visited, quantiles, summary
from benchmarks.serve.viewer import Played, Viewer
from services.generator.config import GeneratorConfig
from worldkv.client.walk_events import Counts, Held, Spent
from worldkv.config import load
from worldkv.errors import InvalidInput
from worldkv.store import Miss

SPENT = Spent(0.0, 0.01, 0.02, 0.03, 0.04, 0.0, 0.0, 0.0)
HELD = Held(1, 2, 3, 4)


def test_chunks_that_come_in_time_are_played_one_after_the_other():
    viewer = Viewer(playing=1.0, lead=2, begun=0.0)
    assert viewer.came(0.4) == Played(0, 0.4, 0.4, 0.0)
    assert viewer.next_due == 0.4  # for chunk 2, which is made when chunk 0 begins to be shown
    assert viewer.came(0.8) == Played(1, 0.8, 1.4, 0.0)
    assert viewer.next_due == 1.4
    played = viewer.came(2.0)  # due at 0.4, to be shown at 2.4
    assert (played.latency, played.action, played.stall) == pytest.approx((1.6, 2.0, 0.0))


def test_a_late_chunk_is_waited_for_and_moves_what_follows():
    viewer = Viewer(playing=1.0, lead=1, begun=0.0)
    viewer.came(0.5)
    played = viewer.came(3.5)  # was to be shown at 1.5
    assert (played.latency, played.action, played.stall) == (3.0, 3.0, 2.0)
    assert viewer.next_due == 3.5
    assert viewer.stalled == 2.0


def test_time_counts_from_when_a_move_was_due_however_late_it_is_sent():
    viewer = Viewer(playing=1.0, lead=1, begun=0.0)
    viewer.came(0.0)
    assert viewer.next_due == 0.0
    assert viewer.came(7.0).latency == 7.0
    assert viewer.overdue(9.0) == [2.0]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40), st.integers(1, 4), st.floats(0.1, 3))
def test_a_viewer_plays_everything_once_and_stalls_for_the_rest(gaps, lead, playing):
    viewer, now, first = Viewer(playing, lead, begun=0.0), 0.0, gaps[0]
    for gap in gaps:
        now += gap
        played = viewer.came(now)
        assert played.action >= played.latency - 1e-9
        assert played.stall >= 0
        assert viewer.waiting == lead
    end = viewer.next_due + playing
    assert end == pytest.approx(first + len(gaps) * playing + viewer.stalled)
    assert end >= now


def test_arrivals_are_drawn_once_from_their_seed():
    visits = arrivals(2.0, 500, 20, MIX, seed=3)
    assert visits == arrivals(2.0, 500, 20, MIX, seed=3)
    assert visits != arrivals(2.0, 500, 20, MIX, seed=4)
    assert [each.at for each in visits] == sorted(each.at for each in visits)
    assert 850 < len(visits) < 1150  # five deviations of a Poisson count of 1000
    assert all(0 < each.at < 500 and LEAST * 20 <= each.seconds <= MOST * 20 for each in visits)
    assert {each.kind for each in visits} == set(MIX)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_walk_goes_on_for_ever_and_the_same_by_seed(kind):
    first, again, other = (Visit(0, kind, 9, seed).actions() for seed in (1, 1, 2))
    walked = [*islice(first, 500)]
    assert walked == [*islice(again, 500)]
    assert (walked == [*islice(other, 500)]) == (kind != "wander")
    assert any(action.turn for action in walked)


def test_a_mix_is_read_as_it_is_written():
    assert parse_mix("turns=2, wander") == {"turns": 2.0, "wander": 1.0}
    assert "tours" in mix_for("pocket")
    assert "tours" not in mix_for("paced-mg2")


@pytest.mark.parametrize("words", ["", "turns=x", "flights=1", "turns=0", "turns=2,wander=-1"])
def test_a_mix_that_means_nothing_is_refused(words):
    with pytest.raises(InvalidInput):
        parse_mix(words)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"seconds": -1}, {"mean": 0}])
def test_loads_that_cannot_be_are_refused(wrong):
    with pytest.raises(InvalidInput):
        arrivals(**{"rate": 1.0, "seconds": 1.0, "mean": 1.0, "mix": MIX, "seed": 0} | wrong)


def visited(stalls: list[float], **changes: object) -> Visited:
    played = [Played(n, 0.5 + stall, 1.0 + stall, stall) for n, stall in enumerate(stalls)]
    before = Counts(recalled=10, at_hand=10, abstained=5, missed={Miss.LATE: 3})
    after = Counts(recalled=20, at_hand=18, abstained=10, missed={Miss.LATE: 5})
    found = {"first": 0.7, "played": played, "spent": [SPENT] * len(stalls), "held": HELD}
    return Visited(**{**found, "before": before, "after": after, **changes})


def test_figures_are_of_what_was_measured_alone():
    found = summary(0.5, 1.5, [visited([0.0, 0.0, 1.0, 0.0])], playing=2.0)
    assert (found.rate, found.walking, found.sessions, found.chunks) == (0.5, 1.5, 1, 4)
    assert found.attained == 0.75
    assert found.stalled == pytest.approx(60 / 8)
    assert found.split == {"lookup": 0.01, "fetch": 0.02, "decode": 0.03, "place": 0.04}
    assert (found.hit, found.abstained) == (0.8, 1 / 3)
    assert found.late == pytest.approx(2 / 12)
    assert found.held == {"window": 1, "hot": 2, "queued": 3, "stored": 4}
    assert found.first == (0.7, 0.7, 0.7)


def test_refused_and_failed_sessions_are_counted():
    visits = [Visited(refused="OverBudget"), Visited(refused="OverBudget"), visited([0.0], failed="Unavailable")]
    found = summary(1.0, 1.0, visits, playing=1.0)
    assert (found.sessions, found.refused, found.failed) == (3, {"OverBudget": 2}, {"Unavailable": 1})


def test_sessions_that_came_while_the_load_settled_say_nothing_of_beginnings():
    found = summary(1.0, 1.0, [visited([0.0], counted=False, first=99.0), visited([0.0])], playing=1.0)
    assert found.sessions == 1
    assert found.first == (0.7, 0.7, 0.7)
    assert found.chunks == 2


def test_chunks_that_never_came_make_figures_worse_and_do_not_vanish():
    fine, stuck = visited([0.0] * 9), visited([0.0] * 9, unanswered=[0.2, 40.0])
    good, bad = (summary(1.0, 1.0, [each], playing=1.0) for each in (fine, stuck))
    assert bad.chunks == good.chunks + 1  # the one of 0.2 s was not to be there yet
    assert bad.latency
    assert good.latency
    assert bad.latency[2] > 30 > good.latency[2]
    assert bad.attained == pytest.approx(0.9)
    assert good.stalled == 0
    assert bad.stalled
    assert bad.stalled > 0


def test_nothing_measured_is_no_figure():
    found = summary(1.0, 0.0, [], playing=1.0)
    assert (found.latency, found.attained, found.stalled, found.hit) == (None, None, None, None)
    assert quantiles([]) is None
    assert json.loads(report.line(found))["sessions"] == 0


def test_a_report_is_a_line_a_rate_and_a_picture(tmp_path):
    found = [summary(rate, 1.0, [visited([0.0, rate])], playing=1.0) for rate in (0.1, 0.2)]
    report.write(found, 1.0, {"model": "toy"}, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "load.jsonl").read_text().splitlines()]
    assert [each["rate"] for each in lines] == [0.1, 0.2]
    assert json.loads((tmp_path / "load.json").read_text()) == {"model": "toy"}
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert report.table(found).row_count > 15


@pytest.mark.parametrize("model", ["pocket", "paced-mg2", "paced-lingbot"])
def test_services_are_started_with_settings_that_generators_know(model):
    settings, shard_bytes = settings_for(model)
    settings |= {"STORE__SHARDS": "a:1", "INDEX__REPLICAS": "b:1"}
    config = load(GeneratorConfig, "G_", None, {f"G_{name}": value for name, value in settings.items()})
    assert config.model == model
    assert 0 < shard_bytes < inf
