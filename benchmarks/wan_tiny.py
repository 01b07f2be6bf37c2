"""Published models at a tiny size, with random weights: folders laid out, and files named, as they are published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.wan_encoders_small import image_weights, text_weights, write_tokenizer
from benchmarks.wan_small import random_model
from benchmarks.wan_vae_small import FILE
from benchmarks.wan_vae_small import random_weights as vae_weights
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.sizes import Sizes
from services.generator.adapters.wan.variants import VARIANTS, Variant

WIDTH = 32
"""Channels of both encoders' tokens."""
TEXT_TOKENS = 24
VAE_WIDTH = 4
GRID = (4, 6)
"""Rows and columns of latent cells: pictures of 32 x 48."""
SIZES = Sizes(
    dim=56,
    ffn=64,
    heads=2,
    layers=3,
    sinusoid=32,
    tokens=TEXT_TOKENS,
    act_heads=2,
    act_hidden=16,
    act_embedding=8,
    act_layers=2,
)
T5_FILE, T5_FOLDER = "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
SHARDS = 3


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """The tiny model of a variant as a folder; answers it."""
    variant = VARIANTS[name]
    config = SIZES.of(variant.backbone, WIDTH)
    LAYOUTS[name](folder, variant, random_model(config, seed).state_dict())
    torch.save(vae_weights(VAE_WIDTH, seed), folder / FILE)
    if config.context.kind == "text":
        torch.save(text_weights(WIDTH, seed=seed), folder / T5_FILE)
        write_tokenizer(folder / T5_FOLDER)
    else:
        torch.save(image_weights(WIDTH, seed=seed), folder / CLIP_FILE)
    return folder


def stated(config: WanConfig, class_name: str) -> dict[str, Any]:
    """The table of a config.json that states the tiny sizes."""
    acts = config.actions
    table: dict[str, Any] = {
        "_class_name": class_name,
        "dim": SIZES.dim,
        "ffn_dim": SIZES.ffn,
        "freq_dim": SIZES.sinusoid,
        "in_dim": config.in_channels,
        "num_heads": SIZES.heads,
        "num_layers": SIZES.layers,
        "out_dim": config.out_channels,
        "text_len": SIZES.tokens,
    }
    if acts:
        table["action_config"] = {
            "blocks": [*range(SIZES.act_layers or 0)],
            "heads_num": SIZES.act_heads,
            "hidden_size": SIZES.act_embedding,
            "keyboard_dim_in": acts.keyboard,
            "keyboard_hidden_dim": SIZES.act_hidden,
            "mouse_dim_in": acts.mouse,
        }
    return table


def write_sharded(folder: Path, tensors: Mapping[str, Tensor], table: Mapping[str, Any]) -> None:
    """A transformer as Diffusers saves it: shards of safetensors, their index, and a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names, where = sorted(tensors), dict[str, str]()
    for number in range(SHARDS):
        file = f"diffusion_pytorch_model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[number::SHARDS]
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(table))


def _sharded(where: str) -> Callable[[Path, Variant, Mapping[str, Tensor]], None]:
    """As LingBot's: a folder of shards, beside experts that draw whole clips where there are any."""

    def lay(folder: Path, variant: Variant, tensors: Mapping[str, Tensor]) -> None:
        write_sharded(folder / where, tensors, stated(variant.backbone, "WanModelFast"))
        if where == "lingbot_world_fast":
            expert = {name: torch.zeros_like(each) for name, each in tensors.items()}
            write_sharded(folder / "high_noise_model", expert, stated(variant.backbone, "WanModel"))

    return lay


def _wrapped(where: str) -> Callable[[Path, Variant, Mapping[str, Tensor]], None]:
    """As Matrix-Game-2.0's: one file, whose names have what the model was wrapped in."""

    def lay(folder: Path, variant: Variant, tensors: Mapping[str, Tensor]) -> None:
        file = folder / where
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({f"model.{name}": each.contiguous() for name, each in tensors.items()}, file)
        (file.parent / "config.json").write_text(json.dumps(stated(variant.backbone, "CausalWanModel")))

    return lay


def _pickled(folder: Path, variant: Variant, tensors: Mapping[str, Tensor]) -> None:
    """As Self-Forcing's: a training checkpoint, in the folder of the model that it began from."""
    plain = {name: torch.zeros_like(each) for name, each in tensors.items()}
    write_sharded(folder, plain, stated(variant.backbone, "WanModel"))
    wrapped = {f"model.{name}": each for name, each in tensors.items()}
    (folder / "checkpoints").mkdir()
    held = {"generator": {f"model.{name}": each for name, each in plain.items()}, "generator_ema": wrapped}
    torch.save({**held, "critic": held["generator"]}, folder / "checkpoints" / "self_forcing_dmd.pt")


LAYOUTS: dict[str, Callable[[Path, Variant, Mapping[str, Tensor]], None]] = {
    "lingbot-world-fast-cam": _sharded("lingbot_world_fast"),
    "lingbot-world-fast-act": _sharded("lingbot_world_fast"),
    "lingbot-world-v2-14b": _sharded("transformers"),
    "lingbot-world-v2-1.3b": _sharded("transformers"),
    "matrix-game-2.0-universal": _wrapped("base_distilled_model/base_distill.safetensors"),
    "matrix-game-2.0-gta": _wrapped("gta_distilled_model/gta_keyboard2dim.safetensors"),
    "matrix-game-2.0-templerun": _wrapped("templerun_distilled_model/templerun_7dim_onlykey.safetensors"),
    "self-forcing": _pickled,
}
"""What lays a transformer's files into a folder, by variant."""
