"""The truth of the simulation that ranks selectors: worlds, walks and what is seen."""

import numpy as np
import pytest

from benchmarks.halls import ASPECT, FOV, RANGE, SIDE, SPACING, depths, halls, open_hall, questions, sees, wander
from pocket.rooms import RADIUS, clearance
from worldkv.select import Candidates
from worldkv.select.depths import shows


@pytest.mark.parametrize("seed", range(3))
def test_walkers_stay_clear_of_walls_and_walks_repeat(seed):
    hall = halls(seed)
    poses = wander(hall, np.random.default_rng(seed))
    assert min(clearance(hall, x, z) for x, z in poses[::7, [0, 2], 3].tolist()) >= RADIUS - 1e-9
    assert np.array_equal(poses, wander(halls(seed), np.random.default_rng(seed)))


def test_every_room_has_a_door():
    for seed in range(10):
        hall = halls(seed)
        x0, z0, x1, z1 = hall.rooms.T
        x, z = hall.doors.T
        beside = (
            (x0[:, None] - 0.1 <= x) & (x <= x1[:, None] + 0.1) & (z0[:, None] - 0.1 <= z) & (z <= z1[:, None] + 0.1)
        )
        assert beside.any(1).all()


def test_walls_hide_some_of_what_the_open_hall_shows_and_no_more():
    hall = halls(1)
    poses = wander(hall, np.random.default_rng(1))[::20]
    walled, free = sees(hall, poses), sees(open_hall(hall), poses)
    assert not (walled & ~free).any()
    assert 0.2 < walled.sum() / free.sum() < 0.9


def test_exact_depth_maps_tell_nearly_what_rays_do():
    hall = halls(2)
    poses = wander(hall, np.random.default_rng(2))[::10]
    line = np.arange(SPACING / 2, SIDE, SPACING)
    x, z = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    views = Candidates.of(poses[:, None], FOV, ASPECT, depth=depths(hall, poses)[:, None])
    told, true = shows(views, np.stack([x, 0 * x, z], -1), RANGE), sees(hall, poses)
    assert (told & true).sum() / (told | true).sum() > 0.9


def test_all_candidates_bring_all_back_and_none_bring_nothing():
    question = next(questions(3, walls=True))
    assert question.covered(range(len(question.candidates))) == 1
    assert question.covered([]) == 0
