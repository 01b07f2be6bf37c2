"""Keys and values that cost one copy to make, differ between chunks in every run of bytes, and are known again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldkv.chunk import ModelSpec
from worldkv.client.landing import Landing
from worldkv.coding import DTYPES, KV
from worldkv.errors import ChunkCorrupt

BEGINS = 1 << 20
"""Places of the well at which a chunk may begin."""
MARK = 4
"""Values that tell a place from all others: 8 bytes."""
SPARE = 1
"""Chunks whose memory is kept warm for the next ones."""


class Well:
    """Random numbers, somewhat more than a chunk has; each chunk is a run of them that begins at a place of its own.

    The same spec and place give the same bytes in every process.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.dtype = spec, DTYPES[spec.dtype]
        self.shape = (spec.layers, spec.frames * spec.frame_tokens, spec.heads, spec.head_dim)
        self._half = int(np.prod(self.shape))
        source = torch.Generator().manual_seed(0)
        self._values = torch.randn(2 * self._half + BEGINS + MARK, dtype=self.dtype, generator=source)
        self._memory = Landing(SPARE * spec.raw_bytes)
        marks = self._values[self._half : self._half + BEGINS + MARK - 1].view(torch.int16).numpy()
        words = np.lib.stride_tricks.sliding_window_view(marks, MARK).copy().view(np.int64)[:, 0]
        self._order = words.argsort()
        self._marks = words[self._order]

    def draw(self, place: int) -> KV:
        """Keys and values of the chunk that begins at a place, in memory of their own."""
        begin = place % BEGINS
        made = torch.frombuffer(self._memory.take(self.spec.raw_bytes), dtype=self.dtype)
        made.copy_(self._values[begin : begin + 2 * self._half])
        return KV(made[: self._half].view(self.shape), made[self._half :].view(self.shape))

    def holds(self, kv: KV, place: int) -> bool:
        """Whether these are all the bytes of the chunk at a place."""
        begin = place % BEGINS
        halves = self._values[begin : begin + 2 * self._half].view(2, *self.shape)
        return kv.keys.shape == self.shape == kv.values.shape and all(map(torch.equal, kv, halves))

    def check(self, keys: Tensor, values: Tensor) -> None:
        """Raise ChunkCorrupt unless a slot's keys and values are a chunk of this well, as far as a sample tells.

        keys, values  [layers, tokens, heads, head_dim]; the time channels of keys may be turned to any time

        Looks at the first and the last token of every layer.
        """
        mark = values[0, 0].reshape(-1)[:MARK].contiguous().view(torch.int64)
        at = int(np.searchsorted(self._marks, int(mark)))
        if at == len(self._marks) or self._marks[at] != int(mark):
            raise ChunkCorrupt(f"a slot of {self.spec.model}'s window begins as no chunk does that was ever drawn")
        begin = int(self._order[at])
        halves = self._values[begin : begin + 2 * self._half].view(2, *self.shape)
        ends, still = [0, -1], 2 * self.spec.rope[0]
        found = keys[:, ends, :, still:], values[:, ends]
        if not all(map(torch.equal, found, (halves[0][:, ends, :, still:], halves[1][:, ends]))):
            raise ChunkCorrupt(
                f"a slot of {self.spec.model}'s window holds other bytes than chunk {begin} was put with"
            )
