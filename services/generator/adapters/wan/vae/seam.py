"""The seam to what turns latents into pictures and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from worldkv.errors import InvalidInput

Features = dict[str, Tensor]
"""What a streaming decoder carries from chunk to chunk, by name; empty before the first."""


class VAE(Protocol):
    """Latents [..., channels, height, width] are normalised as the transformer knows them; pictures are in 0..1.

    What comes out is float32, and lies where what was given lies.
    """

    digest: str
    """Of its weights, hex."""
    pictures: int
    """Of a latent frame; the first frame of a clip has one."""
    pixels: int
    """A side of a latent cell."""

    def feature_bytes(self, grid: tuple[int, int]) -> int:
        """Bytes of a session's features, for so many rows and columns of latent cells."""

    def check(self, features: Features, grid: tuple[int, int]) -> None:
        """Raises InvalidInput for features that no session's decoder carries, for so many rows and columns."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [frames, channels, height, width] of a clip's pictures [pictures, 3, height, width].

        A clip has 1 + `self.pictures` * (frames - 1) pictures, of whole latent cells. Raises InvalidInput for others.
        """

    def frames(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same a latent frame [channels, height, width] at a time, of the pictures of each: one of the first, then
        `self.pictures`. Pictures are asked for when their frame is, so that a clip need never be there as a whole."""

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[list[Tensor], list[Features]]:
        """Pictures [pictures, 3, height, width] of each of the chunks [B, frames, ...], and its features after them.

        Sessions before their first chunk, and after it, may come together: the first has fewer pictures. What is given
        is left as it is. Features share memory with no other session's, pictures may.
        """


class LatentsOnly:
    """Shows the first three channels of latents as a picture of their size, and knows nothing of pictures.

    It stands in for a VAE where only the transformer is looked at; one picture a latent frame.

    spread  latents from -spread to spread become 0..1
    """

    digest = ""
    pictures = pixels = 1

    def __init__(self, channels: int, spread: float = 4.0) -> None:
        self.channels, self.spread = channels, spread

    def feature_bytes(self, grid: tuple[int, int]) -> int:
        return 0

    def check(self, features: Features, grid: tuple[int, int]) -> None:
        if features:
            raise InvalidInput(f"latents that are shown as they are carry no features, got {', '.join(features)}")

    def encode(self, pictures: Tensor) -> Tensor:
        rest = pictures.new_zeros(len(pictures), self.channels - 3, *pictures.shape[2:])
        return torch.cat([(pictures * 2 - 1) * self.spread, rest], 1)

    def frames(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        for each in pictures:
            yield from self.encode(each)

    def decode(self, latents: Tensor, features: Sequence[Features]) -> tuple[list[Tensor], list[Features]]:
        return [((each[:, :3] / self.spread + 1) / 2).clamp(0, 1) for each in latents], list(features)
