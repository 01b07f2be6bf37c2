"""What is walked, and with what at hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.variants import VARIANTS, Variant
from services.generator.session import Mode, SessionConfig
from worldkv.chunk import ModelSpec
from worldkv.coding import DTYPES, Coding, coded_bytes, stored_tokens
from worldkv.errors import InvalidInput
from worldkv.prune import Pruning
from worldkv.window import Placement, WindowConfig

Bank = Literal["device", "host"]
MODES: tuple[Mode, ...] = get_args(Mode)
RECALLED = 3
"""Whole chunks' worth of tokens that are recalled by default: the paper's 9 of 18 frames."""


@dataclass(frozen=True)
class Plan:
    """Walks of one model.

    model     name of a variant
    modes     what stands in the window, a walk each
    chunks    of a walk
    layers    of the transformer; 0: as published
    grid      rows and columns of latent cells; None: as published
    device    on which the model runs
    dtype     of weights, keys and values
    bank      where chunks are kept that are not in the window: decoded on the device, or in a store on this host
    keep      share of tokens kept of every frame but a chunk's first
    codec     of chunks in the store; those on the device are not coded
    recalled  frames' worth of tokens that are recalled; None: three chunks'
    placement  in time, of worldkv's window; others place chunks where they were made
    decode    whether latents become pictures, by a VAE of the published shape

    Raises InvalidInput for what cannot be, UnknownCodec for a codec that nobody knows.
    """

    model: str
    modes: tuple[Mode, ...] = MODES
    chunks: int = 90
    layers: int = 0
    grid: tuple[int, int] | None = None
    device: str = "cpu"
    dtype: str = "bfloat16"
    bank: Bank = "host"
    keep: float = 0.25
    codec: str = "raw"
    recalled: int | None = None
    placement: Placement = "rebased"
    decode: bool = False

    def __post_init__(self) -> None:
        _among("model", self.model, VARIANTS)
        _among("device", self.device, ("cpu", "cuda"))
        _among("dtype", self.dtype, DTYPES)
        _among("bank", self.bank, get_args(Bank))
        for mode in self.modes:
            _among("mode", mode, MODES)
        if not self.modes or len({*self.modes}) < len(self.modes):
            raise InvalidInput(f"modes are at least one, each once, got {', '.join(self.modes) or 'none'}")
        if self.chunks < 1 or not 0 <= self.layers <= self.published.layers:
            raise InvalidInput(
                f"a walk has at least one chunk, and the model at most {self.published.layers} layers, "
                f"got {self.chunks} chunks and {self.layers} layers"
            )
        if min(self.cells) < 1 or any(side % self.published.patch for side in self.cells):
            raise InvalidInput(f"sides of a grid are multiples of {self.published.patch}, got {self.cells}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InvalidInput("device cuda: torch sees none here")
        coded_bytes(self.coding, self.spec)  # raises for a share or a codec that cannot be
        recalled = self.window.recalled  # raises for a window that cannot be
        if "worldkv" in self.modes and recalled * self.spec.frame_tokens < stored_tokens(self.coding, self.spec):
            raise InvalidInput(
                f"recalled = {recalled} frames: a chunk of {stored_tokens(self.coding, self.spec)} tokens has no room"
            )

    @property
    def published(self) -> WanConfig:
        """The transformer as published."""
        return VARIANTS[self.model].backbone

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of latent cells."""
        return self.grid or VARIANTS[self.model].grid

    @property
    def variant(self) -> Variant:
        """The model at the depth that is walked."""
        published, depth = self.published, self.layers or self.published.layers
        actions = published.actions
        if actions:
            actions = replace(actions, layers=min(actions.layers, depth))
        return replace(VARIANTS[self.model], backbone=replace(published, layers=depth, actions=actions))

    @property
    def spec(self) -> ModelSpec:
        """Of its chunks."""
        return self.variant.spec("", "", self.cells, self.dtype)

    @property
    def coding(self) -> Coding:
        """What is done to chunks that are kept."""
        return Coding(self.codec, self.codec, Pruning(self.keep), raw_first=False)

    @property
    def window(self) -> WindowConfig:
        """The paper's window: a chunk of sink, what is recalled, a recent chunk, the current one."""
        frames = self.published.frames
        recalled = RECALLED * frames if self.recalled is None else self.recalled
        return WindowConfig(frames, recalled, frames, self.placement)

    def session(self, mode: Mode) -> SessionConfig:
        """How a walk goes."""
        return SessionConfig(mode, self.window, context="window")


def _among(what: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise InvalidInput(f"{what} is one of {', '.join(known)}, got {value!r}")
