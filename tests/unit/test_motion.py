"""Forecasts of a camera: what holds whatever the motion; and what a prefetcher makes of them."""

from itertools import pairwise
from math import radians

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import strategies
from worldkv.actions import Action, Walker, follow
from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.errors import InvalidConfig, InvalidInput, InvalidPose
from worldkv.index import Hit, ScanIndex
from worldkv.motion import ROLL, _keeps_roll, _rotation, predict
from worldkv.pose import Matrix, camera
from worldkv.prefetch import Plan, PrefetchConfig, Prefetcher
from worldkv.select import Coverage

FOV, ASPECT, RANGE = radians(65), 0.75, 8.0
STEADY = Action(0.2, 0.05, 7.0)

numbers = st.floats(-1, 1)
actions = st.builds(
    lambda forward, strafe, turn, look: Action(forward * 0.3, strafe * 0.2, turn * 20, look * 3),
    *[numbers] * 4,
)
walkers = st.builds(Walker, numbers, numbers, st.floats(-400, 400), st.floats(-20, 20))


def walk(*moves: Action, start: Walker | None = None) -> Matrix:
    """Poses [moves + 1, 4, 4] of a walk without walls."""
    return np.stack([w.pose for w in follow(start or Walker(1.0, 2.0, 30.0), moves)])


def placed(turn: Matrix, step: Matrix) -> Matrix:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = _rotation(turn), step
    return pose


def ways(poses: Matrix, held: Action | None = None) -> Matrix:
    """Poses [9, 4, 4] of three chunks of a camera that goes on."""
    return np.concatenate([f.poses for f in predict(poses, held) if f.motion == "goes on"])


@given(walkers, actions)
def test_a_walk_goes_on_exactly_for_a_chunk(start, action):
    poses = walk(*[action] * 9, start=start)
    assert ways(poses[:6])[:3] == pytest.approx(poses[6:9], abs=1e-9)


@given(st.tuples(*[numbers] * 6))
def test_a_screw_of_a_rolling_camera_goes_on_exactly_for_a_chunk(motion):
    turn, step = np.array([*motion[:2], 0.2 + abs(motion[2])]) / 3, np.array(motion[3:]) / 3
    poses = [np.eye(4)]
    for _ in range(9):
        poses.append(poses[-1] @ placed(turn, step))
    assert ways(np.stack(poses)[:6])[:3] == pytest.approx(np.stack(poses)[6:9], abs=1e-9)


@given(walkers, st.lists(actions, min_size=5, max_size=5), st.floats(-4, 4), st.tuples(*[st.floats(-9, 9)] * 3))
def test_forecasts_move_with_a_world_that_keeps_its_vertical(start, moves, turn, step):
    poses, world = walk(*moves, start=start), placed(np.array([0, turn, 0]), np.array(step))
    for here, there in zip(predict(poses, STEADY), predict(world @ poses, STEADY), strict=True):
        assert world @ here.poses == pytest.approx(there.poses, abs=1e-7)
        assert here.confidence == pytest.approx(there.confidence, abs=1e-6)


@given(strategies.poses(), actions)
def test_forecasts_of_a_constant_turn_move_with_any_world(world, action):
    poses = walk(*[Action(action.forward, action.strafe, action.turn)] * 5)
    there = world @ ways(poses)
    seen = world @ poses
    assume(np.abs(np.concatenate([seen, there])[:, 1, 2]).max() < 0.98)  # as it would be near the vertical
    assume(abs(world[1, 1]) > 0.999 or not action.turn or not _keeps_roll(seen))  # there it is somebody who nods
    assert there == pytest.approx(ways(seen), abs=20 * ROLL)


@given(walkers, actions)
def test_an_action_that_is_what_was_seen_changes_nothing(start, action):
    poses = walk(*[action] * 5, start=start)
    assert ways(poses, action) == pytest.approx(ways(poses), abs=1e-9)


@given(st.lists(strategies.poses(), min_size=1, max_size=8), st.none() | actions)
def test_forecasts_are_rigid_and_sure_to_some_degree(poses, held):
    forecasts = predict(np.stack(poses), held)
    for forecast in forecasts:
        turn = forecast.poses[:, :3, :3]
        assert turn.swapaxes(1, 2) @ turn == pytest.approx(np.broadcast_to(np.eye(3), turn.shape), abs=1e-9)
        assert (np.linalg.det(turn) > 0).all()
        assert 0 <= forecast.confidence <= 1
    sure = [f.confidence for f in forecasts if f.motion == "goes on"]
    assert all(later <= sooner for sooner, later in pairwise(sure))


