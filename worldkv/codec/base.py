"""The seam of codecs, and what all of them check."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import Buffer
from worldkv.errors import InvalidInput, NonFinite, Oversized, Truncated

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What keys and values may be made of."""


class Codec(Protocol):
    """Turns keys or values into bytes and back.

    A tensor is [..., tokens, heads, head_dim]; coding it is coding each [tokens, heads, head_dim] and joining the
    bytes, so that a stack of layers is coded at once and cut afterwards. The same values give the same bytes,
    and all that a codec writes is little-endian. Magnitudes up to 1e37 are taken.

    name  stands beside the bytes and finds the codec again
    """

    @property
    def name(self) -> str: ...

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        """The bytes of x, [size] and contiguous, memory of their own; x lies on any device.

        Raises NonFinite for NaN or infinity, InvalidInput for a dtype or shape the codec does not take.
        """
        ...

    def decode(self, data: Buffer, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The tensor of these bytes, in memory of its own.

        Raises Truncated or Oversized if the bytes are not as many as `size` says.
        """
        ...

    def size(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Exactly how many bytes a tensor of this shape and dtype takes, whatever its values."""
        ...


def bits_per_value(codec: Codec, shape: Sequence[int], dtype: torch.dtype) -> float:
    """Bits that a value takes, scales and all else included; the shape is not empty."""
    return 8 * codec.size(shape, dtype) / prod(shape)


def check_shape(shape: Sequence[int]) -> None:
    """Raise InvalidInput unless this is [..., tokens, heads, head_dim]."""
    if len(shape) < 3 or min(shape) < 0:
        raise InvalidInput(f"keys or values are [..., tokens, heads, head_dim], got {tuple(shape)}")


def check_values(x: Tensor) -> None:
    """Raise InvalidInput for a dtype or shape no codec takes, NonFinite for NaN or infinity."""
    check_shape(x.shape)
    if x.dtype not in DTYPES:
        raise InvalidInput(f"keys and values are float32, float16 or bfloat16, not {x.dtype}")
    # A sum is finite if all its terms are, but for an overflow; it costs a tenth of looking at each value. Bfloat16 is
    # summed in float32 anyway, many times faster if that is not asked for; float16 would overflow often.
    if not x.sum(dtype=torch.float32 if x.dtype is torch.float16 else None).isfinite():
        bad = int((~x.isfinite()).sum())
        if bad:
            raise NonFinite(f"{bad} of {x.numel()} values are not finite")


def to_bytes(coded: Tensor) -> NDArray[np.uint8]:
    """A coded uint8 tensor on any device as [size] in host memory."""
    flat = coded.detach().reshape(-1)
    if flat.is_cuda:
        flat = host(flat.numel(), flat.device).copy_(flat)
    array: NDArray[np.uint8] = flat.numpy()
    return array


def from_bytes(data: Buffer, size: int, device: torch.device | str) -> Tensor:
    """A copy of the bytes on the device, uint8 [size]; raises Truncated or Oversized unless they are `size` many."""
    view = np.frombuffer(data, np.uint8)
    check_size(view, size)
    copy = host(size, torch.device(device))
    copy.numpy()[:] = view
    return copy.to(device, non_blocking=True)


def host(size: int, device: torch.device) -> Tensor:
    """Memory of this host that bytes come from, or go to, a device by: uint8 [size].

    Beside a GPU it is pinned, and used again: from other memory a GPU is reached at a seventh of the speed, and fresh
    pages take several times as long as the copy (H100: 54 GB/s, 8 GB/s from memory that is not pinned, 1.6 GB/s into
    fresh memory).
    """
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def check_size(data: NDArray[np.uint8], size: int) -> None:
    """Raise Truncated or Oversized unless there are `size` bytes."""
    if len(data) < size:
        raise Truncated(f"coded tensor ends after {len(data)} of {size} bytes")
    if len(data) > size:
        raise Oversized(f"coded tensor has {len(data)} bytes and should have {size}")
