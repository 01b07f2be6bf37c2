"""Matrix-Game-2.0's action module: what keyboard and mouse do to the tokens of a chunk.

Mouse: each place of the picture attends over time to what it saw and how the mouse moved. Keyboard: each place
attends over time to the keys that were held, which are the same for all places. Both remember the frames just before
the chunk in caches of their own, which roll: they describe motion, not scenery, and are no part of the world's memory.

Cached keys are not turned. They are turned when they are read, by their place in the rolling window, so that a walk has
no last frame. Shape letters as in `layers`; P frames before the chunk, W = P + F frames of the window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.generator.adapters.wan.config import ActionConfig
from worldkv.rope import phases, rotate


class Acts(NamedTuple):
    """What was done in the frames of a chunk, and which frames before it are remembered.

    mouse     [B, F, rows * axes]: the rows that each frame reads, one after the other; no channels without a mouse
    keyboard  [B, F, rows, keys]
    valid     [B, 1, 1, W] bool: which frames of the window there are
    phase     [W, 1, pairs] complex64: turns of the window's frames
    """

    mouse: Tensor
    keyboard: Tensor
    valid: Tensor
    phase: Tensor


class ActionPast(NamedTuple):
    """Keys and values of the frames before a chunk: of one module, or of all with a leading axis of layers.

    mouse     [2, B, S, P, H, K], empty (S = 0) without a mouse
    keyboard  [2, B, P, H, K]
    """

    mouse: Tensor
    keyboard: Tensor


class UnweightedNorm(nn.Module):
    """RMS norm with a weight that files have and nothing applies: that is how the published models were trained."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], eps=self.eps)


def window_phase(config: ActionConfig, device: torch.device | str = "cpu") -> Tensor:
    """Turns of the window's frames: [W, 1, pairs] complex64."""
    return phases(config.rope, torch.arange(config.window, device=device), 1, 1)[:, None]


class ActionModule(nn.Module):
    """Both branches, mouse first; weights under the names that they have in files."""

    def __init__(self, config: ActionConfig, dim: int) -> None:
        super().__init__()
        self.config = c = config
        embedding, hidden = c.embedding, c.hidden
        self.keyboard_embed = nn.Sequential(
            nn.Linear(c.keyboard, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if c.mouse:
            self.mouse_mlp = nn.Sequential(
                nn.Linear(dim + c.mouse * c.rows, hidden),
                nn.GELU("tanh"),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
            )
            self.t_qkv = nn.Linear(hidden, 3 * hidden, bias=False)
            self.img_attn_q_norm, self.img_attn_k_norm = self._norms()
            self.proj_mouse = nn.Linear(hidden, dim, bias=False)
        self.mouse_attn_q = nn.Linear(dim, hidden, bias=False)
        self.keyboard_attn_kv = nn.Linear(embedding * c.rows, 2 * hidden, bias=False)
        self.key_attn_q_norm, self.key_attn_k_norm = self._norms()
        self.proj_keyboard = nn.Linear(hidden, dim, bias=False)

    def _norms(self) -> tuple[UnweightedNorm, UnweightedNorm]:
        c = self.config
        return UnweightedNorm(c.head_dim, c.eps), UnweightedNorm(c.head_dim, c.eps)

    def forward(self, x_BFSD: Tensor, acts: Acts, past: ActionPast) -> tuple[Tensor, ActionPast]:
        """x, and keys and values of the chunk's own frames (P = F in their shapes)."""
        x, mouse = x_BFSD.to(self.proj_keyboard.weight.dtype), past.mouse[:, :, :, :0]
        if self.config.mouse:
            change, mouse = self._steer(x, acts, past.mouse)
            x = x + change
        change, keyboard = self._drive(x, acts, past.keyboard)
        return (x + change).to(x_BFSD.dtype), ActionPast(mouse, keyboard)

    def _steer(self, x: Tensor, acts: Acts, past: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        moves = acts.mouse[:, :, None].expand(*x.shape[:3], -1)
        h = self.t_qkv(self.mouse_mlp(torch.cat([x, moves], -1))).transpose(1, 2)
        q, k, v = h.unflatten(-1, (3, c.heads, c.head_dim)).unbind(-3)  # each [B, S, F, H, K]
        q, k = self.img_attn_q_norm(q), self.img_attn_k_norm(k)
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        q, keys = rotate(q, acts.phase[-q.shape[2] :]), rotate(keys, acts.phase)
        q, keys, values = (y.transpose(2, 3) for y in (q, keys, values))
        attended = functional.scaled_dot_product_attention(q, keys, values, attn_mask=acts.valid[:, None])
        return self.proj_mouse(attended.permute(0, 3, 1, 2, 4).flatten(3)), torch.stack([k, v])

    def _drive(self, x: Tensor, acts: Acts, past: Tensor) -> tuple[Tensor, Tensor]:
        c, (batch, frames, places) = self.config, x.shape[:3]
        held = self.keyboard_attn_kv(self.keyboard_embed(acts.keyboard).flatten(2))
        k, v = held.unflatten(-1, (2, c.heads, c.head_dim)).unbind(-3)  # each [B, F, H, K]
        q = self.key_attn_q_norm(self.mouse_attn_q(x).unflatten(-1, (c.heads, c.head_dim)))
        k = self.key_attn_k_norm(k)
        keys, values = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        q, keys = rotate(q, acts.phase[-frames:, None]), rotate(keys, acts.phase)
        # All places have the same keys: their queries make one attention.
        q, keys, values = (y.transpose(1, 2) for y in (q.flatten(1, 2), keys, values))
        attended = functional.scaled_dot_product_attention(q, keys, values, attn_mask=acts.valid)
        return self.proj_keyboard(attended.transpose(1, 2).reshape(batch, frames, places, -1)), torch.stack([k, v])