def test_a_constant_walk_is_less_sure_the_farther_ahead():
    sure = [f.confidence for f in predict(walk(*[STEADY] * 5)) if f.motion == "goes on"]
    assert sure[0] > sure[1] > sure[2]


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_less_steady_the_less_sure(chunk):
    def sure(shake: float) -> float:
        moves = [Action(0.1, 0.0, 3.0 + shake * (-1) ** i) for i in range(5)]
        return float(predict(walk(*moves))[chunk].confidence)

    assert sure(0) > sure(2) > sure(6) > sure(12)


def test_roll_stays_as_it_is_while_turning_and_looking_up():
    rolled = placed(np.array([0, 0, 0.2]), np.zeros(3))
    poses = walk(*[Action(0.1, 0.0, 8.0, 3.0)] * 5) @ rolled
    way = ways(poses)
    roll = np.arctan2(way[:, 1, 0], way[:, 1, 1])
    assert roll == pytest.approx(np.full(9, 0.2), abs=1e-9)


def test_looking_up_ends_at_the_vertical():
    way = ways(walk(*[Action(look=10.0)] * 5, start=Walker(0, 0, 0, 30)))
    assert way[-1, :3, 2] == pytest.approx([0, -1, 0], abs=1e-9)


def test_it_slows_down_after_the_first_chunk_only():
    steps = np.linalg.norm(np.diff(ways(walk(*[Action(forward=0.2)] * 5))[:, :3, 3], axis=0), axis=-1)
    assert steps[:2] == pytest.approx([0.2, 0.2])
    assert steps[2:] / steps[1:-1] == pytest.approx(np.full(6, 0.85))


@pytest.mark.parametrize("place", [2, 3, 4])
def test_one_pose_that_springs_out_and_back_is_passed_over(place):
    poses = walk(*[STEADY] * 5)
    wrong = poses.copy()
    wrong[place] = wrong[place] @ placed(np.array([0, 0.3, 0]), np.array([0.5, 0, 0]))
    assert ways(wrong) == pytest.approx(ways(poses), abs=1e-9)


@pytest.mark.parametrize("jump", [(0.0, 3.0), (90.0, 0.0)])
def test_a_camera_that_was_placed_goes_on_from_there_less_surely(jump):
    poses = walk(*[STEADY] * 5)
    there = poses.copy()
    there[5] = camera(poses[5, 0, 3] + jump[1], 0, poses[5, 2, 3], 65 + jump[0])
    before, after = predict(poses)[0], predict(there)[0]
    assert after.confidence <= before.confidence / 2
    assert np.linalg.inv(there[5]) @ after.poses == pytest.approx(np.linalg.inv(poses[5]) @ before.poses, abs=1e-9)


def test_a_turn_that_is_held_comes_though_it_was_not_seen_yet():
    way = ways(walk(*[Action(forward=0.2)] * 5), Action(forward=0.2, turn=9.0))
    assert way[:3] == pytest.approx(walk(*[Action(forward=0.2)] * 5, *[Action(forward=0.2, turn=9.0)] * 3)[6:])


def test_an_action_that_did_not_move_the_camera_will_not():
    poses = walk(*[Action()] * 5)
    assert ways(poses, Action(forward=0.2)) == pytest.approx(np.broadcast_to(poses[-1], (9, 4, 4)))


def test_letting_go_stops():
    poses = walk(*[STEADY] * 5)
    (stands, *_) = forecasts = predict(poses, Action())
    assert stands.poses == pytest.approx(np.broadcast_to(poses[-1], (3, 4, 4)))
    assert [f.motion for f in forecasts] == ["goes on"] * 3


@pytest.mark.parametrize("count", [1, 6])
def test_a_camera_that_stands_stays(count):
    forecasts = predict(walk()[[0] * count], frames=4, chunks=2)
    assert [(f.chunk, f.motion, f.poses.shape) for f in forecasts] == [
        (1, "goes on", (4, 4, 4)),
        (2, "goes on", (4, 4, 4)),
    ]
    assert forecasts[1].poses == pytest.approx(np.broadcast_to(walk()[0], (4, 4, 4)))


def test_what_cannot_be_is_said():
    poses = walk(STEADY)
    for wrong in (poses * 2, np.full((2, 4, 4), np.nan), poses @ np.diag([-1.0, 1, 1, 1])):
        with pytest.raises(InvalidPose):
            predict(wrong)
    for given_, named in (
        ({"poses": poses[:0]}, "at least one"),
        ({"poses": poses[0]}, r"\(4, 4\)"),
        ({"chunks": 0}, "got 0"),
        ({"chunks": 4}, "got 4"),
        ({"frames": 0}, "got 0"),
        ({"view_range": 0.0}, "got 0.0"),
    ):
        with pytest.raises(InvalidInput, match=named):
            predict(**({"poses": poses} | given_))


