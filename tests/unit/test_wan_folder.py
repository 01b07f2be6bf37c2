"""Folders of published models, laid out as they are published, at a tiny size."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.wan_encoders_small import text_weights
from benchmarks.wan_tiny import CLIP_FILE, GRID, LAYOUTS, SIZES, T5_FILE, T5_FOLDER, write
from benchmarks.wan_vae_small import FILE as VAE_FILE
from services.generator.adapters.wan.choosing import planned
from services.generator.adapters.wan.folder import look
from services.generator.adapters.wan.loading import load
from services.generator.adapters.wan.settings import ANY, WanSettings
from services.generator.adapters.wan.variants import VARIANTS, lingbot_world_fast
from services.generator.models import load_model
from tests.unit.test_wan_files import Touches
from worldkv.errors import InvalidConfig, InvalidInput, WeightsError, WeightsMismatch, WeightsMissing

pytestmark = pytest.mark.timeout(300)  # Diffusers takes its time to be imported

TINY = WanSettings(dtype="float32", vae_dtype="float32", device="cpu", grid=GRID)
CAM, UNIVERSAL, FORCING = "lingbot-world-fast-cam", "matrix-game-2.0-universal", "self-forcing"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each variant, written once; tests that change one change a copy."""
    return {name: write(name, tmp_path_factory.mktemp(name)) for name in LAYOUTS}


@pytest.fixture
def copied(written: dict[str, Path], tmp_path: Path):
    """Makes a copy of a variant's folder."""
    return lambda name: shutil.copytree(written[name], tmp_path / name)


def test_every_variant_has_a_layout():
    assert LAYOUTS.keys() == VARIANTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_makes_the_model_of_its_name_at_the_sizes_that_it_states(name, written):
    plan = planned(name, written[name], TINY)
    backbone, config = plan.variant.backbone, VARIANTS[name].backbone
    assert (plan.variant.name, plan.grid, plan.vae.path.name) == (name, GRID, VAE_FILE)
    assert (backbone.dim, backbone.layers, backbone.frames) == (SIZES.dim, SIZES.layers, config.frames)
    assert (plan.text is not None, plan.image is not None) == (
        config.context.kind == "text",
        config.context.kind == "image",
    )
    assert (plan.tokenizer is None) == (plan.text is None)


@pytest.mark.parametrize("name", [UNIVERSAL, "lingbot-world-fast-act", FORCING])
def test_what_a_folder_holds_need_not_be_named(name, written):
    assert planned(ANY, written[name], TINY).variant.name == name


def test_models_that_only_their_names_tell_apart_have_to_be_named(written):
    with pytest.raises(InvalidConfig, match=r"model: .* lingbot-world-fast-cam of .*, lingbot-world-v2-14b of "):
        planned(ANY, written[CAM], TINY)


def test_of_several_models_in_a_folder_the_one_is_taken_that_is_named(written, tmp_path):
    for name in LAYOUTS:
        if name.startswith("matrix-game"):
            shutil.copytree(written[name], tmp_path, dirs_exist_ok=True)
            assert planned(name, tmp_path, TINY).variant.name == name
    with pytest.raises(InvalidConfig, match=r"model: .*universal of .*base_distill"):
        planned(ANY, tmp_path, TINY)


def test_of_several_files_of_one_model_one_has_to_be_named(copied):
    folder = copied(UNIVERSAL)
    shutil.copytree(folder / "base_distilled_model", folder / "another")
    with pytest.raises(InvalidConfig, match=r"wan\.transformer: .* name one"):
        planned(UNIVERSAL, folder, TINY)
    for where in ("another", "another/base_distill.safetensors"):
        plan = planned(UNIVERSAL, folder, replace(TINY, transformer=where))
        assert plan.transformer.path == folder / "another" / "base_distill.safetensors"
    with pytest.raises(InvalidConfig, match=r"no transformer at .*nowhere"):
        planned(UNIVERSAL, folder, replace(TINY, transformer="nowhere"))


