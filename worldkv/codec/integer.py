"""Few-bit integers in groups, plain or after centring and a rotation that spreads outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd, prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import Buffer
from worldkv.codec.base import check_shape, check_values, from_bytes, to_bytes
from worldkv.codec.rounding import round_groups, rounded_size, unround_groups
from worldkv.errors import InvalidInput

MAX_BLOCK = 256
"""Channels that a Hadamard rotation mixes, at most."""


@dataclass(frozen=True)
class Integer:
    """Integers of `bits` bits in groups of neighbouring channels of a token: int8, int4, int3.

    group  values that share a lowest level and a step, 4 bytes: the greatest common divisor of this number, a power
           of two, and a token's channels
    """

    bits: int
    group: int = 64

    @property
    def name(self) -> str:
        return f"int{self.bits}" if self.group == 64 else f"int{self.bits}/{self.group}"

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        check_values(x)
        return to_bytes(round_groups(x.float().reshape(self._cut(x.shape)), self.bits))

    def decode(
        self, data: Buffer, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        items, groups, group = self._cut(shape)
        size = rounded_size(groups, group, self.bits)
        coded = from_bytes(data, items * size, device).view(items, size)
        return restore(unround_groups(coded, groups, group, self.bits), shape, dtype)

    def size(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        items, groups, group = self._cut(shape)
        return items * rounded_size(groups, group, self.bits)

    def _cut(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Items, groups of an item, channels of a group."""
        items, tokens, group, groups = cut(shape, self.group)
        return items, tokens * groups, group


@dataclass(frozen=True)
class Hadamard:
    """Integers of `bits` bits after taking off the chunk's mean and a Hadamard rotation: hadamard4, hadamard3.

    Keys and values lie far from zero and along a few channels. The mean over the item's tokens is written once,
    bfloat16, and taken off (smoothing of keys, SageAttention, arXiv 2410.02367); what is left is rotated
    so that all channels are alike (QuaRot, arXiv 2404.00456), over all heads together and not within each. Then one
    group of up to 256 channels, the largest power of two that divides a token's, needs no finer scales.
    """

    bits: int

    @property
    def name(self) -> str:
        return f"hadamard{self.bits}"

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        check_values(x)
        items, tokens, block, _ = cut(x.shape, MAX_BLOCK)
        if not x.numel():
            return np.empty(0, np.uint8)
        rows = x.float().reshape(items, tokens, -1)
        mean = rows.mean(1, keepdim=True).bfloat16()
        turned = rotate_blocks((rows - mean.float()).view(items, -1, block))
        return to_bytes(torch.cat([mean.flatten(1).view(torch.uint8), round_groups(turned, self.bits)], -1))

    def decode(
        self, data: Buffer, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        items, tokens, block, blocks = cut(shape, MAX_BLOCK)
        coded = from_bytes(data, self.size(shape, dtype), device)
        if not prod(shape):
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        coded = coded.view(items, -1)
        head = 2 * blocks * block
        mean = coded[:, :head].reshape(-1).view(torch.bfloat16).float().view(items, 1, -1)
        turned = unround_groups(coded[:, head:], tokens * blocks, block, self.bits)
        return restore(rotate_blocks(turned).view(items, tokens, -1) + mean, shape, dtype)

    def size(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        items, tokens, block, blocks = cut(shape, MAX_BLOCK)
        head = 2 * blocks * block if tokens else 0
        return items * (head + rounded_size(tokens * blocks, block, self.bits))


def cut(shape: Sequence[int], most: int) -> tuple[int, int, int, int]:
    """Items, tokens of an item, channels of a group and groups of a token.

    A group has as many channels as `most`, a power of two, and a token's channels have for common divisor.
    Raises InvalidInput unless a token's channels are a multiple of 8.
    """
    check_shape(shape)
    tokens, heads, head_dim = shape[-3:]
    group = gcd(heads * head_dim, most)
    if group % 8:
        raise InvalidInput(f"{heads} heads of {head_dim} channels are no multiple of 8, which packing needs")
    return prod(shape[:-3]), tokens, group, heads * head_dim // group


def rotate_blocks(x: Tensor) -> Tensor:
    """The Hadamard rotation of the last dimension, a power of two: its own inverse. Float32, any leading shape."""
    size = x.shape[-1]
    inner = 1 << (size.bit_length() // 2)
    outer = size // inner
    # The rotation of outer * inner channels is one over the outer times one over the inner.
    half = (x.reshape(-1, inner) @ _hadamard(inner, x.device)).view(*x.shape[:-1], outer, inner)
    whole: Tensor = _hadamard(outer, x.device) @ half
    return whole.flatten(-2)


@cache
def _hadamard(size: int, device: torch.device) -> Tensor:
    """The orthonormal Hadamard matrix of Sylvester's construction: [size, size] float32, symmetric."""
    index = torch.arange(size, device=device)
    both = index[:, None] & index
    odd = torch.zeros_like(both)
    for bit in range(size.bit_length()):
        odd ^= both >> bit & 1
    signs: Tensor = 1 - 2 * odd
    return signs / sqrt(size)


def restore(values: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Float32 values as the tensor that is asked for; what rounding carried past float16's range stays within it."""
    if dtype == torch.float16:
        most = torch.finfo(dtype).max
        values = values.clamp(-most, most)
    return values.to(dtype).view(tuple(shape))
