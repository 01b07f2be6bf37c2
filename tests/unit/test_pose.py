"""Laws of poses: distances and angles, and what is refused."""

from math import pi, radians

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as some
from worldkv.errors import InvalidPose
from worldkv.pose import MAX_UNITS, Pose, angle, camera, check, distance, stack

poses = some.poses()


@given(poses, poses)
def test_distance_and_angle_are_symmetric(a, b):
    assert distance(a, b) == distance(b, a) >= 0
    assert angle(a[:3, :3], b[:3, :3]) == pytest.approx(angle(b[:3, :3], a[:3, :3]), abs=1e-6)
    assert 0 <= angle(a[:3, :3], b[:3, :3]) <= pi


@given(poses)
def test_distance_and_angle_to_itself_are_zero(a):
    assert distance(a, a) == 0
    assert angle(a[:3, :3], a[:3, :3]) == pytest.approx(0, abs=1e-6)


@given(poses, poses, poses)
def test_a_common_rigid_motion_changes_nothing(a, b, motion):
    assert distance(motion @ a, motion @ b) == pytest.approx(distance(a, b), abs=1e-6)
    x, y = angle((motion @ a)[:3, :3], (motion @ b)[:3, :3]), angle(a[:3, :3], b[:3, :3])
    assert np.cos(x) == pytest.approx(np.cos(y), abs=1e-9)


@given(poses, poses)
def test_composed_and_inverted_poses_are_poses(a, b):
    check(np.stack([a @ b, np.linalg.inv(a)]))


@given(st.lists(poses, min_size=1, max_size=4))
def test_batches_give_what_single_poses_give(batch):
    many = np.stack(batch)
    assert distance(many, batch[0]).tolist() == [float(distance(pose, batch[0])) for pose in batch]
    assert angle(many[:, :3, :3], batch[0][:3, :3]).tolist() == [
        float(angle(pose[:3, :3], batch[0][:3, :3])) for pose in batch
    ]


@given(*[st.floats(-100, 100)] * 3, st.floats(-180, 180), st.floats(-89, 89))
def test_a_camera_stands_where_it_is_put_and_turns_as_far_as_told(x, y, z, yaw, pitch):
    pose = check(camera(x, y, z, yaw, pitch))
    assert pose[:3, 3].tolist() == [x, y, z]
    level = camera(0, 0, 0, yaw)
    assert np.cos(angle(level[:3, :3], pose[:3, :3])) == pytest.approx(np.cos(radians(pitch)))
    assert np.cos(angle(np.eye(3), level[:3, :3])) == pytest.approx(np.cos(radians(yaw)))


def test_yaw_turns_right_and_pitch_looks_up():
    assert camera(0, 0, 0, yaw=90)[:3, 2] == pytest.approx([1, 0, 0])
    assert camera(0, 0, 0, pitch=90)[:3, 2] == pytest.approx([0, -1, 0])


def changed(row: int, column: int, value: float) -> np.ndarray:
    pose = np.eye(4)
    pose[row, column] = value
    return pose


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (np.eye(3), r"shape \[..., 4, 4\], got \(3, 3\)"),
        (np.float64(1), "shape"),
        (changed(0, 3, np.nan), "finite, got 1 values"),
        (changed(2, 2, np.inf), "finite"),
        (changed(3, 0, 0.1), "last row"),
        (changed(3, 3, 2), "last row"),
        (changed(0, 0, 1.1), "off the identity by 0.21"),
        (changed(0, 1, 1e200), "rotation, got numbers up to 1e.200"),
        (np.array([[1e200, 1e200, 0, 0], [1e200, -1e200, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "up to 1e.200"),
        (changed(0, 0, -1), "reflection"),
        (changed(1, 3, 2 * MAX_UNITS), "within 1e.09 units of the origin, got 2e"),
        (np.stack([np.eye(4), changed(0, 0, -1)]), "reflection"),
    ],
)
def test_what_is_not_a_rigid_motion_is_refused_with_its_reason(wrong, because):
    with pytest.raises(InvalidPose, match=because):
        check(wrong)


def test_a_pose_is_one_checked_matrix_that_cannot_change():
    matrix = camera(1, 2, 3, 30)
    pose = Pose(matrix)
    matrix[0, 3] = 99
    assert pose.translation.tolist() == [1, 2, 3]
    assert pose.rotation.shape == (3, 3)
    with pytest.raises(ValueError, match="read-only"):
        pose.matrix[0, 3] = 99
    with pytest.raises(InvalidPose, match="one 4 x 4 matrix"):
        Pose(np.stack([matrix, matrix]))


@given(poses, poses)
def test_poses_are_equal_when_their_matrices_are(a, b):
    assert Pose(a) == Pose(a.copy())
    assert hash(Pose(a)) == hash(Pose(a.copy()))
    assert (Pose(a) == Pose(b)) == np.array_equal(a, b)
    assert Pose(a) != a.tolist()


def test_stacked_poses_keep_their_order():
    assert stack([]).shape == (0, 4, 4)
    assert stack([Pose(camera(n, 0, 0)) for n in range(3)])[:, 0, 3].tolist() == [0, 1, 2]
