"""Diffusers' Wan transformer with the weights of ours: another implementation of the same network, kept by others."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.model import WanModel

NAMES = (
    (r"^blocks\.(\d+)\.self_attn\.", r"blocks.\1.attn1."),
    (r"^blocks\.(\d+)\.cross_attn\.", r"blocks.\1.attn2."),
    (r"\.(q|k|v)\.(weight|bias)$", r".to_\1.\2"),
    (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.norm3\.", r".norm2."),
    (r"\.ffn\.0\.", r".ffn.net.0.proj."),
    (r"\.ffn\.2\.", r".ffn.net.2."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
)
"""From the published names to those of Diffusers."""
CAMERA = re.compile(r"cam_|c2ws_|wancamctrl")
"""Weights that Diffusers' transformer has no place for."""


@torch.inference_mode()
def flow_of_diffusers(model: WanModel, latents: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
    """Flow [B, F, channels, height, width] of chunks that begin at time 0 with nothing before them.

    latents [B, F, in_channels, height, width], time [B], tokens [B, T, width]; a model's camera layers are left out
    """
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    other = WanTransformer3DModel(**_arguments(model.config)).eval()
    weights = {name: each for name, each in model.state_dict().items() if not CAMERA.search(name)}
    other.load_state_dict({_renamed(name): each for name, each in weights.items()}, strict=True)
    (flow,) = other(latents.transpose(1, 2), time, tokens, return_dict=False)
    flow_BFCHW: Tensor = flow.transpose(1, 2)
    return flow_BFCHW


def _arguments(config: WanConfig) -> dict[str, object]:
    return {
        "patch_size": (1, config.patch, config.patch),
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "text_dim": config.context.width,
        "freq_dim": config.sinusoid,
        "ffn_dim": config.ffn,
        "num_layers": config.layers,
        "eps": config.eps,
    }


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name
