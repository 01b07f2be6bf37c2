"""How the tokens of a pass are turned: once for all layers, without a look at the host.

`worldkv.rope` has the law; here are its phases for one grid of tokens, kept on the device. Nothing ends with a table:
phases of any time follow from the frequencies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldkv.rope import Rope, frequencies, phases


class Turns(NamedTuple):
    """Phases of a pass, complex64; N tokens of a chunk, B rows of the batch.

    local  [N, 1, pairs]: in chunk-local time, by which keys are stored
    begin  [B, 1, 1, time pairs]: from there to the chunk's place in time
    query  [B, N, 1, pairs]: both at once
    """

    local: Tensor
    begin: Tensor
    query: Tensor


class Rotation:
    """Phases of chunks of `frames` frames of `rows` by `columns` tokens."""

    def __init__(self, rope: Rope, frames: int, rows: int, columns: int, device: torch.device | str = "cpu") -> None:
        self.local = phases(rope, torch.arange(frames, device=device), rows, columns)[:, None]
        self._ladder = frequencies(rope.time, rope.theta).to(device)

    def at(self, position: Tensor) -> Turns:
        """Phases of chunks that begin at `position` [B], latent frames of any number type."""
        angle = position.double()[:, None] * self._ladder
        begin = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None, None]
        still = self.local.shape[-1] - begin.shape[-1]
        whole = torch.cat([begin, begin.new_ones(*begin.shape[:-1], still)], -1)
        return Turns(self.local, begin, self.local * whole)
