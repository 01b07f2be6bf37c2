"""Choosing chunks: the paper's rule to the letter, and what holds for overlap and coverage whatever the world."""

from itertools import pairwise
from math import acos, cos, degrees, pi, radians

import numpy as np
import pytest
from hypothesis import given

from tests.looks import ASPECT, FOV, RANGE, chunk, chunks, look, world, worlds
from worldkv.errors import InvalidInput, InvalidPose
from worldkv.pose import camera
from worldkv.select import Candidates, Coverage, Fov, Pose, Query, Selector, make_selector
from worldkv.select.overlap import _within_reach
from worldkv.views import join, sees, target


def rows(selector: Selector, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[int]:
    return [c.row for c in selector.choose(query, candidates, k, spares)]


# The paper's rule


def test_pose_adds_halves_of_squared_distance_and_angle_each_by_its_maximum():
    candidates = chunks(chunk(x=1), chunk(x=2), chunk(yaw=90), chunk(x=2, yaw=45))
    hits = Pose().choose(look(chunk()), candidates, 4)
    assert [h.row for h in hits] == [0, 1, 2, 3]
    assert [h.score for h in hits] == pytest.approx([1 - 1 / 8, 1 / 2, 1 / 2, 1 - 3 / 4])
    assert hits[3].parts == pytest.approx({"distance": 1.0, "angle": 0.5, "units": 2.0, "degrees": 45.0})


def test_pose_takes_the_means_of_translations_and_of_rotation_matrices():
    turning, still = chunk(turn=9, step=0.3), chunk(x=0.3, yaw=9)
    hits = Pose().choose(look(turning), chunks(still, chunk(x=3, yaw=189)), 2)
    # The mean of rotations by -9, 0 and 9 degrees shrinks two axes by a third of 1 + 2 cos 9 degrees.
    shrunk = (1 + 2 * cos(radians(9))) / 3
    angle = acos((1 + 2 * shrunk - 1) / 2)
    far = acos((1 - 2 * shrunk - 1) / 2)
    assert hits[0].parts == pytest.approx(
        {"distance": 0.0, "angle": angle / far, "units": 0.0, "degrees": degrees(angle)}, abs=1e-9
    )


def test_pose_counts_a_term_as_zero_where_its_maximum_is():
    hits = Pose().choose(look(chunk()), chunks(chunk(), chunk()), 2)
    assert [(h.row, h.score) for h in hits] == [(0, 1.0), (1, 1.0)]
    hits = Pose().choose(look(chunk()), chunks(chunk(x=2), chunk(x=1)), 2)
    assert [(h.row, h.score) for h in hits] == [(1, 1 - 1 / 8), (0, 0.5)]


def test_pose_has_no_threshold_and_no_absolute_meaning():
    hits = Pose().choose(look(chunk()), chunks(chunk(x=1e6, yaw=180)), 3)
    assert [(h.row, h.score) for h in hits] == [(0, 0.0)]


# Overlap


def test_fov_is_the_share_of_the_view_that_is_seen():
    candidates = chunks(chunk(yaw=180), chunk(yaw=32.5), chunk(), chunk(z=-20))
    hits = Fov().choose(look(chunk()), candidates, 4)
    assert [h.row for h in hits] == [2, 1]
    assert [h.score for h in hits] == pytest.approx([1.0, 0.5])


def test_a_point_counts_if_any_frame_sees_it_and_every_coming_frame_counts():
    sweep = np.stack([camera(0, 0, 0, yaw) for yaw in (-60, 0, 60)])
    still = np.stack([camera(0, 0, 0, 0)] * 3)
    assert Fov().choose(look(still), chunks(sweep), 1)[0].score == 1.0
    assert Fov().choose(look(sweep), chunks(still), 1)[0].score < 0.5


def test_what_is_seen_ends_at_the_edges_of_the_picture_and_at_the_view_range():
    points = np.array([[0, 0, 7.9], [0, 0, 8.1], [0, 0, -1], [0.6, 0, 1], [0.7, 0, 1], [0, 0.4, 1], [0, 0.6, 1.0]])
    seen = sees(chunks(chunk()), points, RANGE)[0]
    assert seen.tolist() == [True, False, False, True, False, True, False]
    assert sees(chunks(chunk()), points, RANGE, np.float32)[0].tolist() == seen.tolist()


# Coverage


def test_coverage_takes_one_of_a_dwell_and_then_what_it_lacks():
    dwell = [chunk(yaw=-20)] * 10
    hits = Coverage(fill=None).choose(look(chunk()), chunks(*dwell, chunk(yaw=25)), 2)
    assert [h.row for h in hits] == [0, 10]
    assert rows(Pose(), look(chunk()), chunks(*dwell, chunk(yaw=25)), 2) == [0, 1]


def test_coverage_wants_only_what_the_window_lacks():
    candidates = chunks(chunk(yaw=-30), chunk(yaw=30))
    assert rows(Coverage(fill=None), look(chunk(), chunk(yaw=30)), candidates, 2)[0] == 0
    assert rows(Coverage(fill=None), look(chunk(), chunk(yaw=-30)), candidates, 2)[0] == 1
    assert rows(Coverage(fill=None), look(chunk(), chunk()), candidates, 2) == []


def test_coverage_fills_left_over_slots_with_near_views_only():
    candidates = chunks(chunk(yaw=170), chunk(x=0.2), chunk(x=-0.4), chunk(yaw=45))
    hits = Coverage().choose(look(chunk(), chunk()), candidates, 4)
    assert [h.row for h in hits] == [1, 2]
    assert all(h.score > 0.7 and h.gain < 0.015 for h in hits)


def test_coverage_prefers_the_nearer_of_two_that_see_it_all():
    candidates = chunks(chunk(z=-3), chunk(z=-0.5), chunk(z=-2))
    assert rows(Coverage(), look(chunk()), candidates, 3)[0] == 1


@pytest.mark.parametrize(("early", "first"), [(0.3, 0), (-0.3, 4)])
def test_of_equal_views_the_oldest_or_the_newest_is_chosen_as_asked(early, first):
    candidates = chunks(*[chunk(yaw=0.01 * i) for i in range(5)])
    assert rows(Coverage(early=early), look(chunk()), candidates, 1) == [first]
    far = chunks(*[chunk(yaw=180 if i == first else 0) for i in range(5)])
    assert rows(Coverage(early=early), look(chunk()), far, 1) != [first], "age is worth nothing without a view"


def test_spares_stand_in_for_the_first_choices():
    candidates = chunks(chunk(yaw=-20), chunk(yaw=-21), chunk(yaw=22), chunk(yaw=180))
    hits = Coverage(fill=None).choose(look(chunk()), candidates, 2, 5)
    assert [(h.row, h.spare) for h in hits] == [(0, False), (2, False), (1, True)]


def test_a_shortlist_costs_next_to_nothing_of_the_view():
    lost = []
    for seed in range(5):
        candidates, query = world(seed, 1000)
        exact, short = (
            sum(h.gain for h in Coverage(threshold=0, fill=None, shortlist=n).choose(query, candidates, 4))
            for n in (10_000, 256)
        )
        lost.append(exact - short)
    assert max(lost) < 0.02
    assert np.mean(lost) < 0.005


@given(worlds)
def test_gains_fall_and_never_exceed_the_view(drawn):
    candidates, query = drawn
    hits = Coverage(threshold=0, fill=None, again=0).choose(query, candidates, 10)
    gains = [h.gain for h in hits]
    assert all(a >= b - 1e-8 for a, b in pairwise(gains))
    assert all(0 < h.gain <= h.parts["alone"] + 1e-8 for h in hits)
    assert sum(gains) <= 1 + 1e-6


@given(worlds)
def test_coverage_abstains_below_its_threshold(drawn):
    candidates, query = drawn
    hits = Coverage(threshold=0.1, fill=0.4).choose(query, candidates, 5, 3)
    assert all(h.gain >= 0.1 or h.score >= 0.4 for h in hits if not h.spare)


# Controls, names and options


def test_controls_look_at_nothing():
    candidates = chunks(*[chunk(x=i) for i in range(20)])
    assert rows(make_selector("latest"), look(chunk()), candidates, 3) == [19, 18, 17]
    assert rows(make_selector("oldest"), look(chunk()), candidates, 3) == [0, 1, 2]
    assert rows(make_selector("nothing"), look(chunk()), candidates, 3) == []
    draws = {tuple(rows(make_selector("random", seed), look(chunk()), candidates, 3)) for seed in range(20)}
    assert len(draws) > 15
    assert rows(make_selector("random"), look(chunk()), candidates, 5) != rows(
        make_selector("random"), look(chunk(x=1)), candidates, 5
    )


def test_names_and_options_that_do_not_exist_are_refused():
    with pytest.raises(InvalidInput, match="no selector is named 'nearest'; there are pose, fov"):
        make_selector("nearest")
    with pytest.raises(InvalidInput, match=r"threshold is a share between 0 and 1, got 1\.5"):
        Coverage(threshold=1.5)
    with pytest.raises(InvalidInput, match="at least one candidate"):
        Coverage(shortlist=0)
    with pytest.raises(InvalidInput, match=r"early lies between -1 and 1, got -1\.5"):
        Coverage(early=-1.5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"poses": np.empty((0, 4, 4))}, InvalidInput, "at least one pose"),
        ({"poses": np.eye(4)}, InvalidPose, r"\[frames, 4, 4\]"),
        ({"poses": 2 * np.eye(4)[None]}, InvalidPose, "last row"),
        ({"visible": np.full((1, 4, 4), np.nan)}, InvalidPose, "finite"),
        ({"fov": pi}, InvalidInput, "field of view"),
        ({"aspect": 0.0}, InvalidInput, "aspect"),
        ({"view_range": float("inf")}, InvalidInput, "view_range"),
    ],
)
def test_queries_are_checked(change, error, words):
    fields = {"poses": chunk(), "fov": FOV, "aspect": ASPECT, "view_range": RANGE}
    with pytest.raises(error, match=words):
        Query(**(fields | change))


# Candidates


@given(worlds)
def test_only_candidates_that_see_nothing_are_out_of_reach(drawn):
    candidates, query = drawn
    spread = candidates.poses.copy()
    spread[..., :3, 3] *= 6
    far = Candidates.of(spread, candidates.fov, candidates.aspect)
    points = target(query.poses, FOV, ASPECT, RANGE, 7, 5, 9).flat
    seeing = np.flatnonzero(sees(far, points, RANGE).any(1))
    assert set(seeing.tolist()) <= set(_within_reach(query, far).tolist())


def test_candidates_of_other_shapes_are_refused():
    with pytest.raises(InvalidInput, match="got"):
        Candidates.of(np.eye(4)[None], FOV, ASPECT)
    with pytest.raises(InvalidInput, match="2 candidates but 1 chunk numbers"):
        Candidates.of(np.stack([chunk(), chunk()]), FOV, ASPECT, [0])
    with pytest.raises(InvalidInput, match=r"equally many frames, got \[1, 3\]"):
        join([chunks(chunk()), chunks(chunk()[:1])])
