"""What holds for every selector, whatever it looks at."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.looks import ASPECT, FOV, chunk, chunks, described, look, worlds
from worldkv.pose import Matrix, camera
from worldkv.select import SELECTORS, Candidates, Query, make_selector

AGAIN = {"coverage": 0.3, "visibility": 0.3, "greedy": 0.0, "greedy_visibility": 0.0}
AGAIN |= {"coverage_early": 0.3, "coverage_late": 0.3}
"""What grows sets, and how much the score counts in it beside the gain."""
EARLY = {"coverage_early": 0.3, "coverage_late": -0.3}
"""How much more the oldest candidate's score counts than the newest's."""
BY_PLACE = ("pose", "fov", *AGAIN)
CONTROLS = ("random", "latest", "oldest", "nothing")
FILLS = ("pose", "random", "latest", "oldest")
"""What never abstains."""

every = pytest.mark.parametrize("name", SELECTORS)
few = settings(max_examples=15)  # of each selector


def moved(motion: Matrix, candidates: Candidates, query: Query) -> tuple[Candidates, Query]:
    there = Candidates.of(motion @ candidates.poses, candidates.fov, candidates.aspect, depth=candidates.depth)
    return there, look(motion @ query.poses, motion @ query.visible)


@every
@few
@given(described, st.integers(0, 6), st.integers(0, 3))
def test_choices_are_few_distinct_and_repeatable(name, drawn, k, spares):
    candidates, query = drawn
    hits = make_selector(name, 7).choose(query, candidates, k, spares)
    assert hits == make_selector(name, 7).choose(query, candidates, k, spares)
    assert len({h.row for h in hits}) == len(hits)
    assert sum(not h.spare for h in hits) <= k
    assert sum(h.spare for h in hits) <= spares
    assert [h.spare for h in hits] == sorted(h.spare for h in hits)
    assert all(0 <= h.row < len(candidates) for h in hits)
    assert hits == make_selector(name, 7).choose(query, candidates, k, spares + 4)[: len(hits)], (
        "more spares come behind"
    )


@every
@few
@given(described)
def test_scores_and_gains_are_shares_and_gains_add_up_to_one_at_most(name, drawn):
    candidates, query = drawn
    hits = make_selector(name).choose(query, candidates, 6, 3)
    assert all(-1e-9 <= h.score <= 1 + 1e-9 and h.gain >= 0 for h in hits)
    assert all(h.gain == 0 for h in hits if h.spare)
    assert sum(h.gain for h in hits) <= 1 + 1e-6
    assert all(np.isfinite([h.score, h.gain, *h.parts.values()]).all() for h in hits)


@every
@few
@given(described)
def test_the_best_come_first(name, drawn):
    candidates, query = drawn
    hits = [h for h in make_selector(name).choose(query, candidates, 8, 3) if not h.spare]
    age = (candidates.index.max() - candidates.index) / max(np.ptp(candidates.index), 1)
    liked = AGAIN.get(name, 1) + EARLY.get(name, 0) * age
    worth = [(h.gain if name in AGAIN else 0) + liked[h.row] * h.score for h in hits]
    assert all(a >= b - 1e-8 for a, b in pairwise(worth))


@every
@few
@given(described, st.integers(0, 5))
def test_more_choices_go_on_from_fewer(name, drawn, k):
    candidates, query = drawn
    few, many = (make_selector(name).choose(query, candidates, n) for n in (k, k + 3))
    assert many[: len(few)] == few
    assert len(few) == min(k, len(many))


@every
@few
@given(described)
def test_slots_without_end_take_every_candidate_that_is_worth_one(name, drawn):
    candidates, query = drawn
    rows = {h.row for h in make_selector(name).choose(query, candidates, 10**6, 10**6)}
    if name in FILLS:
        assert rows == set(range(len(candidates)))
    assert len(rows) <= len(candidates)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in ("fov", "random")])
@few
@given(described, st.randoms(use_true_random=False))
def test_what_is_chosen_does_not_depend_on_the_order_of_candidates(name, drawn, random):
    candidates, query = drawn
    rows = np.array(random.sample(range(len(candidates)), len(candidates)))
    here = make_selector(name).choose(query, candidates, 4)
    there = make_selector(name).choose(query, candidates.take(rows), 4)
    assert [h.row for h in here] == [int(rows[h.row]) for h in there]


@pytest.mark.parametrize("name", BY_PLACE)
@few
@given(worlds, st.floats(-100, 100), st.floats(-100, 100), st.floats(-180, 180), st.floats(-90, 90))
def test_scores_do_not_change_when_the_whole_world_moves(name, drawn, x, y, yaw, pitch):
    candidates, query = drawn
    here = make_selector(name).choose(query, candidates, 4)
    elsewhere, asked = moved(camera(x, y, -x, yaw, pitch), candidates, query)
    there = make_selector(name).choose(asked, elsewhere, 4)
    assert [h.row for h in here] == [h.row for h in there]
    assert [h.score for h in here] == pytest.approx([h.score for h in there], abs=1e-5)
    assert [h.gain for h in here] == pytest.approx([h.gain for h in there], abs=1e-5)


@every
def test_an_empty_world_has_nothing_to_choose_from(name):
    none = Candidates.of(np.empty((0, 3, 4, 4)), FOV, ASPECT)
    assert make_selector(name).choose(look(chunk()), none, 3, 1) == []


@every
def test_a_single_candidate_is_chosen_once(name):
    same = np.ones((1, 4), np.float32)
    only = chunks(chunk(x=0.1), descriptor=same, depth=np.full((1, 3, 6, 8), np.inf, np.float32))
    hits = make_selector(name).choose(look(chunk(), descriptor=same[0]), only, 4, 4)
    assert [(h.row, h.spare) for h in hits] == ([] if name == "nothing" else [(0, False)])


@pytest.mark.parametrize("name", ["pose", *(name for name in AGAIN if name != "coverage_late"), "fov", "attention"])
def test_of_equals_the_oldest_is_chosen(name):
    descriptor = np.array([[-1, 0], [1, 1], [1, 1], [1, 1]], np.float32)
    candidates = chunks(chunk(x=0.2, yaw=170), *[chunk(x=0.1)] * 3, descriptor=descriptor)
    hits = make_selector(name).choose(look(chunk(), descriptor=descriptor[1]), candidates, 3)
    assert [h.row for h in hits] == [1, 2, 3][: len(hits)]
    assert hits


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in CONTROLS])
def test_every_choice_tells_what_its_score_is_made_of_and_what_it_adds(name):
    descriptor = np.ones((2, 4), np.float32)
    candidates = chunks(chunk(yaw=-30), chunk(yaw=30), descriptor=descriptor)
    hits = make_selector(name).choose(look(chunk(), descriptor=descriptor[0]), candidates, 2)
    assert len(hits) == 2
    assert all(h.parts and h.gain > 0.2 for h in hits)


@every
@few
@given(described)
def test_maps_in_which_nothing_is_known_are_no_maps(name, drawn):
    candidates, query = drawn
    unknown = np.full((len(candidates), 3, 6, 8), np.nan, np.float32)
    with_maps, without = (
        make_selector(name).choose(query, replace(candidates, depth=depth), 4, 2) for depth in (unknown, None)
    )
    assert with_maps == without


@pytest.mark.parametrize("name", [*AGAIN, "fov"])
def test_what_saw_nothing_of_the_view_is_never_chosen(name):
    away = [chunk(yaw=180, turn=5), chunk(x=100), chunk(z=-20), chunk(x=-6, yaw=-90), chunk(x=6, yaw=90)]
    assert make_selector(name).choose(look(chunk()), chunks(*away), 4, 4) == []