# What is fetched


class Fetching:
    """A prefetcher beside an index in which a walk has looked all round from one place: 40 chunks."""

    def __init__(self, slots: int = 2, **options: float) -> None:
        self.prefetcher = Prefetcher(PrefetchConfig(slots, FOV, ASPECT, RANGE, **options))
        self.index, self.lineage = ScanIndex(), Lineage.begin(bytes(16))
        self.at = self.first = 40
        for n in range(self.first):
            poses = np.stack([camera(0, 0, 0, 9 * n + 3 * i) for i in range(3)])
            self.index.add(Meta(self.lineage.key(n), "0" * 32, 3 * n, poses, FOV, ASPECT))

    def step(
        self, yaw: float, turn: float, recalled: tuple[ChunkKey, ...] = (), at_hand: tuple[ChunkKey, ...] = ()
    ) -> Plan:
        """Draw a chunk that ends at a yaw, turning by so many degrees a frame."""
        poses = np.stack([camera(0, 0, 0, yaw - turn * i) for i in (2, 1, 0)])
        held, exclude = Action(turn=turn), {0, *range(self.first, self.at + 1)}
        asks = self.prefetcher.step(self.at, poses, held, recalled, at_hand, poses, exclude)
        self.at += 1
        answers: list[list[Hit]] = [
            self.index.nearest(a.query, Coverage(), a.k, self.lineage, a.exclude, a.spares) for a in asks
        ]
        return self.prefetcher.plan(answers)

    @property
    def stats(self) -> dict[str, int]:
        return {name: count for name, count in vars(self.prefetcher.stats).items() if count}


def off(key: ChunkKey, yaw: float) -> float:
    """Degrees by which a chunk of `Fetching` looks to the right of a yaw."""
    return (9 * key.index + 3 - yaw + 180) % 360 - 180


def test_what_comes_into_view_is_fetched_the_soonest_first():
    plan = Fetching().step(90, 9)
    assert [w.chunk for w in plan.fetch] == sorted(w.chunk for w in plan.fetch)
    assert {w.chunk for w in plan.fetch} == {41, 42}
    assert all(off(w.key, 90) > 0 for w in plan.fetch if w.confidence > 0.5)
    assert max(w.confidence for w in plan.fetch if w.chunk == 41) > max(
        w.confidence for w in plan.fetch if w.chunk == 42
    )


def test_turning_back_cancels_what_lies_on_the_other_side():
    fetching = Fetching()
    right = {w.key for w in fetching.step(90, 9).fetch}
    plan = fetching.step(63, -9)
    assert plan.cancel
    assert set(plan.cancel) <= right
    assert all(off(key, 90) > 0 for key in plan.cancel)
    assert not set(plan.cancel) & set(fetching.prefetcher.under_way)
    assert any(off(w.key, 63) < 0 for w in plan.fetch)
    assert fetching.stats["cancelled"] == len(plan.cancel)


def test_going_on_cancels_nothing_that_is_expected_next_and_names_nothing_twice():
    fetching = Fetching()
    first = fetching.step(90, 9)
    second = fetching.step(117, 9)
    assert not {w.key for w in first.fetch if w.chunk == 42} & set(second.cancel)
    assert not {w.key for w in first.fetch} - set(second.cancel) & {w.key for w in second.fetch}


@pytest.mark.slow
@given(st.integers(1, 4), st.lists(st.tuples(st.floats(0, 360), st.floats(-20, 20), st.booleans()), max_size=6))
def test_never_more_than_twice_the_slots_are_under_way_and_every_request_ends_once(slots, steps):
    fetching, twin = Fetching(slots), Fetching(slots)
    held: tuple[ChunkKey, ...] = ()
    for yaw, turn, comes in steps:
        plan = fetching.step(yaw, turn, at_hand=held)
        assert plan == twin.step(yaw, turn, at_hand=held)
        assert len(plan.fetch) <= 2 * slots
        under_way = fetching.prefetcher.under_way
        assert len(under_way) <= 2 * slots
        assert not set(under_way) & set(held)
        if comes:
            held = tuple(under_way)
            for each in (fetching, twin):
                each.prefetcher.ended(held)
    stats, kept = fetching.prefetcher.stats, sum(r.came for r in fetching.prefetcher._requests.values())
    ended = stats.used + stats.early + stats.late + stats.wasted + stats.cancelled + stats.gone
    assert stats.requested == ended + kept + len(fetching.prefetcher.under_way)


