"""The pocket world model: a small causal diffusion transformer with camera rays in every block.

Built like its big relatives (Wan 2.1 made causal): patches, RMS-normed queries and keys, 3-axis RoPE,
modulation by the time step, chunks of 3 frames, and a clean pass at t = 0 whose keys and values are
the memory. It works on pixels: a "latent frame" is the picture itself, scaled to -1..1.

Shape letters: B batch, F frames, N tokens of those frames, M tokens of the memory, D width, H heads,
K head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi, tan
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldkv.rope import Rope, phases, place, rotate


@dataclass(frozen=True)
class PocketConfig:
    """Size of the model; pixels, tokens and channels as the names say.

    ray_scale   units of the world that become 1 in the ray features
    ray_centre  ground point (x, z) that becomes 0 in them, units
    """

    height: int = 48
    width: int = 64
    patch: int = 8
    dim: int = 256
    layers: int = 5
    heads: int = 4
    frames: int = 3
    octaves: int = 6
    fov: float = 65.0
    ray_scale: float = 6.0
    ray_centre: tuple[float, float] = (6.0, 6.0)
    rope: Rope = field(default_factory=lambda: Rope(time=12, height=10, width=10))

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


KV = tuple[Tensor, Tensor]
"""Keys and values of all layers, each [layers, B, tokens, H, K]."""


class Block(nn.Module):
    """Attention and FFN of one layer, modulated by the time step, with the camera's rays added before q, k and v."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.modulation = nn.Parameter(torch.zeros(6, dim))
        self.ray = nn.Linear(dim, dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm_q = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.out = nn.Linear(dim, dim)
        self.ffn_in = nn.Linear(dim, 4 * dim)
        self.ffn_out = nn.Linear(4 * dim, dim)

    def modulate(self, time_BF6D: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale, gate of attention, then of the FFN: each [B, N, D] by broadcasting over patches."""
        parts = (time_BF6D + self.modulation).unbind(-2)
        return tuple(p.repeat_interleave(self.config.tokens, 1) for p in parts)

    def queries(self, x_BND: Tensor, shift: Tensor, scale: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed q, k and v, each [B, N, H, K], before any rotation."""
        c = self.config
        h = _norm(x_BND) * (1 + scale) + shift + self.ray(rays)
        q, k, v = self.qkv(h).unflatten(-1, (3, c.heads, c.head_dim)).unbind(-3)
        return self.norm_q(q.float()), self.norm_k(k.float()), v

    def finish(self, x: Tensor, attended_BNHK: Tensor, mod: tuple[Tensor, ...]) -> Tensor:
        x = x + mod[2] * self.out(attended_BNHK.flatten(2))
        h = _norm(x) * (1 + mod[4]) + mod[3]
        return x + mod[5] * self.ffn_out(functional.gelu(self.ffn_in(h), approximate="tanh"))


class PocketModel(nn.Module):
    """The whole network; `forward` trains on clips, `chunk` draws and encodes one chunk against a window."""

    def __init__(self, config: PocketConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PocketConfig()
        pixels = 3 * c.patch**2
        self.patch_embedding = nn.Linear(pixels, c.dim)
        self.ray_embedding = nn.Sequential(
            nn.Linear(8 * (1 + 2 * c.octaves), c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(64, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        modulation = nn.Linear(c.dim, 6 * c.dim)
        self.time_projection = nn.Sequential(nn.SiLU(), modulation)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.head_modulation = nn.Parameter(torch.zeros(2, c.dim))
        self.head = nn.Linear(c.dim, pixels)
        with torch.no_grad():
            # Gates start open, so that a block is a plain residual block at first.
            for block in self.layers:
                block.modulation[2].fill_(1)
                block.modulation[5].fill_(1)
            modulation.weight.mul_(0.1)
            modulation.bias.zero_()

    @property
    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return cast(list[Block], list(self.blocks))

    def project(self, time_BFD: Tensor) -> Tensor:
        """Modulation of all blocks by the time vectors: [B, F, 6, D]."""
        projected: Tensor = self.time_projection(time_BFD)
        return projected.unflatten(-1, (6, self.config.dim))

    def embed_rays(self, pose: Tensor) -> Tensor:
        """Ray embedding of every patch: [B, N, D]; pose as in `ray_features`."""
        embedded: Tensor = self.ray_embedding(ray_features(pose, self.config))
        return embedded

    def embed(self, frames: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, D] and time vectors [B, F, D] of frames [B, F, 3, height, width] at noise level [B, F]."""
        c = self.config
        patches = frames.unflatten(-1, (c.columns, c.patch)).unflatten(-3, (c.rows, c.patch))
        x = self.patch_embedding(patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3))
        angle = level[..., None] * (2.0 ** torch.linspace(-2, 8, 32, device=level.device))
        return x, self.time_embedding(torch.cat([angle.sin(), angle.cos()], -1))

    def predict(self, x_BND: Tensor, time_BFD: Tensor) -> Tensor:
        """The clean frames [B, F, 3, height, width] from the last block's tokens."""
        c = self.config
        shift, scale = (time_BFD[:, :, None] + self.head_modulation).repeat_interleave(c.tokens, 1).unbind(-2)
        y = self.head(_norm(x_BND) * (1 + scale) + shift)
        y = y.view(len(y), -1, c.rows, c.columns, 3, c.patch, c.patch)
        return y.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(y), -1, 3, c.height, c.width)

    def forward(self, frames: Tensor, level: Tensor, pose: Tensor, position: Tensor) -> Tensor:
        """Predict the clean frames of a whole clip, each chunk attending to itself and all before it.

        frames [B, F, 3, height, width], level [B, F] in 0..1, pose [B, F, 4, 4], position [F] int64.
        """
        c = self.config
        x, time = self.embed(frames, level)
        rays = self.embed_rays(pose)
        time_6 = self.project(time)
        phase = phases(c.rope, position, c.rows, c.columns)[:, None]
        step = c.frames * c.tokens
        for block in self.layers:
            x = block_train(block, x, time_6, rays, phase, step)
        return self.predict(x, time)

    def chunk(
        self,
        frames: Tensor,
        level: Tensor,
        rays: Tensor,
        position: Tensor,
        memory: KV,
        valid: Tensor | None,
    ) -> tuple[Tensor, KV]:
        """One pass over a chunk against a window of remembered keys and values.

        frames   [B, F, 3, height, width], level [B, F] in 0..1
        rays     [B, N, D] of `embed_rays`, the same for every pass of a chunk
        position [B]: time position of the chunk's first frame
        memory   keys, already placed in time, and values, each [layers, B, M, H, K]
        valid    [B, M] bool: which memory tokens may be attended; None means all

        Returns the clean frames [B, F, 3, height, width], and the chunk's own keys, in chunk-local time, and
        values, each [layers, B, N, H, K].
        """
        c = self.config
        x, time = self.embed(frames, level)
        time_6 = self.project(time)
        local = phases(c.rope, torch.arange(frames.shape[1], device=x.device), c.rows, c.columns)[:, None]
        mask = None
        if valid is not None:
            mask = torch.cat([valid, valid.new_ones(len(x), x.shape[1])], 1)[:, None, None]
        kept: list[tuple[Tensor, Tensor]] = []
        for block, memory_k, memory_v in zip(self.layers, *memory, strict=True):
            mod = block.modulate(time_6)
            q, k, v = block.queries(x, mod[0], mod[1], rays)
            q, k = rotate(q, local), rotate(k, local)
            kept.append((k, v))
            keys = torch.cat([memory_k, place(k, c.rope, position)], 1).transpose(1, 2)
            values = torch.cat([memory_v, v], 1).transpose(1, 2)
            q = place(q, c.rope, position).transpose(1, 2)
            attended = functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = block.finish(x, attended.transpose(1, 2), mod)
        keys, values = (torch.stack(part) for part in zip(*kept, strict=True))
        return self.predict(x, time), (keys, values)


def ray_features(pose: Tensor, config: PocketConfig) -> Tensor:
    """What is known of the ray through each patch centre: [B, N, features] float32.

    pose [B, F, 4, 4]: camera-to-world, in the world's own frame. A ray is given by its origin on the
    ground, its direction and its moment (Plücker), each also in sines and cosines of `octaves` octaves.
    """
    c = config
    pose = pose.float()
    focal = c.width / 2 / tan(c.fov * pi / 360)
    u = ((torch.arange(c.columns, device=pose.device) + 0.5) * c.patch - c.width / 2) / focal
    v = ((torch.arange(c.rows, device=pose.device) + 0.5) * c.patch - c.height / 2) / focal
    right, down, forward, place = (pose[:, :, None, None, :3, i] for i in range(4))
    direction = functional.normalize(right * u[:, None] + down * v[:, None, None] + forward, dim=-1)
    centre = pose.new_tensor([c.ray_centre[0], 0.0, c.ray_centre[1]])
    origin = ((place - centre) / c.ray_scale).expand_as(direction)
    raw = torch.cat([origin[..., ::2], direction, torch.linalg.cross(origin, direction)], -1)
    waves = raw[..., None] * (pi * 2.0 ** torch.arange(-1, c.octaves - 1, device=pose.device))
    return torch.cat([raw, waves.sin().flatten(-2), waves.cos().flatten(-2)], -1).flatten(1, 3)


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def attend_by_chunk(q: Tensor, k: Tensor, v: Tensor, step: int) -> Tensor:
    """Attention in which each run of `step` tokens sees itself and all tokens before it.

    q, k, v [B, H, N, K]. A loop of plain products: on a CPU faster, forward and backward, than one
    masked call or the fused kernel.
    """
    out = []
    scale = q.shape[-1] ** -0.5
    for i in range(0, q.shape[2], step):
        seen = i + step
        weight = (q[:, :, i:seen] @ k[:, :, :seen].transpose(-1, -2) * scale).softmax(-1)
        out.append(weight.to(v.dtype) @ v[:, :, :seen])
    return torch.cat(out, 2)


def block_train(block: Block, x: Tensor, time_6: Tensor, rays: Tensor, phase: Tensor, step: int) -> Tensor:
    mod = block.modulate(time_6)
    q, k, v = block.queries(x, mod[0], mod[1], rays)
    q, k, v = (y.transpose(1, 2) for y in (rotate(q, phase), rotate(k, phase), v))
    return block.finish(x, attend_by_chunk(q, k, v, step).transpose(1, 2), mod)
