"""The layers that every causal Wan transformer is made of, under the names that their weights have in files.

Shape letters: B batch, F frames, S tokens of a frame, N = F * S tokens of a chunk, M tokens of the memory, T tokens
of the context, D width, H heads, K head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.rotation import Turns
from worldkv.rope import rotate

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


class RMSNorm(nn.Module):
    """Over all channels of a token, before they are split into heads; computed in float32, weighted in x's dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


def norm(x: Tensor, eps: float, affine: nn.LayerNorm | None = None) -> Tensor:
    """Layer norm in float32, given back in x's dtype; without weights, or with those of `affine`."""
    weight, bias = (None, None) if affine is None else (affine.weight.float(), affine.bias.float())
    return functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q [B, N, H, K] to k and v [B, M, H, K], mask broadcast to [B, H, N, M]: [B, N, H, K]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class Projections(nn.Module):
    """The four projections and two norms that both attentions have."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)

    def queries(self, x: Tensor) -> Tensor:
        return self._split(self.norm_q(self.q(x)))

    def pair(self, x: Tensor) -> Pair:
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def out(self, attended_BNHK: Tensor) -> Tensor:
        return self.o(attended_BNHK.flatten(2))

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1))


class SelfAttention(Projections):
    """Of a chunk to itself and to a memory that is given: which tokens that holds is not decided here."""

    def forward(self, x_BND: Tensor, turns: Turns, memory: Pair, mask: Tensor | None) -> tuple[Tensor, Pair]:
        """Attended [B, N, D], and the chunk's own keys, in chunk-local time, and values, each [B, N, H, K].

        memory  keys, placed in time, and values, each [B, M, H, K]
        mask    [B, 1, 1, M + N] bool: what may be attended to; None means all
        """
        q = rotate(self.queries(x_BND), turns.query)
        k, v = self.pair(x_BND)
        # The same two roundings that stored keys have behind them when they come back from the memory.
        k = rotate(k, turns.local)
        keys = torch.cat([memory[0], rotate(k, turns.begin)], 1)
        values = torch.cat([memory[1], v], 1)
        return self.out(attend(q, keys, values, mask)), (k, v)


class CrossAttention(Projections):
    """Of a chunk to a context, whose keys and values (`pair`) are made once and not turned."""

    def forward(self, x_BND: Tensor, context: Pair) -> Tensor:
        return self.out(attend(self.queries(x_BND), *context))


class Head(nn.Module):
    """From the last block's tokens to patches."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_channels * config.patch**2)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x_BFSD: Tensor, time_BFD: Tensor) -> Tensor:
        shift, scale = (time_BFD[:, :, None] + self.modulation).unsqueeze(3).unbind(2)
        h = norm(x_BFSD, self.eps) * (1 + scale) + shift
        return self.head(h.to(self.head.weight.dtype))