def begun() -> tuple[Fetching, ChunkKey]:
    """A prefetcher that has turned once, and a key that it fetches for the next chunk, 41."""
    fetching = Fetching(least=0.5)
    return fetching, next(w.key for w in fetching.step(90, 9).fetch if w.chunk == 41)


def test_a_fetch_that_came_by_when_it_was_expected_is_used():
    fetching, key = begun()
    fetching.prefetcher.ended([key])
    fetching.step(117, 9, recalled=(key,), at_hand=(key,))
    assert fetching.stats["used"] == 1


def test_a_fetch_that_was_needed_while_on_its_way_is_late():
    fetching, key = begun()
    fetching.step(117, 9, recalled=(key,), at_hand=(key,))
    assert fetching.stats["late"] == 1
    assert key not in fetching.prefetcher.under_way


def test_a_fetch_that_was_needed_only_later_is_early():
    fetching, key = begun()
    fetching.prefetcher.ended([key])
    fetching.step(90, 0, at_hand=(key,))
    fetching.step(117, 9, recalled=(key,), at_hand=(key,))
    assert fetching.stats["early"] == 1


def test_a_fetch_that_is_let_go_of_unused_is_wasted():
    fetching, key = begun()
    fetching.prefetcher.ended([key])
    fetching.step(63, -9)
    assert fetching.stats["wasted"] == 1


def test_what_is_recalled_without_being_named_is_unforeseen_once():
    fetching, _ = begun()
    far = fetching.lineage.key(35)
    fetching.step(117, 9, recalled=(far,), at_hand=(far,))
    fetching.step(144, 9, recalled=(far,), at_hand=(far,))
    assert fetching.stats["unforeseen"] == 1


def test_what_is_at_hand_or_gone_is_not_fetched():
    fetching = Fetching()
    named = [w.key for w in fetching.step(90, 9).fetch]
    fetching.prefetcher.ended(gone=named[:1])
    again = Fetching().step(90, 9, at_hand=tuple(named[1:2]))
    assert named[1] not in {w.key for w in again.fetch}
    assert named[0] not in {w.key for w in fetching.step(90, 9).fetch}
    assert fetching.stats["gone"] == 1


def test_a_chunk_that_was_gone_and_is_made_again_is_fetched_again():
    fetching = Fetching()
    first = fetching.step(90, 9).fetch[0].key
    fetching.prefetcher.ended(gone=[first])
    fetching.step(90, 9, recalled=(first,), at_hand=(first,))
    assert first in {w.key for w in fetching.step(90, 9).fetch}, "it is not at hand any more"


def test_only_what_is_sure_enough_is_fetched():
    anything, sure = Fetching(least=0.0).step(90, 9), Fetching(least=0.7).step(90, 9)
    assert {w.key for w in sure.fetch} == {w.key for w in anything.fetch if w.confidence >= 0.7}
    assert 0 < len(sure.fetch) < len(anything.fetch)


def test_poses_from_before_a_gap_are_forgotten():
    fetching, other = Fetching(), Fetching()
    fetching.step(90, 9)
    fetching.at = other.at = 45
    fetching.step(200, 2), other.step(200, 2)
    assert {*fetching.prefetcher.under_way} == {*other.prefetcher.under_way}


def test_a_chunk_that_was_not_drawn_in_the_end_leaves_no_poses():
    straight, astray, new = Fetching(), Fetching(), Fetching()
    for each in (straight, astray):
        each.step(18, 9)
        each.step(45, 9)
    astray.step(300, -15)
    astray.at -= 1
    straight.step(120, 5), astray.step(120, 5), new.step(120, 5)  # a jump, for those who know what was before
    found, expected, unknowing = (
        [f.confidence for f in each.prefetcher._forecasts] for each in (astray, straight, new)
    )
    assert found == expected != unknowing


def test_an_answer_too_many_or_too_few_is_refused():
    fetching = Fetching()
    with pytest.raises(InvalidInput, match="asked 0 things, got 1"):
        fetching.prefetcher.plan([[]])


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"ahead": 0}, {"ahead": 4}, {"least": -0.1}, {"least": 1.1}])
def test_a_config_out_of_range_is_refused(wrong):
    with pytest.raises(InvalidConfig, match=str(next(iter(wrong.values())))):
        PrefetchConfig(**({"slots": 2, "fov": FOV, "aspect": ASPECT, "view_range": RANGE} | wrong))
