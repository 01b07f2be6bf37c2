from functools import cache
from math import hypot

import numpy as np
import pytest

from pocket.rooms import RADIUS, TEST_SEEDS, clearance
from services.generator.metrics import content_revisits
from services.generator.recording import revisits
from services.generator.scenarios import SCENARIOS, STEP_A_FRAME, TURN_A_FRAME, Scenario, path, room_of
from worldkv.actions import follow

GAP = 18


@cache
def scenario(name: str, seed: int = 0) -> Scenario:
    return SCENARIOS[name](seed)


def poses(s: Scenario) -> np.ndarray:
    return np.stack([w.pose for w in s.walkers])


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_parts_are_whole_chunks(name):
    s = scenario(name)
    assert s.shown % 3 == 0
    assert (len(s.actions) + 1) % 3 == 0
    assert 0 < s.shown < len(s.actions) + 1


@pytest.mark.parametrize("name", SCENARIOS)
def test_nobody_walks_into_a_wall_or_hurries(name):
    s = scenario(name)
    free = follow(s.start, s.actions)
    assert [(w.x, w.z) for w in free] == [(w.x, w.z) for w in s.walkers]  # no wall was met
    assert min(clearance(s.rooms, w.x, w.z) for w in s.walkers) >= RADIUS
    assert max(abs(a.turn) for a in s.actions) <= TURN_A_FRAME + 1e-9
    assert max(hypot(a.forward, a.strafe) for a in s.actions) <= STEP_A_FRAME + 1e-9


@pytest.mark.parametrize("name", SCENARIOS)
def test_worlds_are_those_reserved_for_evaluation(name):
    assert scenario(name).rooms.seed in TEST_SEEDS


def test_a_seed_gives_the_same_walk_and_another_seed_another():
    assert np.array_equal(poses(SCENARIOS["door"](1)), poses(SCENARIOS["door"](1)))
    assert not np.array_equal(poses(scenario("pan90"))[0], poses(scenario("pan90", 1))[0])


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("never returns", "loops", "open")])
def test_a_walk_that_returns_revisits_what_was_shown(name):
    s = scenario(name)
    assert len(revisits(poses(s), s.shown, GAP)) >= 8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["loops", "open"])
def test_what_comes_back_from_elsewhere_is_hardly_ever_the_same_view(name, seed):
    s = scenario(name, seed)
    generated = len(poses(s)) - s.shown
    assert s.rule == "content"
    assert len(revisits(poses(s), s.shown, GAP)) <= 0.1 * generated
    assert len(content_revisits(s.rooms, poses(s), s.shown, GAP)) >= 0.4 * generated


@pytest.mark.parametrize("seed", range(4))
def test_the_second_loop_keeps_its_distance_and_looks_aside(seed):
    s = scenario("loops", seed)
    track, again = poses(s)[: s.shown, :3, 3], poses(s)[s.shown + 6 :]  # six frames to cross over
    near = np.linalg.norm(again[:, None, :3, 3] - track, axis=-1).min(1)
    assert near.min() > 0.25
    assert near.max() < 0.8
    aside = (s.walkers[s.shown + 6].yaw - s.start.yaw) % 90
    assert 8 <= min(aside, 90 - aside) <= 25


def test_one_large_room_has_no_inner_walls():
    s = scenario("open")
    assert len(s.rooms.axis) == 4
    assert {room_of(s.rooms, w.x, w.z) for w in s.walkers} == {0}


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_that_never_returns_hardly_revisits(seed):
    s = scenario("never returns", seed)
    assert len(revisits(poses(s), s.shown, GAP)) <= 0.1 * (len(s.actions) + 1 - s.shown)


@pytest.mark.parametrize("name", ["pan90", "pan180", "pan360"])
def test_a_pan_ends_where_it_began_and_stays_on_the_spot(name):
    s = scenario(name)
    assert np.allclose(poses(s)[-1], poses(s)[0], atol=1e-9)
    assert np.ptp([(w.x, w.z) for w in s.walkers], axis=0).max() == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["door", "door backwards"])
def test_the_door_is_passed_and_the_way_back_leads_home(name, seed):
    s = scenario(name, seed)
    rooms = [room_of(s.rooms, w.x, w.z) for w in s.walkers]
    there = rooms[s.shown - 1]
    assert rooms[0] != there
    assert rooms[-1] == rooms[0]
    nearest = min(hypot(w.x - x, w.z - z) for w in s.walkers[: s.shown] for x, z in s.rooms.doors)
    assert nearest < STEP_A_FRAME
    assert np.allclose(poses(s)[-1][:3, 3], poses(s)[0][:3, 3], atol=1e-6)


def test_one_walks_back_from_the_door_as_one_looks_unless_backwards():
    s, b = scenario("door"), scenario("door backwards")
    assert s.shown == b.shown
    assert np.array_equal(poses(s)[: s.shown], poses(b)[: b.shown])
    assert all(a.forward >= 0 for a in s.actions)
    assert any(a.forward < 0 for a in b.actions)
    assert np.allclose(poses(b)[-1], poses(b)[0], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_walk_has_many_rooms_and_candidates(seed):
    s = scenario("wide", seed)
    visited = {room_of(s.rooms, w.x, w.z) for w in s.walkers[: s.shown]}
    assert len(visited) >= 3
    assert s.shown // 3 - 2 >= 60  # neither the sink nor the recent chunk


@pytest.mark.parametrize("name", ["spins", "wander"])
def test_long_walks_are_four_times_the_trained_length(name):
    assert len(scenario(name).actions) + 1 >= 4 * 48


def test_a_square_is_walked_twice_the_same_way():
    s = scenario("square")
    once = len(s.actions) // 2
    assert np.allclose(poses(s)[1:once], poses(s)[s.shown + 1 : s.shown + once], atol=0.3)


def test_a_path_of_the_grammar_becomes_a_walk():
    s = path(0, "R90_L90", shown=15)
    assert s.shown == 15
    assert np.allclose(poses(s)[-1], poses(s)[0], atol=1e-9)
