"""Files of the VAE's weights: the original one, Diffusers' folder, and those that are neither."""

from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from benchmarks.wan_vae_small import FILE, published, random_weights
from services.generator.adapters.wan.vae import load, sizes
from services.generator.adapters.wan.vae.names import renamed
from worldkv.errors import WeightsMismatch, WeightsMissing

WIDTH = 4


@cache
def weights() -> dict[str, torch.Tensor]:
    return random_weights(WIDTH, seed=3)


def written(tmp_path: Path, changed: dict[str, torch.Tensor] | None = None, lacking: str = "") -> Path:
    """The original file, but for some weights."""
    held = {name: each for name, each in (weights() | (changed or {})).items() if name != lacking}
    torch.save(held, tmp_path / FILE)
    return tmp_path / FILE


def test_the_published_file_is_told_by_its_names_and_shapes():
    found = sizes(published())
    assert (found.width, found.levels, found.residuals, found.channels) == (96, (1, 2, 4, 4), 2, 16)
    assert found.weights == 126_892_531
    assert (found.pictures, found.pixels) == (4, 8)


@pytest.mark.parametrize(("grid", "gib"), [((44, 80), 0.99), ((58, 104), 1.70), ((60, 104), 1.76), ((88, 160), 3.97)])
def test_a_session_of_the_published_vae_carries_as_much_as_is_known(grid, gib):
    assert round(sizes(published()).feature_bytes(grid, torch.float16) / 2**30, 2) == gib


def test_names_are_those_that_diffusers_converts_to():
    """Its converter knows the names of the published file alone, level by level."""
    wanted = convert_wan_vae_to_diffusers({name: name for name in published()})  # type: ignore[no-untyped-call]
    assert {new: old for old, new in renamed(published()).items()} == wanted


def test_the_original_file_and_diffusers_folder_give_the_same(tmp_path: Path):
    original, folder = load(written(tmp_path), torch.float32), tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(original.model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    other = load(folder, torch.float32)
    assert original.digest == other.digest
    assert len(original.digest) == 32
    assert original.sizes == other.sizes
    names = renamed(weights())
    state = other.model.state_dict()
    assert all(torch.equal(state[names[name]], each) for name, each in weights().items())
    assert not any(each.requires_grad for each in other.model.parameters())


def test_other_weights_have_another_digest(tmp_path: Path):
    name = "decoder.head.2.bias"
    assert load(written(tmp_path)).digest != load(written(tmp_path, {name: weights()[name] + 1})).digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_brought_to_the_dtype_that_is_asked_for(dtype, tmp_path: Path):
    assert {each.dtype for each in load(written(tmp_path), dtype).model.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("decoder.middle.1.proj.bias", (3,), r"decoder\.mid_block\.attentions\.0\.proj\.bias: \(3,\) where \(16,\)"),
        ("decoder.upsamples.9.other", (3,), r"1 weights differ; decoder\.up_blocks\.2\.resnets\.1\.other"),
        ("decoder.conv_in.weight", (16, 16, 3, 3, 3), "1 of them are there by two names"),
        ("conv2.weight", (0, 0, 1, 1, 1), "latents of 0"),
        ("encoder.conv1.weight", (5, 3, 3, 3, 3), "levels of"),
        ("encoder.conv1.weight", (), "no VAE's weights"),
    ],
)
def test_weights_that_are_nearly_a_vaes_say_what_differs(name, shape, words, tmp_path: Path):
    with pytest.raises(WeightsMismatch, match=words) as caught:
        load(written(tmp_path, {name: torch.zeros(shape)}))
    assert FILE in str(caught.value)


@pytest.mark.parametrize("name", ["conv1.bias", "encoder.downsamples.0.residual.2.weight", "decoder.conv1.weight"])
def test_weights_that_lack_one_are_refused(name, tmp_path: Path):
    with pytest.raises(WeightsMismatch, match="no VAE's weights"):
        load(written(tmp_path, lacking=name))


def test_another_models_weights_are_no_vaes():
    for shapes in ({}, {"blocks.0.modulation": (1, 6, 8)}, dict.fromkeys(published(), (2,))):
        with pytest.raises(WeightsMismatch, match="no VAE's weights"):
            sizes(shapes)


WIDE = published(WIDTH)
CHANGED = st.sampled_from(
    [*WIDE, *["encoder.conv1.weight", "conv2.weight", "encoder.downsamples.9.residual.2.weight"] * 9]
)


@pytest.mark.slow
@settings(max_examples=40)
@given(CHANGED, st.lists(st.sampled_from([0, 1, 3, 4, 8, 1 << 20, 1 << 40, 1 << 62]), max_size=5))
@example("encoder.conv1.weight", [1 << 40])
@example("conv2.weight", [1 << 40])
@example("conv2.weight", [1 << 62])
@example("encoder.conv1.weight", [0])
def test_whatever_shape_a_weight_has_it_is_told_or_refused(name, shape):
    shapes = {**WIDE, name: tuple(shape)}
    if shapes == WIDE:
        assert sizes(shapes) == sizes(WIDE)
    else:
        with pytest.raises(WeightsMismatch, match="VAE"):
            sizes(shapes)


def test_latents_of_another_family_are_refused():
    """The VAE of Wan 2.2's 5B has 48 channels; mean and spread of others are not known."""
    halved = {16: 8, 32: 16}
    shapes = {name: tuple(halved.get(n, n) for n in shape) for name, shape in published(width=10).items()}
    with pytest.raises(WeightsMismatch, match=r"are \(16, 4, 8\), and of this VAE \(8, 4, 8\)"):
        sizes(shapes)


def test_a_vae_that_does_not_halve_time_twice_is_refused():
    timeless = {name: shape for name, shape in published().items() if "downsamples.5.time" not in name}
    timeless = {name: shape for name, shape in timeless.items() if "upsamples.7.time" not in name}
    with pytest.raises(WeightsMismatch, match=r"are \(16, 4, 8\), and of this VAE \(16, 2, 8\)"):
        sizes(timeless)


def test_files_that_are_not_there_or_not_whole_are_refused(tmp_path: Path):
    with pytest.raises(WeightsMissing, match="no weights"):
        load(tmp_path / FILE)
    with pytest.raises(WeightsMismatch, match=r"conv.*that are not finite"):
        load(written(tmp_path, {"conv2.bias": torch.full((16,), torch.nan)}))
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(WeightsMismatch, match="not a whole checkpoint"):
        load(path)
