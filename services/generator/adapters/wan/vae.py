"""The seam to what turns latents into pictures and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Features = dict[str, Tensor]
"""What a streaming decoder carries from chunk to chunk, by name; empty before the first."""


class VAE(Protocol):
    """Latents [..., channels, height, width] are normalised as the transformer knows them; pictures are in 0..1."""

    digest: str
    """Of its weights, hex."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [frames, channels, height, width] of pictures [pictures, 3, height, width]."""

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[Tensor, list[Features]]:
        """Pictures [B, pictures, 3, height, width] of chunks [B, frames, ...], and each session's features after them.

        What is given is left as it is.
        """


class LatentsOnly:
    """Shows the first three channels of latents as a picture of their size, and knows nothing of pictures.

    It stands in for a VAE where only the transformer is looked at; one picture a latent frame.

    spread  latents from -spread to spread become 0..1
    """

    digest = ""

    def __init__(self, channels: int, spread: float = 4.0) -> None:
        self.channels, self.spread = channels, spread

    def encode(self, pictures: Tensor) -> Tensor:
        rest = pictures.new_zeros(len(pictures), self.channels - 3, *pictures.shape[2:])
        return torch.cat([(pictures * 2 - 1) * self.spread, rest], 1)

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[Tensor, list[Features]]:
        return ((latents[:, :, :3] / self.spread + 1) / 2).clamp(0, 1), list(features)
