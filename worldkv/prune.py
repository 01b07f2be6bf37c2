"""Pruning of a chunk's tokens, one attention layer at a time: keep what is news, drop what repeats the first frame.

A chunk's first latent frame is its anchor and is kept whole. Of the other frames those tokens are kept
whose keys, heads concatenated, are least similar to the anchor's (WorldKV, arXiv 2605.22718). A turn in
time that is the same for all of a chunk's keys leaves all scores as they were, so keys may be chunk-local
or placed. Values are carried along: they play no part in the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from worldkv.errors import InvalidInput, NonFinite

Similarity = Literal["anchor_mean", "mean_cosine"]
"""anchor_mean: cosine to the mean anchor key (the released code); mean_cosine: mean of the cosines to all
anchor keys (the paper's formula)."""

Reduce = Callable[[Tensor], Tensor]
"""Adds a float64 tensor up over the ranks that hold the other heads of the same tokens."""


@dataclass(frozen=True)
class Pruning:
    """What is kept of a chunk; raises InvalidInput when built with values that mean nothing.

    keep        share of the tokens of every frame but the first, 0 (anchor only) to 1 (everything)
    similarity  what counts as similar to the anchor
    pooled      the frames but the first share one budget of the same total size
    """

    keep: float = 1.0
    similarity: Similarity = "anchor_mean"
    pooled: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.keep) and 0 <= self.keep <= 1):
            raise InvalidInput(f"pruning keeps a share between 0 and 1, not {self.keep}")
        if self.similarity not in get_args(Similarity):
            raise InvalidInput(f"similarity is one of {', '.join(get_args(Similarity))}, not {self.similarity!r}")


def kept_tokens(pruning: Pruning, frames: int, tokens_per_frame: int) -> int:
    """How many tokens of a chunk are kept: whole first frame, and the share of each other frame, rounded up.

    The share is taken as written in decimals, so that 0.07 of 100 tokens are 7.
    """
    if frames < 1 or tokens_per_frame < 0:
        raise InvalidInput(f"a chunk has at least one frame, not {frames} frames of {tokens_per_frame} tokens")
    share = ceil(Fraction(str(pruning.keep)) * tokens_per_frame)
    return tokens_per_frame + (frames - 1) * share


def similarities(keys: Tensor, frames: int, similarity: Similarity, reduce: Reduce = lambda x: x) -> Tensor:
    """How similar each token is to the anchor: [frames * tokens] float32, -1..1; 0 where a key is all zeros.

    keys   [frames * tokens, heads, head_dim], any float dtype, frames slowest; under head sharding this rank's heads
    reduce is called twice, with float64 [frames * tokens]: squared norms, then products

    Sums are float64 and the result is rounded once, so that the order of ranks does not show.
    Raises InvalidInput if the tokens do not divide into frames, NonFinite if a key is NaN or infinite.
    """
    if frames < 1 or keys.shape[0] % frames:
        raise InvalidInput(f"{keys.shape[0]} tokens do not divide into {frames} frames")
    x = keys.flatten(1).double()
    anchor = x[: len(x) // frames]
    squares = reduce(x.square().sum(-1))
    bad = int((~squares.isfinite()).sum())
    if bad:
        raise NonFinite(f"keys of {bad} tokens are not finite")
    norms = squares.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    weights = torch.ones_like(norms[: len(anchor)]) / max(len(anchor), 1)
    if similarity == "mean_cosine":
        weights = weights / norms[: len(anchor)]
    products = reduce((x * (weights[:, None] * anchor).sum(0)).sum(-1))
    scores = products / norms
    if similarity == "anchor_mean":
        length = (products[: len(anchor)] * weights).sum().clamp(min=0).sqrt()
        scores = scores / length.clamp(min=torch.finfo(torch.float64).tiny)
    return scores.float()


def select_tokens(keys: Tensor, frames: int, pruning: Pruning, reduce: Reduce = lambda x: x) -> Tensor:
    """Which tokens of one layer are kept: int64 [kept], ascending, on the device of the keys.

    Arguments and errors as in `similarities`. Of equally similar tokens the earlier is kept.
    """
    tokens = keys.shape[0] // max(frames, 1)
    kept = kept_tokens(pruning, frames, tokens)
    if kept == keys.shape[0]:
        return torch.arange(kept, device=keys.device)
    rest = similarities(keys, frames, pruning.similarity, reduce)[tokens:]
    groups = rest.view(1 if pruning.pooled else frames - 1, -1)
    order = groups.sort(dim=-1, stable=True).indices[:, : (kept - tokens) // len(groups)]
    starts = tokens + torch.arange(len(groups), device=keys.device)[:, None] * groups.shape[1]
    chosen = (order + starts).flatten().sort().values
    return torch.cat([torch.arange(tokens, device=keys.device), chosen])
