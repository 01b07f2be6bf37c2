"""Selection with walls: depth maps against a renderer and a scalar oracle, and what they change in choices."""

from dataclasses import replace
from math import inf, isnan, nan, tan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.looks import ASPECT, FOV, MAP, RANGE, chunk, chunks, described, look, worlds
from worldkv.pose import Matrix, camera
from worldkv.select import Candidates, Coverage, Visibility, make_selector
from worldkv.select.depths import HALF_TEXELS, predicted, shows, surfaces
from worldkv.views import EDGE, sees, target

ROWS, COLUMNS = MAP
WALL = 3.0
"""A wall in the plane z = WALL, for views from z < WALL."""


def wall_seen_from(poses: Matrix, begin: float = -inf, end: float = inf) -> np.ndarray:
    """Depth maps [..., ROWS, COLUMNS] of a wall of any height in z = WALL from x = begin to x = end."""
    depth = np.full((*poses.shape[:-2], ROWS, COLUMNS), inf, np.float32)
    for at in np.ndindex(poses.shape[:-2]):
        for row, column in np.ndindex(ROWS, COLUMNS):
            u, v = (column + 0.5) / COLUMNS * 2 - 1, (row + 0.5) / ROWS * 2 - 1
            ray = poses[at][:3, :3] @ [u * tan(FOV / 2), v * tan(FOV / 2) * ASPECT, 1]
            x, _, z = poses[at][:3, 3]
            t = (WALL - z) / ray[2] if ray[2] else inf
            if t > 0 and begin <= x + t * ray[0] <= end:
                depth[(*at, row, column)] = t
    return depth


def between(place: float, count: int) -> dict[int, float]:
    """Which of `count` texels a place -1..1 lies between, and how much each weighs."""
    at = min(max((place + 1) / 2 * count - 0.5, 0), count - 1)
    low = int(at)
    return {low: 1 - (at - low), low + 1: at - low} if low < count - 1 else {low: 1.0}


def seen_by_hand(pose: Matrix, fov: float, depth: np.ndarray, point: Matrix) -> bool:
    """Whether one frame shows one point, by the words of `shows`."""
    x, y, z = (float(v) for v in np.linalg.inv(pose)[:3] @ [*point, 1.0])
    wide, tall, edge = z * tan(fov / 2), z * tan(fov / 2) * ASPECT, EDGE * RANGE
    if z < 0 or z > RANGE + edge or abs(x) > wide + edge or abs(y) > tall + edge:
        return False
    nearness = 0.0
    for row, down in between(y / tall, ROWS).items():
        for column, across in between(x / wide, COLUMNS).items():
            if isnan(depth[row, column]):
                return True
            nearness += down * across / float(depth[row, column])
    return nearness * z * (1 - HALF_TEXELS * tan(fov / 2) / COLUMNS) <= 1


@given(described, st.integers(0, 1000))
def test_points_are_seen_as_an_oracle_says_point_by_point(drawn, seed):
    candidates, _ = drawn
    if candidates.depth is None:
        return
    some = candidates.take(slice(0, 4))
    points = np.random.default_rng(seed).uniform(-6, 6, (20, 3))
    expected = [
        [any(seen_by_hand(p, f, d, point) for p, d in zip(poses, depth)) for point in points]
        for poses, f, depth in zip(some.poses, some.fov, some.depth)
    ]
    assert shows(some, points, RANGE).tolist() == expected


@given(worlds)
def test_without_maps_the_same_is_seen_as_in_empty_space(drawn):
    candidates, query = drawn
    points = target(query.poses, FOV, ASPECT, RANGE, 5, 3, 4).flat
    assert np.array_equal(shows(candidates, points, RANGE), sees(candidates, points, RANGE))


@given(described, st.integers(1, 10))
def test_walls_only_ever_hide(drawn, nearer):
    candidates, query = drawn
    points = target(query.poses, FOV, ASPECT, RANGE, 5, 3, 4).flat
    before = shows(candidates, points, RANGE)
    assert not (before & ~sees(candidates, points, RANGE)).any()
    if candidates.depth is not None:
        closer = replace(candidates, depth=candidates.depth / np.float32(nearer))
        assert not (shows(closer, points, RANGE) & ~before).any()


