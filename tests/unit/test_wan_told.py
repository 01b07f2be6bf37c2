"""What the Wan models are told: camera rays, keys and mouse, noise levels."""

from math import pi, tan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wan_small import GRID, random_adapter
from services.generator.adapters.wan.camera import rays
from services.generator.adapters.wan.config import CameraConfig
from services.generator.adapters.wan.moves import driving, motion, running, since_before, walking, wasd
from services.generator.adapters.wan.schedule import picked, warp, warped
from services.generator.adapters.wan.told import rows_read
from services.generator.adapters.wan.variants import (
    LINGBOT_CAM,
    MATRIX_GTA,
    VARIANTS,
    lingbot_world_fast,
    lingbot_world_v2,
)
from services.generator.session import Session, SessionConfig
from services.generator.world_model import Conditioning, Subject
from worldkv.actions import AXES, Action, Walker, follow

STEP = 0.5


def poses_of(*actions: Action) -> np.ndarray:
    return np.stack([walker.pose for walker in follow(Walker(3.0, 1.0, 200.0, 10.0), actions)])


@pytest.mark.parametrize(
    ("shift", "fast", "second"),
    [(10, (999, 978, 947, 825), (999, 967, 908, 768)), (5, (999, 957, 899, 702), (999, 937, 833, 624))],
)
def test_lingbot_is_told_the_published_times(shift, fast, second):
    assert tuple(level.time for level in lingbot_world_fast(shift=shift).levels) == fast
    assert tuple(level.time for level in lingbot_world_v2(shift, small=True).levels) == second


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("matrix-game-2.0-universal", (1000, 908.84, 713.98)),
        ("matrix-game-2.0-gta", (1000, 908.84, 713.98)),
        ("matrix-game-2.0-templerun", (1000, 937.5, 833.33, 625)),
        ("self-forcing", (1000, 937.5, 833.33, 625)),
    ],
)
def test_the_others_are_told_the_published_times(name, times):
    assert [level.time for level in VARIANTS[name].levels] == pytest.approx(times, abs=0.005)


def test_noise_falls_from_step_to_step_and_begins_pure():
    for variant in VARIANTS.values():
        sigmas = [level.sigma for level in variant.levels]
        assert sigmas == sorted(sigmas, reverse=True)
        assert sigmas[0] == pytest.approx(1, abs=1e-3)


@given(st.floats(0, 1), st.floats(1, 20))
def test_warping_moves_towards_noise_and_keeps_the_ends(share, shift):
    assert warp(share, shift) >= share - 1e-12
    assert warp(share, 1.0) == share
    assert warp(0.0, shift) == 0
    assert warp(1.0, shift) == pytest.approx(1)
    assert warped([1000], shift)[0].time == pytest.approx(1000)
    assert picked([0], shift)[0].time == int(1000 * warp(0.999, shift))


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-170, 170), st.floats(-20, 20), st.floats(-180, 180))
def test_motion_is_the_action_that_led_there(forward, strafe, turn, look, yaw):
    action = Action(forward, strafe, turn, look)
    poses = np.stack([walker.pose for walker in follow(Walker(-2.0, 5.0, yaw, 5.0), [action, action])])
    moved = motion(poses)
    for frame in range(2):
        got = (moved.forward[frame], moved.right[frame], moved.turn[frame], moved.look[frame], moved.up[frame])
        assert got == pytest.approx((forward, strafe, turn, look, 0), abs=1e-6)


def test_keys_of_each_model_stand_in_its_own_order():
    ways = [Action(forward=STEP), Action(forward=-STEP), Action(strafe=-STEP), Action(strafe=STEP), Action(turn=6)]
    moved = motion(poses_of(*ways))
    eye = np.eye(4)
    assert np.array_equal(wasd(moved, STEP), np.stack([eye[0], eye[2], eye[1], eye[3], 0 * eye[0]]))
    keys, mouse = walking(moved, STEP, 4)
    assert np.array_equal(keys, np.stack([*eye, 0 * eye[0]]))
    assert mouse[:, 0] == pytest.approx([0] * 5, abs=1e-9)
    assert mouse[:, 1] == pytest.approx([0, 0, 0, 0, 0.1])  # 1.5 degrees a picture, 15 a unit
    keys, mouse = driving(moved, STEP, 4)
    assert np.array_equal(keys, [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]])
    assert mouse[:, 1] == pytest.approx([0, 0, 0, 0, 0.1])
    keys, mouse = running(moved, STEP, 4)
    assert keys.argmax(1).tolist() == [0, 0, 5, 6, 4]
    assert (keys.sum(1) == 1).all()
    assert mouse.shape == (5, 0)


def test_looking_up_is_the_mouse_upwards_and_never_more_than_was_trained():
    keys, mouse = walking(motion(poses_of(Action(look=3.0), Action(look=-50.0))), STEP, 4)
    assert mouse[:, 0] == pytest.approx([0.05, -0.1])
    assert not keys.any()


def test_slow_drift_is_no_held_key():
    keys, _ = walking(motion(poses_of(Action(forward=0.04 * STEP, strafe=-0.04 * STEP))), STEP, 4)
    assert not keys.any()


def test_running_right_up_and_down_are_keys_of_their_own():
    poses = np.stack([Walker(0.0, 0.0, y=y).pose for y in (0.0, -STEP, 0.0)])  # y points down
    keys, _ = running(motion(poses), STEP, 4)
    assert keys.argmax(1).tolist() == [1, 2]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", [name for name, each in VARIANTS.items() if each.controls])