@pytest.mark.parametrize(("name", "other"), [(CAM, "high_noise_model"), (FORCING, "")])
def test_models_of_whole_clips_are_passed_over_unless_they_are_asked_for(name, other, copied):
    folder = copied(name)
    assert planned(name, folder, TINY).transformer.path != folder / other
    if other:
        assert planned(name, folder, replace(TINY, transformer=other)).transformer.path == folder / other
    shutil.rmtree(folder / ("lingbot_world_fast" if other else "checkpoints"))
    with pytest.raises(WeightsMismatch, match="whole clips"):
        planned(name, folder, TINY)


@pytest.mark.parametrize(
    ("name", "lost", "words"),
    [
        (CAM, VAE_FILE, "no VAE"),
        (CAM, T5_FILE, "no text encoder"),
        (CAM, T5_FOLDER, "no tokenizer"),
        (UNIVERSAL, CLIP_FILE, "no image encoder"),
        (UNIVERSAL, VAE_FILE, "no VAE"),
    ],
)
def test_what_a_folder_lacks_is_named_and_may_lie_elsewhere(name, lost, words, copied, tmp_path):
    folder, elsewhere = copied(name), tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / lost, elsewhere)
    with pytest.raises(WeightsMissing, match=words):
        planned(name, folder, TINY)
    assert planned(name, folder, replace(TINY, parts=(elsewhere,))).variant.name == name


@pytest.mark.parametrize(
    ("name", "file", "other"),
    [
        (CAM, VAE_FILE, "another.pth"),
        (CAM, T5_FILE, "another.pth"),
        (CAM, T5_FOLDER, "another"),
        (UNIVERSAL, CLIP_FILE, "another.pth"),
    ],
)
def test_of_several_parts_of_a_kind_one_has_to_be_named_unless_they_are_the_same(name, file, other, copied):
    folder = copied(name)
    first, second = folder / file, folder / other
    (shutil.copytree if first.is_dir() else shutil.copy)(first, second)
    assert planned(name, folder, TINY).variant.name == name
    if first.is_dir():
        table = (second / "tokenizer.json").read_text()
        (second / "tokenizer.json").write_text(table.replace("harbour", "habrour"))
    else:
        torch.save({n: x + 1 for n, x in torch.load(first).items()}, second)
    with pytest.raises(InvalidConfig, match=r"wan\.parts: there are several of the") as refused:
        planned(name, folder, TINY)
    assert all(f"{each}" in str(refused.value) for each in (first, second))
    for each in (first, second):
        plan = planned(name, folder, replace(TINY, parts=(each,)))
        assert each in [part.path for part in (plan.vae, plan.text, plan.tokenizer, plan.image) if part]


def test_what_lies_in_two_of_the_places_is_there_once(written):
    folder = written[CAM]
    within = folder / "lingbot_world_fast"
    plan = planned(CAM, within, replace(TINY, parts=(folder,)))
    assert (plan.transformer.path, plan.vae.path) == (within, folder / VAE_FILE)


def test_all_that_lacks_is_named_at_once(copied):
    folder = copied(CAM)
    for name in (VAE_FILE, T5_FILE):
        (folder / name).unlink()
    with pytest.raises(WeightsMissing, match=r"no VAE .*, no text encoder"):
        planned(CAM, folder, TINY)


