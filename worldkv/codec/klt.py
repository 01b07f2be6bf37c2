"""A transform fitted to a model: the few directions that its keys or values really use, with bits where they count.

Keys and values of a trained model fill a small part of their space. Projected onto their principal components
(Karhunen-Loève transform) most of the energy lies in a few numbers; those get 8 bits, others 4 or 2, and most none.
(KVTC, arXiv 2511.01815, does so for language models, with entropy coding after it. Here every token takes the same
number of bytes and needs no others to be read.) Bits are given out, and steps chosen, by the error that a
sample of the model's keys or values shows, outliers included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import Buffer
from worldkv.codec.base import check_shape, check_values, from_bytes, to_bytes
from worldkv.codec.integer import restore
from worldkv.codec.packing import pack, unpack
from worldkv.errors import InvalidInput, SpecMismatch

WIDTHS = (8, 4, 2)
"""Bits of the components of the three classes, in their order in the basis."""
MULTIPLES = (1, 2, 4)
"""What the number of components of each class is a multiple of, so that they fill bytes."""
SAMPLE = 4096
"""Tokens of the sample that steps are tried on, at most."""
STEPS = 2.0 ** torch.arange(-1.0, 2.75, 0.25)
"""Steps that are tried, as multiples of the one that is best for a normal distribution."""
NORMAL_STEP = {8: 0.031, 4: 0.335, 2: 0.996}
"""Step, in standard deviations, of the uniform quantiser of so many bits that is best for a normal distribution."""


@dataclass(frozen=True, eq=False)
class Klt:
    """A codec for the keys, or the values, of one model. Made by `fit`; a chunk's layers are coded together.

    heads   of the tensors it takes
    counts  components of 8, of 4 and of 2 bits, the same in every layer
    mean    [layers, heads * head_dim] float32
    basis   [layers, heads * head_dim, components] float16: orthonormal columns, by falling variance
    steps   [layers, components] float32: between the levels of a component

    Raises InvalidInput for tables that do not fit each other.
    """

    heads: int
    counts: tuple[int, int, int]
    mean: Tensor
    basis: Tensor
    steps: Tensor
    _ready: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        layers, width = self.mean.shape
        if width % self.heads or self.basis.shape != (layers, width, sum(self.counts)):
            raise InvalidInput(f"a basis {tuple(self.basis.shape)} does not fit {layers} layers of width {width}")
        if self.steps.shape != (layers, sum(self.counts)) or not (self.steps > 0).all():
            raise InvalidInput("every component of every layer needs a positive step")
        if any(n < 0 or n % m for n, m in zip(self.counts, MULTIPLES, strict=True)):
            raise InvalidInput(f"counts of components of 8, 4, 2 bits are multiples of 1, 2, 4, not {self.counts}")

    @property
    def layers(self) -> int:
        return len(self.mean)

    @property
    def row_bytes(self) -> int:
        """Bytes of one token of one layer."""
        return sum(n * bits for n, bits in zip(self.counts, WIDTHS, strict=True)) // 8

    @cached_property
    def name(self) -> str:
        """Bits a value, and a digest of the tables: bytes are only read with the tables they were written with."""
        digest = hashlib.blake2b(repr((self.heads, self.counts)).encode(), digest_size=6)
        for table in (self.mean, self.basis, self.steps):
            digest.update(table.cpu().numpy().tobytes())
        return f"klt{8 * self.row_bytes / self.mean.shape[1]:.3g}-{digest.hexdigest()}"

    def layer(self, index: int) -> Klt:
        """The codec of one layer, for those who code them one by one; the bytes are the same."""
        part = slice(index, index + 1)
        return Klt(self.heads, self.counts, self.mean[part], self.basis[part], self.steps[part])

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        check_values(x)
        items, tokens = self._cut(x.shape)
        forward, offset, _ = self._tables(x.device)
        levels = torch.baddbmm(offset, x.float().reshape(items, tokens, self.mean.shape[1]), forward)
        coded = [
            # Half a level is in the offset, for the conversion to integers cuts off.
            pack(part.clamp(0, 2**bits - 0.5).to(torch.uint8).flatten(1), bits)
            for part, bits in zip(levels.split(self.counts, -1), WIDTHS, strict=True)
        ]
        return to_bytes(torch.cat(coded, -1))

    def decode(
        self, data: Buffer, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        items, tokens = self._cut(shape)
        coded = from_bytes(data, self.size(shape, dtype), device).view(items, -1)
        sizes = [tokens * n * bits // 8 for n, bits in zip(self.counts, WIDTHS, strict=True)]
        levels = torch.cat(
            [
                unpack(part, bits).view(items, tokens, n)
                for part, bits, n in zip(coded.split(sizes, -1), WIDTHS, self.counts, strict=True)
            ],
            -1,
        )
        _, _, backward = self._tables(coded.device)
        return restore(torch.baddbmm(backward[:, -1:], levels, backward[:, :-1]), shape, dtype)

    def size(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        items, tokens = self._cut(shape)
        return items * tokens * self.row_bytes

    def tensors(self) -> dict[str, Tensor]:
        """The tables by name, to be kept beside the model's weights."""
        sizes = torch.tensor([self.heads, *self.counts])
        return {"sizes": sizes, "mean": self.mean, "basis": self.basis, "steps": self.steps}

    @classmethod
    def from_tensors(cls, tables: Mapping[str, Tensor]) -> Klt:
        """What `tensors` gave; raises InvalidInput for tables that do not fit each other."""
        heads, *counts = (int(n) for n in tables["sizes"])
        return cls(heads, (counts[0], counts[1], counts[2]), tables["mean"], tables["basis"], tables["steps"])

    def _cut(self, shape: Sequence[int]) -> tuple[int, int]:
        """Layers and tokens; raises SpecMismatch for tensors of another model."""
        check_shape(shape)
        heads, head_dim = shape[-2:]
        if prod(shape[:-3]) != self.layers or (heads, heads * head_dim) != (self.heads, self.mean.shape[1]):
            wanted = f"{self.layers} layers, {self.heads} heads of {self.mean.shape[1] // self.heads}"
            raise SpecMismatch(f"codec {self.name} is for {wanted}, got {tuple(shape)}")
        return self.layers, shape[-3]

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """To levels: [layers, width, components] and [layers, 1, components]; back: [layers, components + 1, width],
        the last row for what is added."""
        if device not in self._ready:
            basis, mean, steps = (t.to(device, torch.float64) for t in (self.basis, self.mean, self.steps))
            middle = torch.cat([torch.full((n,), 2.0 ** (b - 1)) for n, b in zip(self.counts, WIDTHS, strict=True)])
            forward = basis / steps[:, None]
            offset = middle.to(device) - mean[:, None].to(forward) @ forward
            backward = (basis * steps[:, None]).mT
            added = mean[:, None] - (middle.to(forward)[None] - 0.5) @ backward
            self._ready[device] = forward.float(), offset.float(), torch.cat([backward, added], 1).float()
        return self._ready[device]


