"""How a published model of the family is loaded and run: what its files do not say."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from worldkv.errors import InvalidConfig

Dtype = Literal["float32", "float16", "bfloat16"]
AUTO = "auto"
ANY = "wan"
"""The name for whichever model a folder holds."""


@dataclass(frozen=True)
class WanSettings:
    """The settings of a published model.

    dtype           of the transformer's weights, and so of keys and values
    vae_dtype       of the VAE's weights
    device          that it runs on: cpu, cuda, cuda:1; auto: a GPU if there is one
    encoder_device  that prompts and pictures are encoded on; empty: the same. A text encoder takes 11 GB
    grid            rows and columns of latent cells, of 8 pixels a side each; none: those the model is used with
    shift           of the denoise schedule, where the model has one; None: the variant's own (`variants.py`)
    transformer     which one, where the folder holds several that fit: its file or folder in there
    parts           further folders, or files, in which the VAE and encoders are looked for; one that is itself such a
                    part goes before all others of its kind

    Raises InvalidConfig naming the value that is out of range.
    """

    dtype: Dtype = "bfloat16"
    vae_dtype: Dtype = "float16"
    device: str = AUTO
    encoder_device: str = ""
    grid: tuple[int, ...] = ()
    shift: float | None = None
    transformer: str = ""
    parts: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.grid and (len(self.grid) != 2 or min(self.grid) < 1):
            raise InvalidConfig(f"wan.grid = {list(self.grid)}: expected rows and columns, or none")
        if self.shift is not None and not 0 < self.shift < inf:
            raise InvalidConfig(f"wan.shift = {self.shift}: expected a number above 0")