@pytest.mark.parametrize(
    ("name", "file"),
    [(CAM, VAE_FILE), (CAM, T5_FILE), (UNIVERSAL, CLIP_FILE), (FORCING, "checkpoints/self_forcing_dmd.pt")],
)
@pytest.mark.parametrize("harm", ["cut", "code"])
def test_a_file_that_is_cut_off_or_carries_code_is_refused_in_every_part(name, file, harm, copied, tmp_path):
    folder, ran = copied(name), tmp_path / "ran"
    if harm == "cut":
        (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    else:
        torch.save({"weight": torch.zeros(1), "more": Touches(ran)}, folder / file)
    with pytest.raises(WeightsError, match=f"{Path(file).name} is not a whole checkpoint"):
        load(name, folder, TINY)
    assert not ran.exists()


@pytest.mark.parametrize("name", [CAM, UNIVERSAL])
def test_a_shard_or_file_that_is_cut_off_is_refused(name, copied):
    folder = copied(name)
    file = sorted(folder.glob("*/*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"not a whole safetensors file"):
        planned(name, folder, TINY)


def test_another_model_than_the_one_that_is_named_is_told(written):
    with pytest.raises(WeightsMismatch, match=r"holds no matrix-game-2\.0-gta; .*: matrix-game-2\.0-universal"):
        planned("matrix-game-2.0-gta", written[UNIVERSAL], TINY)
    with pytest.raises(WeightsMissing, match="no transformer"):
        planned(ANY, written[CAM] / "google", TINY)
    with pytest.raises(WeightsMissing, match="no weights at"):
        planned(ANY, written[CAM] / "nowhere", TINY)


def test_sizes_that_are_not_those_of_the_weights_are_told(copied):
    folder = copied(UNIVERSAL)
    config = folder / "base_distilled_model" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 3', '"num_layers": 4'))
    with pytest.raises(WeightsMismatch, match=r"nearest, \d+ weights differ; blocks\.3"):
        planned(UNIVERSAL, folder, TINY)
    config.write_text(config.read_text().replace('"num_layers": 4', '"num_layers": "three"'))
    with pytest.raises(WeightsMismatch, match=r"config\.json states no sizes"):
        planned(UNIVERSAL, folder, TINY)
    config.unlink()
    with pytest.raises(WeightsMismatch, match="weights differ"):  # without it sizes are the published ones
        planned(UNIVERSAL, folder, TINY)


def test_an_encoder_of_another_width_is_refused(copied):
    folder = copied(CAM)
    torch.save(text_weights(16), folder / T5_FILE)
    with pytest.raises(WeightsMismatch, match=rf"{T5_FILE} gives tokens \[16\] where"):
        planned(CAM, folder, TINY)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grid": (4, 5)}, r"wan\.grid = \[4, 5\]: expected rows and columns that divide by 2"),
        ({"shift": 5.0}, r"wan\.shift = 5\.0: matrix-game-2\.0-universal has none"),
    ],
)
def test_settings_that_the_model_cannot_have_are_refused(settings, words, written):
    with pytest.raises(InvalidConfig, match=words):
        planned(UNIVERSAL, written[UNIVERSAL], replace(TINY, **settings))


@pytest.mark.parametrize("settings", [{"grid": (4,)}, {"grid": (0, 2)}, {"shift": 0.0}, {"shift": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidConfig, match=r"wan\."):
        WanSettings(**settings)


def test_a_device_that_is_not_there_is_refused(written):
    for settings in (replace(TINY, device="cuda:77"), replace(TINY, encoder_device="nowhere")):
        with pytest.raises(InvalidConfig, match="torch has no such device"):
            load(UNIVERSAL, written[UNIVERSAL], settings)


def test_a_shift_is_the_denoise_schedules(written):
    assert planned(CAM, written[CAM], replace(TINY, shift=5.0)).variant.levels == lingbot_world_fast(shift=5.0).levels


def test_a_published_model_comes_with_its_folder_or_not_at_all(written):
    with pytest.raises(InvalidInput, match="expected the folder"):
        load_model(UNIVERSAL, None, TINY)
    model = load_model(UNIVERSAL, written[UNIVERSAL], TINY)
    assert (model.spec.model, model.spec.latent, model.spec.dtype) == (UNIVERSAL, (16, *GRID), "float32")
    assert len(model.spec.weights) == len(model.spec.vae) == 32


def test_weights_that_were_converted_are_told_apart_from_those_that_are_nothing(copied):
    folder = copied(UNIVERSAL)
    (folder / CLIP_FILE).unlink()
    torch.save({"vision_model.post_layernorm.weight": torch.ones(1)}, folder / "clip.bin")
    torch.save({"tiny.decoder.weight": torch.ones(1)}, folder / "light.pth")
    with pytest.raises(WeightsMissing, match=r"no image encoder .*clip\.bin has the names of a conversion") as refused:
        planned(UNIVERSAL, folder, TINY)
    assert "light.pth" not in str(refused.value)


def test_what_lies_deep_or_hidden_is_not_looked_at(written, tmp_path):
    for name in ("a/b/c/d/e", ".cache"):
        shutil.copytree(written[UNIVERSAL], tmp_path / name)
    assert look([tmp_path]) == []
