"""One transformer block, as steps that the model takes in order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.generator.adapters.wan.actions import ActionModule
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.layers import CrossAttention, Pair, SelfAttention, norm
from services.generator.adapters.wan.rotation import Turns

Modulation = tuple[Tensor, ...]
"""Shift, scale and gate of self-attention, then of the FFN, each [B, F, 1, D]."""

Sight = tuple[Tensor, Tensor]
"""What x is multiplied by, and what is added to it, where the camera moves: each [B, F, S, D]."""


class Block(nn.Module):
    """Self-attention, camera where there is one, cross-attention, action module where there is one, FFN.

    x is the residual stream [B, F, S, D] throughout (shape letters as in `layers`).
    """

    def __init__(self, config: WanConfig, layer: int) -> None:
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn), nn.GELU("tanh"), nn.Linear(config.ffn, dim))
        if config.camera:
            self.cam_injector_layer1, self.cam_injector_layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.cam_scale_layer, self.cam_shift_layer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        acts = config.actions is not None and layer < config.actions.layers
        self.action_model = ActionModule(config.actions, dim) if acts and config.actions else None

    @property
    def dtype(self) -> torch.dtype:
        """What the linear layers compute in."""
        return self.self_attn.q.weight.dtype

    def modulate(self, time_BF6D: Tensor) -> Modulation:
        return (time_BF6D + self.modulation).to(time_BF6D.dtype).unsqueeze(3).unbind(2)

    def attend(self, x: Tensor, by: Modulation, turns: Turns, memory: Pair, mask: Tensor | None) -> tuple[Tensor, Pair]:
        """x after self-attention, and the chunk's own keys and values; see `SelfAttention`."""
        h = norm(x, self.eps) * (1 + by[1]) + by[0]
        attended, pair = self.self_attn(h.flatten(1, 2).to(self.dtype), turns, memory, mask)
        return x + attended.view(x.shape) * by[2], pair

    def sight(self, camera: Tensor) -> Sight:
        """What the camera's embedding [B, F, S, D] does to x in this block: the same in all passes of a chunk."""
        h = camera + self.cam_injector_layer2(functional.silu(self.cam_injector_layer1(camera)))
        return 1 + self.cam_scale_layer(h), self.cam_shift_layer(h)

    def guide(self, x: Tensor, sight: Sight) -> Tensor:
        return sight[0] * x + sight[1]

    def listen(self, x: Tensor, context: Pair) -> Tensor:
        """x after cross-attention to the context, keys and values each [B, T, H, K]."""
        h = norm(x, self.eps, self.norm3)
        return x + self.cross_attn(h.flatten(1, 2).to(self.dtype), context).view(x.shape)

    def feed(self, x: Tensor, by: Modulation) -> Tensor:
        h = norm(x, self.eps) * (1 + by[4]) + by[3]
        return x + self.ffn(h.to(self.dtype)) * by[5]
