"""Which chunks a world can do without, and that the view stays shown as they go."""

from math import radians

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.errors import InvalidInput
from worldkv.evict import Cover, least_useful, redundancy
from worldkv.pose import Matrix, camera
from worldkv.views import Candidates

FOV, ASPECT, RANGE = radians(65), 0.75, 8.0


def chunk(x: float = 0.0, z: float = 0.0, yaw: float = 0.0, turn: float = 9.0) -> Matrix:
    return np.stack([camera(x, 0, z, yaw + turn * i) for i in range(3)])


def chunks(*poses: Matrix) -> Candidates:
    return Candidates.of(np.stack(poses), FOV, ASPECT)


def stroll(seed: int, n: int) -> Candidates:
    """Chunks of a random walk with turns, numbered from 10."""
    rng = np.random.default_rng(seed)
    poses, x, z, yaw = [], 0.0, 0.0, 0.0
    for _ in range(n):
        turn = float(rng.uniform(-12, 12))
        poses.append(chunk(x, z, yaw, turn))
        x, z, yaw = x + float(rng.uniform(-0.6, 0.6)), z + float(rng.uniform(-0.6, 0.6)), yaw + 3 * turn
    return Candidates.of(np.stack(poses), FOV, ASPECT, np.arange(n) + 10)


strolls = st.builds(stroll, st.integers(0, 10**6), st.integers(2, 18))


def test_redundancy_is_the_share_of_the_view_that_others_show():
    same, away, half, alone = chunk(), chunk(yaw=180), chunk(yaw=92.5, turn=0), chunk(x=100)
    assert redundancy(chunks(same, same, alone), RANGE).tolist() == [1.0, 1.0, 0.0]
    assert redundancy(chunks(same, away), RANGE).tolist() == [0.0, 0.0]
    share = redundancy(chunks(chunk(yaw=60, turn=0), half), RANGE)
    assert share == pytest.approx([0.5, 0.5])


def test_views_from_far_away_do_not_count_as_there_may_be_a_wall():
    assert redundancy(chunks(chunk(), chunk(z=-1)), RANGE)[0] > 0.5
    assert redundancy(chunks(chunk(), chunk(z=-4)), RANGE)[0] == 0.0


def test_of_chunks_that_show_the_same_one_stays():
    twins = chunks(chunk(), chunk(x=50), chunk(), chunk(), chunk(yaw=180))
    assert least_useful(twins, 2, RANGE) == [3, 2]
    assert least_useful(twins, 3, RANGE, protect={4})[:2] == [3, 2]


def test_the_newest_of_equals_goes_first_and_the_protected_stay():
    dwell = chunks(*[chunk()] * 5)
    assert least_useful(dwell, 3, RANGE) == [4, 3, 2]
    assert least_useful(dwell, 5, RANGE, protect={4, 0}) == [3, 2, 1]


def test_a_chunk_that_another_needs_is_kept_over_one_that_nobody_needs():
    # The wide sweep is shown by the two halves together, and shows neither of them wholly.
    left, right, sweep = chunk(yaw=-40, turn=3), chunk(yaw=34, turn=3), chunk(yaw=-20, turn=20)
    assert least_useful(chunks(left, sweep, right), 1, RANGE) == [1]


def test_nothing_is_asked_or_nothing_is_there():
    none = Candidates.of(np.empty((0, 3, 4, 4)), FOV, ASPECT)
    assert least_useful(none, 3, RANGE) == []
    assert redundancy(none, RANGE).shape == (0,)
    assert least_useful(chunks(chunk()), 0, RANGE) == []
    assert least_useful(chunks(chunk()), 9, RANGE) == [0]
    with pytest.raises(InvalidInput, match="view_range must be a positive number"):
        redundancy(chunks(chunk()), 0.0)


@given(strolls, st.integers(1, 25), st.sets(st.integers(10, 34), max_size=4))
def test_removals_are_distinct_unprotected_and_repeatable(world, count, protect):
    gone = least_useful(world, count, RANGE, protect)
    assert gone == least_useful(world, count, RANGE, protect)
    assert len(set(gone)) == len(gone) == min(count, len(set(world.index.tolist()) - protect))
    assert set(gone) <= set(world.index.tolist()) - protect


@given(strolls)
def test_asking_for_more_goes_on_where_less_stopped(world):
    assert least_useful(world, len(world), RANGE)[:3] == least_useful(world, min(3, len(world)), RANGE)


@given(strolls)
def test_counts_and_losses_stay_true_as_chunks_go(world):
    """Against the definition: recount who shows what from the pairs, after every removal."""
    cover = Cover(world, RANGE)
    n, points = cover.count.shape
    shows = np.zeros((n, n, points), bool)  # [by, shown, points]
    shows[cover.by, cover.shown] = cover.mask
    assert shows[np.arange(n), np.arange(n)].all()
    for number in least_useful(world, n, RANGE):
        left = cover.left
        assert (cover.count == shows[left].sum(0)).all()
        sole = shows & (cover.count == 1)
        assert cover.loss[left].tolist() == sole.sum((1, 2))[left].tolist()
        assert cover.loss[number - 10] == cover.loss[left].min()
        cover.remove(number - 10)
    assert not cover.count.any()


@given(strolls)
def test_no_view_is_lost_while_a_chunk_can_go_without_loss(world):
    cover = Cover(world, RANGE)
    for number in least_useful(world, len(world), RANGE):
        free = bool((cover.loss[cover.left] == 0).any())
        before = (cover.count > 0).sum()
        cover.remove(number - 10)
        assert not free or (cover.count > 0).sum() == before