@pytest.mark.parametrize("yaw", [0, 20, -40])
def test_the_surface_itself_is_seen_and_what_lies_behind_is_not(yaw):
    poses = np.stack([camera(0.5, 0, 0, yaw)])[None]
    wall = Candidates.of(poses, FOV, ASPECT, depth=wall_seen_from(poses))
    x = np.linspace(-3, 4, 40)
    on, behind, before = (np.stack([x, 0 * x, 0 * x + WALL * far], -1) for far in (1.0, 1.6, 0.6))
    assert np.array_equal(shows(wall, on, RANGE), sees(wall, on, RANGE))
    assert np.array_equal(shows(wall, before, RANGE), sees(wall, before, RANGE))
    inside = sees(wall, behind, RANGE)
    assert inside.any()
    assert not shows(wall, behind, RANGE).any()


def test_a_map_says_where_its_surfaces_are_and_what_another_view_will_see():
    poses = np.stack([camera(-1, 0, 0), camera(0.0, 0, 0), camera(1, 0, 0)])
    views = Candidates.of(poses[:, None], FOV, ASPECT, depth=wall_seen_from(poses)[:, None])
    assert all(np.allclose(points[:, 2], WALL) and len(points) == ROWS * COLUMNS for points in surfaces(views, RANGE))
    assert [len(points) for points in surfaces(views, WALL - 0.1)] == [0, 0, 0]
    nearer = predicted(np.stack([camera(0, 0, 1.0)]), FOV, ASPECT, RANGE, views, columns=4, rows=4)
    assert nearer == pytest.approx(np.full((1, 4, 4), WALL - 1))
    away = predicted(np.stack([camera(0, 0, 0, 180)]), FOV, ASPECT, RANGE, views, columns=4, rows=4)
    assert np.isnan(away).all()
    assert predicted(poses, FOV, ASPECT, WALL - 0.1, views, columns=4, rows=4) is None


def test_of_two_surfaces_the_nearer_one_comes_into_view():
    here = np.stack([camera(0, 0, 0)])
    beyond = Candidates.of(np.stack([camera(0, 0, 4)])[None], FOV, ASPECT, depth=np.full((1, 1, *MAP), 2, np.float32))
    before = Candidates.of(here[None], FOV, ASPECT, depth=wall_seen_from(here)[None])
    both = Candidates.of(
        np.stack([beyond.poses[0], before.poses[0]]), FOV, ASPECT, depth=np.concatenate([beyond.depth, before.depth])
    )
    alone = predicted(here, FOV, ASPECT, RANGE, beyond, columns=2, rows=2)
    assert alone == pytest.approx(np.full((1, 2, 2), 6.0))
    assert predicted(here, FOV, ASPECT, RANGE, both, columns=2, rows=2) == pytest.approx(np.full((1, 2, 2), WALL))


def test_a_view_through_a_wall_is_chosen_only_where_no_depth_is_known():
    inside, outside = chunk(z=1.5, x=1.0), chunk(z=-2)
    wall = -0.5 - (-2)  # of the outer one: a wall before it, in z = -0.5
    depth = np.stack([wall_seen_from(inside), np.full((3, *MAP), wall, np.float32)])
    query = look(chunk(z=0.5))
    known = chunks(inside, outside, depth=depth)
    assert [h.row for h in make_selector("visibility").choose(query, known, 4)] == [0]
    unknown = chunks(inside, outside)
    assert {h.row for h in make_selector("visibility").choose(query, unknown, 4)} == {0, 1}
    depth[1] = nan
    half = chunks(inside, outside, depth=depth)
    assert 1 in [h.row for h in make_selector("visibility").choose(query, half, 4)]


@given(worlds)
def test_without_depth_visibility_chooses_as_coverage_does(drawn):
    candidates, query = drawn
    assert Visibility().choose(query, candidates, 4, 2) == Coverage().choose(query, candidates, 4, 2)
    empty = replace(candidates, depth=np.full((len(candidates), 3, *MAP), inf, np.float32))
    assert [h.row for h in Visibility().choose(query, empty, 4)] == [h.row for h in Coverage().choose(query, empty, 4)]