def test_keys_and_mouse_stand_for_just_the_axes_that_a_model_can_be_told(name, axis):
    variant = VARIANTS[name]
    assert variant.controls
    for amount in (0.5, -0.5):
        done, nothing = (
            np.concatenate(variant.controls(motion(poses_of(each)), variant.step, 4), -1)
            for each in (Action(**{axis: amount * (1 if axis in ("forward", "strafe") else 9)}), Action())
        )
        assert np.array_equal(done, nothing) == (axis not in variant.axes)


async def test_what_a_model_cannot_be_told_moves_nobody():
    session = Session(random_adapter(MATRIX_GTA), SessionConfig("window"), Walker(0.0, 0.0))
    step = await session.step(Action(forward=0.4, strafe=0.4, turn=5.0, look=5.0))
    assert session.walker == follow(Walker(0.0, 0.0), [Action(forward=0.4, turn=5.0)] * session.frames)[-1]
    assert np.array_equal(step.poses[-1], session.walker.pose)


def test_a_frame_reads_the_rows_from_three_frames_before_it():
    frames = rows_read(begin=9, frames=3, back=3, pictures=4)
    assert frames.shape == (3, 12)
    assert frames[0].tolist() == [6, 7, 7, 7, 7, 8, 8, 8, 8, 9, 9, 9]
    assert frames[2].tolist() == [8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11]


def test_the_first_row_stands_for_those_before_the_world_began():
    frames = rows_read(begin=0, frames=3, back=3, pictures=4)
    assert frames[0].tolist() == [0] * 12
    assert frames[1].tolist() == [0] * 9 + [1] * 3
    assert frames[2].tolist() == [0] * 5 + [1] * 4 + [2] * 3


@pytest.mark.parametrize("chunk", range(4))
def test_an_action_that_is_held_fills_all_rows_of_its_mouse_from_the_first_chunk_on(chunk):
    adapter = random_adapter(VARIANTS["matrix-game-2.0-universal"])
    poses = np.stack([walker.pose for walker in follow(Walker(0.0, 0.0), [Action(turn=3.0)] * 12)[1:]])
    state = adapter.start(Subject())
    for i in range(chunk):
        state.advance(poses[3 * i : 3 * i + 3], state.past)
    part = poses[3 * chunk : 3 * chunk + 3]
    acts = adapter.teller.tell([Conditioning(part, state.conditioning(part), state)]).acts
    assert acts.mouse.shape == (1, 3, 24)
    assert torch.allclose(acts.mouse[..., 1::2], torch.tensor(0.05))
    assert torch.equal(acts.mouse[..., 0::2], torch.zeros(1, 3, 12))
    assert acts.valid.sum() == 3 + min(3, 3 * chunk)
    again = adapter.teller.tell([Conditioning(part, state.conditioning(part))]).acts  # outside a walk
    assert torch.equal(again.mouse, acts.mouse)
    assert again.valid.sum() == 3


def test_the_first_picture_is_given_to_the_first_frame_and_its_latents_settle():
    adapter = random_adapter(LINGBOT_CAM)
    state, poses, settled = adapter.start(Subject()), np.eye(4)[None].repeat(3, 0), adapter.imagine(Subject())().given
    assert settled is not None
    given = []
    for _ in range(2):
        given.append(adapter.teller.tell([Conditioning(poses, state.conditioning(poses), state)]).given[0])
        state.advance(poses, None)
    first, second = given
    assert first.shape == (3, 20, *GRID)
    assert torch.equal(first[:, :4].amax((1, 2, 3)), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(first[:, 4:], settled)
    assert not second[:, :4].any()
    assert torch.equal(second[:, 4:], settled[-1:].expand(3, -1, -1, -1))


def test_motion_since_the_frame_before_is_in_the_frame_befores_own_axes():
    relative = since_before(poses_of(Action(turn=30.0), Action(forward=STEP)), STEP)
    assert np.allclose(relative[0, :3, 3], 0)
    ahead = relative[1, :3, 3]
    assert np.linalg.norm(ahead) == pytest.approx(1)
    assert ahead[0] == pytest.approx(0, abs=1e-9)  # straight on, pitch tilts it in y and z alone


@pytest.mark.parametrize("act", [False, True])
def test_rays_are_folded_pixel_by_pixel(act):
    """Against a loop over tokens, quantities and pixels."""
    config = CameraConfig(origin=False, keys=4, cell=2) if act else CameraConfig(cell=2)
    moves = torch.from_numpy(since_before(poses_of(Action(forward=0.3, turn=20.0), Action(look=9.0)), STEP)).float()
    keys = torch.rand(1, 2, config.keys)
    folded = rays(config, moves[None], keys, (4, 6), 2)
    assert folded.shape == (1, 2, 6, config.channels * 4)
    focal = 12 / 2 / tan(config.fov * pi / 360)
    for frame in range(2):
        for token in range(6):
            wanted = []
            for quantity in range(config.channels // 4):
                for row, column in np.ndindex(2, 2):
                    for down, right in np.ndindex(2, 2):
                        v = (token // 3 * 2 + down) * 2 + row + 0.5
                        u = (token % 3 * 2 + right) * 2 + column + 0.5
                        ray = torch.tensor([(u - 6) / focal, (v - 4) / focal, 1.0])
                        direction = moves[frame, :3, :3] @ (ray / ray.norm())
                        told = (direction, keys[0, frame]) if act else (moves[frame, :3, 3], direction)
                        wanted.append(float(torch.cat(told)[quantity]))
            assert folded[0, frame, token].tolist() == pytest.approx(wanted, abs=1e-6)
