"""Sizes of a causal Wan transformer and of the parts that only some models have.

Every number of the architecture stands here, or in the variant that sets it (`variants.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worldkv.errors import InvalidConfig
from worldkv.rope import Rope

MASK_CHANNELS = 4
"""Channels that say which pictures are given, one for each picture of a latent frame."""


@dataclass(frozen=True)
class ContextConfig:
    """What cross-attention attends to: tokens of a prompt (T5), or of the first picture (CLIP).

    width   channels of the encoder's tokens
    tokens  how many there are; a shorter prompt is filled up with zeros, and those are attended to as well
    """

    kind: Literal["text", "image"] = "text"
    width: int = 4096
    tokens: int = 512


@dataclass(frozen=True)
class CameraConfig:
    """How LingBot is told of the camera's motion: rays through every pixel, folded into the latent grid.

    origin  whether a ray has its origin (3 channels) beside its direction (3)
    keys    channels of held keys that every pixel has as well: W, A, S, D; 0 for none
    cell    pixels of a side of a latent cell
    fov     horizontal field of view, degrees: that of a session by default; pixels are square, the centre is the middle
    """

    origin: bool = True
    keys: int = 0
    cell: int = 8
    fov: float = 65.0

    @property
    def channels(self) -> int:
        """Channels of a latent cell."""
        return (3 * self.origin + 3 + self.keys) * self.cell**2


@dataclass(frozen=True)
class ActionConfig:
    """Matrix-Game-2.0's action modules: keyboard and mouse, attended to over time at every place of the picture.

    layers    blocks, from the first, that have one
    keyboard  keys; mouse: axes, 0 where there is none
    heads, hidden, embedding  of both attentions; channels of an embedded row of keys
    frames    latent frames before it whose rows of actions a frame reads
    pictures  rows of actions, one a picture, to a latent frame
    window    latent frames, the current chunk among them, that the modules' own rolling caches attend to
    rope      channel pairs that turn, with time alone
    eps       of the RMS norms of queries and keys, whose weights are kept in files and never applied
    """

    keyboard: int
    mouse: int
    window: int
    layers: int = 15
    heads: int = 16
    hidden: int = 1024
    embedding: int = 128
    frames: int = 3
    pictures: int = 4
    rope: Rope = field(default_factory=lambda: Rope(time=4, height=0, width=0, theta=256.0))
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def rows(self) -> int:
        """Rows of actions that a frame reads."""
        return self.frames * self.pictures


@dataclass(frozen=True)
class WanConfig:
    """A causal Wan transformer. The defaults are those of every model of the family.

    dim, ffn, heads, layers  of the transformer
    in_channels   of a latent cell that is drawn: its own, and those of the given picture where the model takes one
    out_channels  of a latent cell
    frames        latent frames of a chunk
    patch         latent cells of a side of a token
    sinusoid, period  channels and longest period of the time embedding
    rope          channel pairs of the time, height and width axes
    eps           of all norms
    stream        dtype of the residual stream and its modulation: float32, or that of the weights
    """

    dim: int
    ffn: int
    heads: int
    layers: int
    frames: int
    in_channels: int = 16
    out_channels: int = 16
    patch: int = 2
    sinusoid: int = 256
    period: float = 10_000.0
    rope: Rope = field(default_factory=lambda: Rope(time=22, height=21, width=21))
    eps: float = 1e-6
    stream: Literal["float32", "weights"] = "weights"
    context: ContextConfig = field(default_factory=ContextConfig)
    camera: CameraConfig | None = None
    actions: ActionConfig | None = None

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise InvalidConfig(f"dim {self.dim} does not divide into {self.heads} heads")
        if 2 * self.rope.pairs != self.head_dim:
            raise InvalidConfig(
                f"rope turns {2 * self.rope.pairs} channels of a head of {self.head_dim}: all must turn"
            )
        if self.in_channels not in (self.out_channels, 2 * self.out_channels + MASK_CHANNELS):
            raise InvalidConfig(
                f"in_channels is {self.out_channels}, or {2 * self.out_channels + MASK_CHANNELS} with a given picture, "
                f"got {self.in_channels}"
            )
        if self.actions and (self.actions.window < self.frames or self.actions.layers > self.layers):
            raise InvalidConfig(
                f"action modules attend to at least a chunk of {self.frames} frames and stand in at most "
                f"{self.layers} blocks, got {self.actions}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def given_channels(self) -> int:
        """Channels of the given picture: mask and latents; 0 where the model takes none."""
        return self.in_channels - self.out_channels
