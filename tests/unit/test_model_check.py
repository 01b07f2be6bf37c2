"""`worldkv model check`: what is in a folder, whether it will run, and what it takes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.wan_tiny import CLIP_FILE, T5_FOLDER, write
from benchmarks.wan_vae_small import FILE as VAE_FILE
from benchmarks.wan_vae_small import published as published_vae
from services.generator.adapters.wan import checking, devices, vae
from services.generator.adapters.wan.checking import check, cost
from services.generator.adapters.wan.choosing import Plan
from services.generator.adapters.wan.folder import Part
from services.generator.adapters.wan.settings import ANY, WanSettings
from services.generator.adapters.wan.variants import LINGBOT_CAM, MATRIX_UNIVERSAL, SELF_FORCING, Variant
from services.generator.adapters.wan.weights import shapes_of
from services.generator.config import GeneratorConfig
from services.generator.models import MODELS, load_model
from worldkv import cli
from worldkv.config import load
from worldkv.errors import InvalidConfig, WeightsError

pytestmark = pytest.mark.timeout(300)  # Diffusers takes its time to be imported

UNIVERSAL, CAM, FORCING = MATRIX_UNIVERSAL.name, LINGBOT_CAM.name, SELF_FORCING.name
GIB = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(UNIVERSAL, tmp_path_factory.mktemp("model"))


def run(monkeypatch: Any, capsys: Any, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows, and what was said on stderr."""
    monkeypatch.setattr(sys, "argv", ["worldkv", "model", "check", *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, said = capsys.readouterr()
    return int(ended.value.code or 0), [json.loads(line) for line in out.splitlines()], said


@pytest.mark.slow
def test_a_folder_that_will_run_is_told_with_what_it_takes(folder, monkeypatch, capsys):
    code, rows, said = run(monkeypatch, capsys, str(folder))
    *parts, model = rows
    assert (code, said) == (0, "")
    assert {row["part"] for row in parts} == {"transformer", "vae", "image"}
    assert all(row["disk_bytes"] > 0 for row in parts)
    assert (model["model"], model["runs"], model["why"], model["grid"]) == (UNIVERSAL, True, "", [44, 80])
    assert all(model[f"{name}_bytes"] > 0 for name in ("device", "encoder", "chunk", "frame", "state", "drawing"))


def test_a_folder_that_will_not_run_is_told_and_why(tmp_path, monkeypatch, capsys):
    whole = write(UNIVERSAL, tmp_path)
    (whole / CLIP_FILE).unlink()
    (whole / VAE_FILE).write_bytes((whole / VAE_FILE).read_bytes()[:-50])
    code, rows, said = run(monkeypatch, capsys, str(whole))
    assert code == cli.FAILED
    assert "no VAE" in rows[-1]["why"]
    assert "no image encoder" in said
    assert f"{VAE_FILE} is not a whole checkpoint" in said
    assert "not a whole checkpoint" in next(row["about"] for row in rows if row["path"].endswith(VAE_FILE))


@pytest.mark.parametrize("harm", ["cut", "of another model", "no file"])
def test_a_tokenizer_that_is_none_is_found_before_anything_is_loaded(harm, tmp_path, monkeypatch, capsys):
    whole = write(FORCING, tmp_path)
    file = whole / T5_FOLDER / "tokenizer.json"
    text = file.read_text()
    if harm == "no file":
        file.unlink()
    else:
        file.write_text(text[: len(text) // 2] if harm == "cut" else text.replace('"WordLevel"', '"Bytes"'))
    code, rows, said = run(monkeypatch, capsys, str(whole))
    assert (code, rows[-1]["runs"]) == (cli.FAILED, False)
    words = "no tokenizer of its" if harm == "no file" else f"{file} is no tokenizer that can be used"
    assert words in rows[-1]["why"]
    assert words in said
    monkeypatch.setattr(vae, "load", None)  # is not called
    with pytest.raises(WeightsError, match=words):
        load_model(FORCING, whole)


def test_one_model_can_be_asked_about(folder, monkeypatch, capsys):
    assert run(monkeypatch, capsys, str(folder), "--model", UNIVERSAL)[0] == 0
    code, rows, said = run(monkeypatch, capsys, str(folder), "--model", CAM)
    assert (code, [row for row in rows if "model" in row]) == (cli.FAILED, [])
    assert f"holds no {CAM} that will run" in said


def test_parts_may_lie_elsewhere_and_settings_are_the_generators(folder, tmp_path, monkeypatch, capsys):
    config = tmp_path / "generator.toml"
    config.write_text('[wan]\ngrid = [4, 6]\ndtype = "float32"\n')
    part = folder / "base_distilled_model"
    assert run(monkeypatch, capsys, str(part))[0] == cli.FAILED
    code, rows, _ = run(monkeypatch, capsys, str(part), "--part", str(folder), "--config", str(config))
    assert (code, rows[-1]["grid"]) == (0, [4, 6])


@pytest.mark.parametrize("words", [("nowhere",), (".", "--part", "nowhere"), (".", "--model", "nobody")])
def test_what_is_not_there_is_bad_input(words, monkeypatch, capsys):
    assert run(monkeypatch, capsys, *words)[0] == cli.BAD_INPUT


def test_whether_it_has_room_here_is_told_and_does_not_matter(folder, monkeypatch, capsys):
    for enough, bytes_here in ((True, 1 << 40), (False, 1000)):
        monkeypatch.setattr(checking, "room", lambda device, here=bytes_here: here)
        code, rows, _ = run(monkeypatch, capsys, str(folder))
        assert (code, rows[-1]["runs"], rows[-1]["fits"]) == (0, True, enough)
    assert devices.room(torch.device("cpu")) > 1 << 28


def test_libraries_that_are_not_installed_are_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(devices, "LIBRARIES", ("torch", "nobodys_library"))
    code, _, said = run(monkeypatch, capsys, str(folder))
    assert (code, said) == (
        cli.FAILED,
        "worldkv: nobodys_library not installed: published models need worldkv[wan]\n",
    )
    with pytest.raises(InvalidConfig, match="nobodys_library"):
        load_model(UNIVERSAL, folder)


def test_a_transformer_is_told_only_as_what_fits(folder):
    report = check(folder, ANY, WanSettings())
    (candidate,) = report.candidates
    assert report.about(candidate.part) == UNIVERSAL
    assert [each.variant.name for each in report.verdicts] == [UNIVERSAL]


def planned(variant: Variant) -> Plan:
    """Of the published sizes, without any file."""
    transformer = Part(Path("transformer"), (), "transformer", 0, shapes_of(variant.backbone))
    shapes = published_vae()
    decoder = Part(Path("vae"), (), "vae", 0, shapes)
    return Plan(variant, variant.grid, transformer, decoder, vae.sizes(shapes))


@pytest.mark.parametrize(
    ("variant", "weights", "chunk", "state", "drawing"),
    [(MATRIX_UNIVERSAL, 3.24e9, 486_604_800, 1.19, 1.63), (LINGBOT_CAM, 37.1e9, 3_706_060_800, 2.09, 8.65)],
)
def test_what_the_published_sizes_take_is_what_is_published(variant, weights, chunk, state, drawing):
    plan = planned(variant)
    told = cost(plan, WanSettings())
    assert told.device - 2 * plan.vae_sizes.weights == pytest.approx(weights, rel=0.01)
    assert (told.chunk, told.frame) == (chunk, chunk // 3)
    assert told.state / GIB == pytest.approx(state, rel=0.01)
    assert told.drawing / GIB == pytest.approx(drawing, rel=0.01)


def test_the_example_of_the_docs_is_a_configuration(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "generator.toml").write_text(example)
    config = load(GeneratorConfig, "NONE_", tmp_path / "generator.toml", {})
    assert config.model in MODELS
    assert config.memory.window.sink % MATRIX_UNIVERSAL.backbone.frames == 0
