"""Files of the Wan models' weights, at a small width."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.wan_small import random_model, small
from services.generator.adapters.wan.files import plain
from services.generator.adapters.wan.variants import LINGBOT_V2, LINGBOT_V2_SMALL, VARIANTS
from services.generator.adapters.wan.weights import fitting, load
from tests.unit.test_wan_model import PUBLISHED
from worldkv.errors import WeightsMismatch, WeightsMissing

ALIKE = (LINGBOT_V2, LINGBOT_V2_SMALL)
"""Whose weights look like those of LingBot-World-Fast, once they are as small."""
SMALL = [replace(each, backbone=small(each.backbone)) for each in VARIANTS.values() if each not in ALIKE]
"""All have weights of their own."""
BY_NAME = {each.name: each for each in SMALL}


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return random_model(BY_NAME[name].backbone, seed=1).state_dict()


@pytest.mark.parametrize("name", ["lingbot-world-fast-act", "matrix-game-2.0-gta", "self-forcing"])
def test_a_model_is_told_by_the_published_names_and_shapes(name):
    assert [each.name for each in fitting(PUBLISHED[name], VARIANTS.values())] == [name]


@pytest.mark.parametrize("name", BY_NAME)
def test_weights_come_back_as_they_were_saved(name, tmp_path: Path):
    weights = weights_of(name)
    save_file(weights, tmp_path / "any name.safetensors")
    loaded = load(tmp_path / "any name.safetensors", SMALL, torch.float32)
    assert loaded.variant.name == name
    assert all(torch.equal(each, weights[key]) for key, each in loaded.model.state_dict().items())
    assert not any(each.requires_grad for each in loaded.model.parameters())


def test_a_digest_is_of_the_weights_and_not_of_how_they_are_filed(tmp_path: Path):
    weights = weights_of("matrix-game-2.0-gta")
    whole, shards, pickled = tmp_path / "whole.safetensors", tmp_path / "shards", tmp_path / "a.pt"
    save_file(weights, whole)
    shards.mkdir()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({f"model.{name}": weights[name] for name in part}, shards / f"model-{number}.safetensors")
    ema = {f"model._fsdp_wrapped_module.{name}": each for name, each in weights.items()}
    torch.save({"generator": {"model.x": torch.zeros(1)}, "generator_ema": ema, "step": 3}, pickled)
    digests = {load(path, SMALL).digest for path in (whole, shards, pickled)}
    assert len(digests) == 1
    assert len(digests.pop()) == 32
    weights["head.modulation"] = weights["head.modulation"] + 1
    save_file(weights, whole)
    assert load(whole, SMALL).digest != load(shards, SMALL).digest


def test_weights_are_brought_to_the_dtype_that_is_asked_for(tmp_path: Path):
    save_file(weights_of("self-forcing"), tmp_path / "a.safetensors")
    assert {each.dtype for each in load(tmp_path, SMALL).model.parameters()} == {torch.bfloat16}


def test_what_a_model_was_wrapped_in_is_taken_off_its_names():
    wrapped = "model.module._orig_mod.blocks.3._checkpoint_wrapped_module.action_model.t_qkv.weight"
    assert plain(wrapped) == "blocks.3.action_model.t_qkv.weight"
    assert plain("pipe.dit.head.head.bias") == "head.head.bias"
    for names in PUBLISHED.values():
        assert all(plain(name) == name for name in names)


def test_no_weights_are_missing_weights(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(WeightsMissing, match="no weights"):
            load(path, SMALL)


@pytest.mark.parametrize("spoil", ["shape", "extra", "lacking"])
def test_weights_that_are_nearly_a_models_say_what_differs(spoil, tmp_path: Path):
    weights = weights_of("matrix-game-2.0-universal")
    name = "blocks.1.action_model.t_qkv.weight"
    changed = {"shape": {name: torch.zeros(1)}, "extra": {"other": torch.zeros(1)}, "lacking": {}}[spoil]
    if spoil == "lacking":
        del weights[name]
    save_file({**weights, **changed}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsMismatch, match=r"matrix-game-2\.0-universal is nearest, 1 weights differ"):
        load(tmp_path, SMALL)


@pytest.mark.parametrize("spoil", ["cut", "nan", "whole numbers", "twice"])
def test_spoilt_weights_are_refused(spoil, tmp_path: Path):
    weights, path = weights_of("self-forcing"), tmp_path / "a.safetensors"
    if spoil == "nan":
        weights["head.head.bias"] = torch.full_like(weights["head.head.bias"], torch.nan)
    if spoil == "whole numbers":
        weights["head.head.bias"] = weights["head.head.bias"].to(torch.int32)
    if spoil == "twice":
        weights["model.head.head.bias"] = weights["head.head.bias"].clone()
    save_file(weights, path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors|head\.head\.bias"):
        load(path, SMALL)


@pytest.mark.parametrize("held", [[1, 2], {"generator": [1]}, {"critic": 3}, b"no pickle"])
def test_pickles_that_hold_no_tensors_are_refused(held, tmp_path: Path):
    path = tmp_path / "a.pt"
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        torch.save(held, path)
    with pytest.raises(WeightsMismatch, match=r"a\.pt"):
        load(path, SMALL)
