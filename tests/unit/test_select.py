"""Choosing chunks: the paper's rule to the letter, and what holds for overlap and coverage whatever the world."""

from itertools import pairwise
from math import acos, cos, pi, radians

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.errors import InvalidInput, InvalidPose
from worldkv.pose import Matrix, camera
from worldkv.select import SELECTORS, Candidates, Coverage, Fov, Pose, Query, Selector, make_selector
from worldkv.select.overlap import _within_reach
from worldkv.views import join, sees, target

FOV, ASPECT, RANGE = radians(65), 0.75, 8.0


def chunk(x: float = 0.0, z: float = 0.0, yaw: float = 0.0, turn: float = 0.0, step: float = 0.0) -> Matrix:
    """Poses [3, 4, 4] of a chunk that begins at (x, z), turning and going on to the right."""
    return np.stack([camera(x + step * i, 0, z, yaw + turn * i) for i in range(3)])


def chunks(*poses: Matrix) -> Candidates:
    return Candidates.of(np.stack(poses), FOV, ASPECT)


def look(poses: Matrix, visible: Matrix | None = None) -> Query:
    return Query(poses, FOV, ASPECT, RANGE, np.empty((0, 4, 4)) if visible is None else visible)


def rows(selector: Selector, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[int]:
    return [c.row for c in selector.choose(query, candidates, k, spares)]


def world(seed: int, n: int, spread: float = 4.0) -> tuple[Candidates, Query]:
    """Random chunks and a random query, in three dimensions, with some frames in the window."""
    rng = np.random.default_rng(seed)

    def some(frames: int) -> Matrix:
        (x, y, z), yaw, pitch = rng.uniform(-spread, spread, 3), rng.uniform(0, 360), rng.uniform(-20, 20)
        return np.stack([camera(x + 0.1 * i, y, z, yaw + 9 * i, pitch) for i in range(frames)])

    candidates = Candidates.of([some(3) for _ in range(n)], rng.uniform(0.8, 1.6, n), ASPECT)
    return candidates, look(some(3), some(2) if n % 2 else None)


worlds = st.builds(world, st.integers(0, 10**6), st.integers(1, 40))


def moved(motion: Matrix, candidates: Candidates, query: Query) -> tuple[Candidates, Query]:
    there = Candidates.of(motion @ candidates.poses, candidates.fov, candidates.aspect, candidates.index)
    return there, look(motion @ query.poses, motion @ query.visible)


# The paper's rule


def test_pose_adds_halves_of_squared_distance_and_angle_each_by_its_maximum():
    candidates = chunks(chunk(x=1), chunk(x=2), chunk(yaw=90), chunk(x=2, yaw=45))
    hits = Pose().choose(look(chunk()), candidates, 4)
    assert [h.row for h in hits] == [0, 1, 2, 3]
    assert [h.score for h in hits] == pytest.approx([1 - 1 / 8, 1 / 2, 1 / 2, 1 - 3 / 4])
    assert hits[3].parts == pytest.approx({"distance": 1.0, "angle": 0.5})


def test_pose_takes_the_means_of_translations_and_of_rotation_matrices():
    turning, still = chunk(turn=9, step=0.3), chunk(x=0.3, yaw=9)
    hits = Pose().choose(look(turning), chunks(still, chunk(x=3, yaw=189)), 2)
    # The mean of rotations by -9, 0 and 9 degrees shrinks two axes by a third of 1 + 2 cos 9 degrees.
    shrunk = (1 + 2 * cos(radians(9))) / 3
    angle = acos((1 + 2 * shrunk - 1) / 2)
    far = acos((1 - 2 * shrunk - 1) / 2)
    assert hits[0].parts == pytest.approx({"distance": 0.0, "angle": angle / far})


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


@pytest.mark.parametrize("selector", [Coverage(), Coverage(threshold=0, fill=None), Fov()])
def test_what_saw_nothing_of_the_view_is_never_chosen(selector):
    away = [chunk(yaw=180, turn=5), chunk(x=100), chunk(z=-20), chunk(x=-6, yaw=-90), chunk(x=6, yaw=90)]
    assert selector.choose(look(chunk()), chunks(*away), 4, 4) == []


def test_coverage_prefers_the_nearer_of_two_that_see_it_all():
    candidates = chunks(chunk(z=-3), chunk(z=-0.5), chunk(z=-2))
    assert rows(Coverage(), look(chunk()), candidates, 3)[0] == 1


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


# All selectors


@pytest.mark.parametrize("name", SELECTORS)
@given(worlds, st.integers(0, 6), st.integers(0, 3))
def test_choices_are_few_distinct_and_repeatable(name, drawn, k, spares):
    candidates, query = drawn
    hits = make_selector(name, 7).choose(query, candidates, k, spares)
    assert hits == make_selector(name, 7).choose(query, candidates, k, spares)
    assert len({h.row for h in hits}) == len(hits) <= k + spares
    assert sum(not h.spare for h in hits) <= k
    assert [h.spare for h in hits] == sorted(h.spare for h in hits)
    assert all(0 <= h.row < len(candidates) and -1e-9 <= h.score <= 1 + 1e-9 for h in hits)


@pytest.mark.parametrize("name", ["pose", "fov", "coverage"])
@given(worlds, st.floats(-100, 100), st.floats(-100, 100), st.floats(-180, 180), st.floats(-90, 90))
def test_scores_do_not_change_when_the_whole_world_moves(name, drawn, x, y, yaw, pitch):
    candidates, query = drawn
    here = make_selector(name).choose(query, candidates, 4)
    elsewhere, asked = moved(camera(x, y, -x, yaw, pitch), candidates, query)
    there = make_selector(name).choose(asked, elsewhere, 4)
    assert [h.row for h in here] == [h.row for h in there]
    assert [h.score for h in here] == pytest.approx([h.score for h in there], abs=1e-5)
    assert [h.gain for h in here] == pytest.approx([h.gain for h in there], abs=1e-5)


@pytest.mark.parametrize("name", ["pose", "fov", "coverage"])
def test_of_equals_the_oldest_is_chosen(name):
    candidates = chunks(chunk(x=0.2, yaw=170), *[chunk(x=0.1)] * 3)
    assert rows(make_selector(name), look(chunk()), candidates, 3) == [1, 2, 3]


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


def test_an_empty_world_has_nothing_to_choose_from():
    none = Candidates.of(np.empty((0, 3, 4, 4)), FOV, ASPECT)
    assert [make_selector(name).choose(look(chunk()), none, 3, 1) for name in SELECTORS] == [[]] * len(SELECTORS)


def test_names_and_options_that_do_not_exist_are_refused():
    with pytest.raises(InvalidInput, match="no selector is named 'nearest'; there are pose, fov"):
        make_selector("nearest")
    with pytest.raises(InvalidInput, match=r"coverage threshold is a share between 0 and 1, got 1\.5"):
        Coverage(threshold=1.5)
    with pytest.raises(InvalidInput, match="at least one candidate"):
        Coverage(shortlist=0)


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
