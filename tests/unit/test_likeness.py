"""What people are shown of a chunk beside a coming view."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.pose import camera
from worldkv.select import Candidates, Fov, Likeness, Query, likenesses

LENS = (1.1, 0.75, 4.0)


def turning(yaw: float, x: float = 0.0) -> np.ndarray:
    return np.stack([camera(x, 0, 0, yaw + 10 * frame) for frame in range(3)])


def query(yaw: float = 0.0) -> Query:
    return Query(turning(yaw), *LENS)


def test_the_same_place_and_way_is_as_like_as_can_be():
    (same,) = likenesses(query(30), [turning(30)])
    assert same == pytest.approx(Likeness(0, 0, 1), abs=1e-4)


def test_distance_and_angle_are_those_of_the_nearest_cameras():
    (turned,) = likenesses(query(0), [turning(45)])
    assert turned[:2] == pytest.approx((0, 25))  # 45 beside the last frame's 20
    (aside,) = likenesses(query(0), [turning(0, x=1.5)])
    assert aside[:2] == pytest.approx((1.5, 0), abs=1e-4)


def test_who_looks_the_other_way_shows_nothing():
    assert likenesses(query(0), [turning(180)])[0].overlap == 0


def test_of_a_chunk_without_poses_nothing_is_known():
    unknown, known = likenesses(query(0), [np.empty((0, 4, 4)), turning(0)])
    assert unknown == Likeness(0, 0, 0)
    assert known.overlap == 1
    assert likenesses(query(0), []) == []


@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-3, 3)), min_size=1, max_size=4), st.floats(-180, 180))
def test_overlap_is_what_the_selector_fov_scores(places, yaw):
    chunks, asked = [turning(*place) for place in places], query(yaw)
    scored = Fov().choose(asked, Candidates.of(np.stack(chunks), *LENS[:2]), len(chunks))
    by_row = {choice.row: choice.score for choice in scored}
    assert [each.overlap for each in likenesses(asked, chunks)] == [by_row.get(n, 0) for n in range(len(chunks))]