def fit(sample: Tensor, bits: float) -> Klt:
    """Fit a codec to a sample of a model's keys (in chunk-local time), or of its values.

    sample  [layers, tokens, heads, head_dim], any float dtype: some thousand tokens of many worlds
    bits    a value on average, above 0 and at most 8

    Raises InvalidInput for too few tokens or bits out of range, NonFinite for NaN or infinity.
    """
    check_values(sample)
    if sample.dim() != 4 or sample.shape[1] < 2:
        raise InvalidInput(f"a sample is [layers, tokens, heads, head_dim], many tokens, got {tuple(sample.shape)}")
    if not 0 < bits <= 8:
        raise InvalidInput(f"a value takes more than 0 and at most 8 bits, not {bits}")
    means, bases, tried = [], [], []
    for rows in sample.flatten(2).cpu():
        mean = rows.double().mean(0)
        centred = rows.double() - mean
        _, vectors = torch.linalg.eigh(centred.mT @ centred)
        vectors = vectors.flip(-1).half()
        stride = -(-len(rows) // SAMPLE)
        means.append(mean.float())
        bases.append(vectors)
        tried.append(_errors(centred[::stride].float() @ vectors.float()))
    relative = torch.stack([errors / errors[0].sum().clamp(min=1e-30) for errors, _ in tried])
    counts = _share_out(relative.sum(0), bits)
    used = sum(counts)
    cuts = torch.repeat_interleave(torch.arange(len(WIDTHS)), torch.tensor(counts))
    steps = torch.stack([step[cuts, torch.arange(used)] for _, step in tried])
    return Klt(
        sample.shape[2], counts, torch.stack(means), torch.stack([b[:, :used] for b in bases]).contiguous(), steps
    )


def _errors(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of every component with no bits and with 8, 4 and 2, and the steps that give the latter.

    parts [tokens, components]; returns [4, components] and [3, components].
    """
    spread = parts.square().mean(0).sqrt().clamp(min=1e-12)
    errors, steps = [parts.square().mean(0)], []
    for bits in WIDTHS:
        half = 2 ** (bits - 1)
        candidates = STEPS[:, None] * NORMAL_STEP[bits] * spread
        losses = torch.stack(
            [
                (((parts / step).floor().clamp(-half, half - 1) + 0.5) * step - parts).square().mean(0)
                for step in candidates
            ]
        )
        best = losses.min(0)
        errors.append(best.values)
        steps.append(candidates.gather(0, best.indices[None])[0])
    return torch.stack(errors), torch.stack(steps)


def _share_out(errors: Tensor, bits: float) -> tuple[int, int, int]:
    """How many components get 8, 4 and 2 bits, for the least sum of errors; the strongest get the most.

    errors [4, components] as of `_errors`; no more than `bits` a component on average are given out.
    """
    width = errors.shape[1]
    budget = int(bits * width)
    none, eight, four, two = torch.cat([torch.zeros(4, 1), errors], 1).cumsum(-1).unbind(0)
    n8 = torch.arange(0, min(width, budget // 8) + 1)[:, None]
    n4 = torch.arange(0, width + 1, 2)[None]
    n2 = torch.minimum((budget - 8 * n8 - 4 * n4) // 2, width - n8 - n4) // 4 * 4
    legal = (n2 >= 0) & (n8 + n4 <= width)
    a, b = n8.expand_as(n2), (n8 + n4).clamp(max=width)
    c = (b + n2.clamp(min=0)).clamp(max=width)
    total = eight[a] + four[b] - four[a] + two[c] - two[b] + none[-1] - none[c]
    flat = int(torch.where(legal, total, torch.inf).argmin())
    i, j = divmod(flat, n2.shape[1])
    return int(n8[i, 0]), int(n4[0, j]), int(n2[i, j])
