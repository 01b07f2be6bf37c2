import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import poses
from worldkv.actions import PITCH_LIMIT, Action, Walker
from worldkv.errors import InvalidInput
from worldkv.v1 import chunk_pb2
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import (
    FORMATS,
    MODES,
    action_message,
    action_of,
    format_of,
    mode_of,
    pose_messages,
    poses_of,
    walker_message,
    walker_of,
)

number = st.floats(-1e6, 1e6)


@given(number, number, number, number)
def test_an_action_crosses_as_it_is(forward, strafe, turn, look):
    action = Action(forward, strafe, turn, look)
    assert action_of(action_message(action)) == action


@given(number, number, number, st.floats(-PITCH_LIMIT, PITCH_LIMIT), number)
def test_a_walker_crosses_as_it_is(x, z, yaw, pitch, y):
    walker = Walker(x, z, yaw, pitch, y)
    assert walker_of(walker_message(walker)) == walker


@given(st.lists(poses(), max_size=4))
def test_poses_cross_as_they_are(some):
    matrices = np.array(some).reshape(-1, 4, 4)
    np.testing.assert_array_equal(poses_of(pose_messages(matrices)), matrices)


@pytest.mark.parametrize(
    "message", [pb.Walker(x=float("nan")), pb.Walker(yaw=float("inf")), pb.Walker(pitch=86), pb.Walker(z=1e12)]
)
def test_a_walker_stands_where_one_can(message):
    with pytest.raises(InvalidInput):
        walker_of(message)


def test_a_pose_of_another_size_is_refused():
    with pytest.raises(InvalidInput, match="12 numbers"):
        poses_of([chunk_pb2.Pose(matrix=range(11))])


def test_what_is_not_said_means_what_the_contract_says():
    assert mode_of(0) == "worldkv"
    assert format_of(0) == "jpeg"
    assert all(mode_of(each) == name for name, each in MODES.items())
    assert all(format_of(each) == name for name, each in FORMATS.items())
    with pytest.raises(InvalidInput, match="mode"):
        mode_of(17)
    with pytest.raises(InvalidInput, match="pictures"):
        format_of(17)
