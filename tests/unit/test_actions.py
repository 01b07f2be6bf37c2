from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.scenarios import reverse
from worldkv.actions import PITCH_LIMIT, Action, Pace, Walker, follow, parse_path
from worldkv.errors import InvalidInput, InvalidPose
from worldkv.pose import camera


def walked(path: str) -> Walker:
    return follow(Walker(0.0, 0.0), parse_path(path))[-1]


def test_right_is_clockwise_seen_from_above_and_forward_follows():
    end = walked("R90W2")
    assert (end.x, end.z, end.yaw) == pytest.approx((2.0, 0.0, 90.0))


@pytest.mark.parametrize(("path", "x", "z"), [("W", 0, 1), ("S2", 0, -2), ("D1.5", 1.5, 0), ("A", -1, 0)])
def test_each_step_letter_goes_its_way(path, x, z):
    end = walked(path)
    assert (end.x, end.z) == pytest.approx((x, z))


def test_a_piece_is_walked_at_an_even_pace_no_faster_than_asked():
    actions = parse_path("R100W1", Pace(turn=9, step=0.3))
    turns, steps = [a.turn for a in actions if a.turn], [a.forward for a in actions if a.forward]
    assert len(turns) == 12
    assert max(turns) <= 9
    assert len(steps) == 4
    assert len(set(turns)) == len(set(steps)) == 1


def test_standing_still_counts_frames():
    assert parse_path("_5") == [Action()] * 5
    assert len(parse_path("_")) == 3


def test_the_number_of_the_last_turn_serves_those_before_it():
    assert parse_path("R_L45") == parse_path("R45_L45")
    assert parse_path("RL") == parse_path("R90L90")


@pytest.mark.parametrize(("path", "position"), [("R90X", 3), ("w1", 0), ("W1 S1", 2), ("R-90", 1), ("R9.W", 2)])
def test_an_odd_letter_is_named_with_its_position(path, position):
    with pytest.raises(InvalidInput, match=f"position {position}, got {path[position]!r}"):
        parse_path(path)


@pytest.mark.parametrize("path", ["_9999999999", "W99999999999", "R" + "9" * 400, "_999999R90"])
def test_a_path_without_end_is_refused_before_it_takes_memory(path):
    with pytest.raises(InvalidInput, match="at most 1000000 latent frames"):
        parse_path(path)


@pytest.mark.parametrize("value", [nan, inf])
def test_an_action_is_finite(value):
    with pytest.raises(InvalidInput, match="finite"):
        Action(turn=value)


def test_looking_up_stops_at_the_limit():
    assert walked("U80U80").pitch == PITCH_LIMIT
    assert walked("J80J80").pitch == -PITCH_LIMIT


def test_a_collision_rule_decides_where_a_step_leads():
    wall = follow(Walker(0, 0), parse_path("W2"), lambda x, z, dx, dz: (x, min(z + dz, 1.0)))
    assert wall[-1].z == 1.0


PLACES = st.floats(-1e3, 1e3)


@given(PLACES, PLACES, PLACES, st.floats(-720, 720), st.floats(-PITCH_LIMIT, PITCH_LIMIT))
def test_a_walker_is_found_again_from_where_it_stands(x, y, z, yaw, pitch):
    walker = Walker(x, z, yaw, pitch, y)
    found = Walker.of(walker.pose)
    assert (found.x, found.y, found.z) == (x, y, z)
    assert found.pitch == pytest.approx(pitch, abs=1e-9)
    assert np.allclose(found.pose, walker.pose, atol=1e-12)
    assert -180 <= found.yaw <= 180


@pytest.mark.parametrize("tilt", [1, 90, 180])
def test_a_camera_that_leans_to_a_side_is_no_walker(tilt):
    pose = camera(1, 2, 3, 40)
    roll = np.eye(4)
    roll[:2, :2] = camera(0, 0, 0, tilt)[:3:2, :3:2]
    with pytest.raises(InvalidPose, match=rf"tilted by -?{tilt}"):
        Walker.of(pose @ roll)


@pytest.mark.parametrize("path", ["R90", "W2R30W1", "R270A1S2", "U20R10D3"])
def test_reverse_leads_back_through_the_same_places(path):
    out = follow(Walker(3.0, 4.0, 20.0), parse_path(path))
    back = follow(out[-1], reverse(parse_path(path)))
    assert np.allclose([w.pose for w in out[::-1]], [w.pose for w in back], atol=1e-9)
