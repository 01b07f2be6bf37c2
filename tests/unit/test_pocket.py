"""The rooms, their renderer and the weights file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pocket.fit_codecs import sample
from pocket.model import PocketModel
from pocket.rooms import FIELD_OF_VIEW, HALF_HEIGHT, RADIUS, SIDE, Renderer, build, clearance, free_place, slide
from pocket.train import noise_levels, punch
from pocket.walks import moves, walk
from pocket.weights_file import load, load_codecs, save, save_codecs
from tests.toys import TOY
from worldkv.codec import fit
from worldkv.errors import WeightsMismatch, WeightsMissing
from worldkv.pose import camera


def view(x: float, z: float, yaw: float, pitch: float = 0.0, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    renderer = Renderer([build(seed)], supersample=1)
    pose = torch.from_numpy(camera(x, 0, z, yaw, pitch))[None]
    picture, depth = renderer(torch.zeros(1, dtype=torch.int64), pose)
    return picture[0], depth[0]


def test_a_seed_draws_the_same_world_again() -> None:
    a, b = build(5), build(5)
    assert np.array_equal(a.tiles, b.tiles)
    assert np.array_equal(a.place, b.place)
    assert not np.array_equal(build(6).floor, a.floor)


def test_depth_ends_at_the_wall_the_camera_looks_at() -> None:
    rooms = build(1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, z = free_place(rooms, rng)
        _, depth = view(x, z, 0.0)
        walls = [(p, lo, hi) for a, p, (lo, hi) in zip(rooms.axis, rooms.place, rooms.span) if a == 1 and p > z]
        if any(min(abs(x - lo), abs(x - hi)) < 0.3 for _, lo, hi in walls):
            continue  # an edge stands where the middle pixels look
        ahead = [p for p, lo, hi in walls if lo <= x <= hi]
        assert float(depth[23:25, 31:33].mean()) == pytest.approx(min(ahead) - z, abs=0.05)


def test_a_tilted_camera_agrees_with_a_level_one_where_both_look() -> None:
    _, level = view(3.0, 3.0, 30.0, 0.0)
    _, tilted = view(3.0, 3.0, 30.0, 1e-4)  # takes the way of cameras that are not level
    assert torch.allclose(level, tilted, atol=1e-2, rtol=1e-2)


def test_looking_straight_down_meets_the_floor() -> None:
    _, depth = view(3.0, 3.0, 0.0, -90.0)
    assert float(depth[23:25, 31:33].mean()) == pytest.approx(HALF_HEIGHT, abs=1e-3)


def test_pictures_and_depth_are_finite_everywhere() -> None:
    rooms, rng = build(3), np.random.default_rng(1)
    for _ in range(10):
        x, z = free_place(rooms, rng, RADIUS)
        picture, depth = view(x, z, float(rng.uniform(0, 360)), float(rng.uniform(-60, 60)), seed=3)
        assert bool(depth.isfinite().all())
        assert float(depth.min()) > 0
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


def test_a_walker_never_comes_nearer_to_a_wall_than_its_radius() -> None:
    rooms, rng = build(2), np.random.default_rng(2)
    x, z = free_place(rooms, rng)
    for _ in range(500):
        dx, dz = rng.uniform(-0.2, 0.2, 2)
        x, z = slide(rooms, x, z, float(dx), float(dz))
        assert clearance(rooms, x, z) >= RADIUS
        assert 0 < x < SIDE
        assert 0 < z < SIDE


def test_training_walks_come_back_to_where_they_were() -> None:
    rng = np.random.default_rng(3)
    returns = 0
    for seed in range(20):
        poses = walk(build(seed), moves(48, rng), rng)
        near = np.linalg.norm(poses[:20, :3, 3] - poses[-1, :3, 3], axis=-1) < 0.25
        facing = (poses[:20, :3, 2] @ poses[-1, :3, 2]) > np.cos(np.radians(5))
        returns += bool((near & facing).any())
    assert returns >= 5


def test_holes_keep_the_first_chunk_the_last_two_and_the_order() -> None:
    pictures = torch.arange(24.0).view(1, 24, 1, 1, 1)
    kept, _, position = punch(np.random.default_rng(0), pictures, torch.zeros(1, 24, 4, 4), 12, 3)
    frames = kept.flatten().tolist()
    assert frames == sorted(frames)
    assert frames[:3] == [0, 1, 2]
    assert frames[-6:] == [18, 19, 20, 21, 22, 23]
    assert len(position) == 12


def test_many_chunks_of_a_clip_are_exactly_clean() -> None:
    level = noise_levels(np.random.default_rng(0), 200, 8)
    assert 0.1 < float((level == 0).float().mean()) < 0.6
    assert float(level.max()) == 1.0


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PocketModel(TOY)
    save(tmp_path / "a.safetensors", model, {"steps": "1"})
    again, digest = load(tmp_path / "a.safetensors")
    assert again.config == TOY
    assert len(digest) == 32
    assert torch.allclose(again.head.weight, model.head.weight, atol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"pocket\.train"):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("spoil", ["cut", "shape", "name", "nan", "config"])
def test_wrong_weights_are_refused_by_name(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "a.safetensors"
    save(path, PocketModel(TOY), {})
    tensors, about = load_file(path), {"config": "{}"}
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif spoil == "config":
        save_file(tensors, path, metadata=about)
    else:
        first = sorted(tensors)[0]
        changed = {
            "shape": {first: torch.zeros(1)},
            "name": {"other": torch.zeros(1)},
            "nan": {first: torch.full_like(tensors[first], torch.nan)},
        }
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = file.metadata()
        save_file({**tensors, **changed[spoil]}, path, metadata=about)
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors"):
        load(path)


def test_fitted_codecs_come_back_under_the_same_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    keys, values = sample(PocketModel(TOY).eval(), walks=1, seed=0)
    pairs = {"klt4": (fit(keys, 4.0), fit(values, 4.0))}
    save_codecs(tmp_path / "codecs.safetensors", pairs)
    again = load_codecs(tmp_path / "codecs.safetensors")
    assert [c.name for c in again["klt4"]] == [c.name for c in pairs["klt4"]]
    assert load_codecs(tmp_path / "none") == {}


def test_the_lens_is_wide_enough_that_recall_has_to_choose() -> None:
    assert 60 <= FIELD_OF_VIEW <= 70
