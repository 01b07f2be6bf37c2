from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from pocket.rooms import build
from services.generator.metrics import content_revisits, gain_closed, psnr, score, ssim
from services.generator.recording import ChunkLog, Recording, revisits
from services.generator.scenarios import SCENARIOS, one_room
from worldkv.pose import camera

GAP = 18


def pan(out: int = 30, back: int = 30, degrees: float = 3.0) -> np.ndarray:
    """Poses of a turn away and back: the first `out` are shown."""
    yaws = [i * degrees for i in range(out)] + [(out - 1 - i) * degrees for i in range(1, back + 1)]
    return np.stack([camera(5.0, 0.0, 5.0, yaw) for yaw in yaws])


def noise(frames: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)


def recording(pictures: np.ndarray, truth: np.ndarray, poses: np.ndarray, shown: int) -> Recording:
    chunks = tuple(ChunkLog(i, (), 0.1, 0.01, 0, 0) for i in range(len(poses) // 3))
    return Recording("pan", 0, "worldkv", build(0), truth, pictures, poses, shown, chunks)


def test_the_way_back_of_a_pan_revisits_the_way_out():
    pairs = dict(revisits(pan(), 30, GAP))
    assert pairs[59 - 1] == 0
    assert all(now + before == 58 for now, before in pairs.items() if now < 59)


def test_what_was_shown_recently_is_no_revisit():
    near, far = (dict(revisits(pan(), 30, gap)) for gap in (GAP, 40))
    assert min(near) > 30 + GAP // 2 - 2
    assert far.keys() < near.keys()
    for now in near:
        seen = [i for i in range(30) if abs((58 - now) - i) * 3.0 <= 5.0]
        assert now - max(seen) > GAP


def test_a_pause_at_the_turning_point_keeps_the_last_view_fresh():
    there = pan(12, 11)
    paused = np.concatenate([there[:12], np.repeat(there[11:12], 30, 0), there[12:]])
    again = dict(revisits(paused, 42, GAP))
    assert 42 not in again  # 3 degrees off what was shown a frame ago
    assert again[43] == 9


def test_a_path_that_never_returns_revisits_nothing():
    ahead = np.stack([camera(0.0, 0.0, 0.4 * i) for i in range(90)])
    assert revisits(ahead, 45, GAP) == []


def test_a_place_seen_from_the_other_side_is_no_revisit():
    poses = np.stack([camera(5, 0, 5, 0.0)] * 30 + [camera(5, 0, 5, 180.0)] * 30)
    assert revisits(poses, 30, GAP) == []


def test_only_shown_frames_are_revisited():
    poses = np.concatenate([pan(30, 30), pan(30, 30)])
    assert all(before < 30 <= now for now, before in revisits(poses, 30, GAP))


def test_where_views_come_back_exactly_their_content_does():
    s = SCENARIOS["pan180"](0)
    poses = np.stack([w.pose for w in s.walkers])
    exact, content = revisits(poses, s.shown, GAP), content_revisits(s.rooms, poses, s.shown, GAP)
    again = {now for now, _ in content}
    assert again <= {now for now, _ in exact}
    assert len(again) >= 0.8 * len(exact)


def test_content_that_was_shown_within_the_gap_is_no_revisit():
    s = SCENARIOS["pan180"](0)
    poses = np.stack([w.pose for w in s.walkers])
    assert content_revisits(s.rooms, poses, s.shown, len(poses)) == []


def behind_a_wall() -> np.ndarray:
    """Shown: beside the wall x = const of world 0, looking through it; generated: the same way, from beyond it."""
    wall = build(0).place[4]
    return np.stack([camera(wall + 0.4, 0, 2.0, -90.0)] * 3 + [camera(wall - 1.0, 0, 2.0, -90.0)] * 30)


def test_what_a_wall_hides_was_not_shown():
    rooms, poses = build(0), behind_a_wall()
    assert content_revisits(rooms, poses, 3, GAP) == []
    beyond = content_revisits(one_room(rooms), poses, 3, GAP)
    assert min(now for now, _ in beyond) == 3 + GAP
    assert max(now for now, _ in beyond) == len(poses) - 1


def test_a_first_visit_from_elsewhere_is_not_compared():
    rooms, poses = one_room(build(0)), behind_a_wall()
    truth = noise(33)
    s = score(replace(recording(truth, truth, poses, 3), rooms=rooms, rule="content"), GAP)
    assert s.frames > 0
    assert s.truth_psnr == 60.0
    assert isnan(s.first_psnr)
    assert isnan(s.first_ssim)


def test_psnr_of_equal_pictures_is_the_ceiling_and_falls_with_the_error():
    a = np.full((3, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 1
    b[2] += 10
    assert psnr(a, b) == pytest.approx([60.0, 48.13, 28.13], abs=0.01)


def test_ssim_is_one_for_equal_pictures_and_near_none_for_noise():
    a, b = noise(2), noise(2, seed=1)
    assert ssim(a, a) == pytest.approx([1.0, 1.0])
    assert abs(ssim(a, b)).max() < 0.2


def test_a_score_is_over_revisit_frames_only():
    poses = pan()
    truth = np.concatenate([noise(30), noise(30)[::-1]])
    pictures = truth.copy()
    pictures[30:36] = 0  # still fresh: must not count
    again = [now for now, _ in revisits(poses, 30, GAP)]
    assert min(again) >= 36
    s = score(recording(pictures, truth, poses, 30), GAP)
    assert s.frames == len(again)
    assert s.truth_psnr == 60.0
    assert s.truth_ssim == pytest.approx(1.0)


def test_a_first_visit_is_compared_with_what_was_seen_then():
    poses, truth = pan(), noise(60)
    pictures = truth.copy()
    for now, before in revisits(poses, 30, GAP):
        pictures[now] = pictures[before]
    s = score(recording(pictures, truth, poses, 30), GAP)
    assert s.first_psnr == 60.0
    assert s.truth_psnr < 12


def test_nothing_revisited_scores_nothing():
    poses = np.stack([camera(0.0, 0.0, 0.4 * i) for i in range(60)])
    s = score(recording(noise(60), noise(60), poses, 30), GAP)
    assert s.frames == 0
    assert isnan(s.truth_psnr)


def test_gain_closed_runs_from_the_window_to_full():
    assert gain_closed(15.0, 15.0, 20.0) == 0.0
    assert gain_closed(20.0, 15.0, 20.0) == 1.0
    assert gain_closed(21.0, 15.0, 20.0) == pytest.approx(1.2)


@pytest.mark.parametrize("full", [17.9, 15.0, 12.0])
def test_a_gain_of_less_than_three_decibels_is_not_shared_out(full):
    assert isnan(gain_closed(17.0, 15.0, full))
    assert not isnan(gain_closed(17.0, 15.0, 18.0))
