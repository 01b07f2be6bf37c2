"""The trivial codec: the values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import Buffer
from worldkv.codec.base import check_shape, check_size, check_values, from_bytes, host


class Raw:
    """Bit for bit: little-endian, in C order."""

    name = "raw"

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        check_values(x)
        coded = host(self.size(x.shape, x.dtype), x.device)
        coded.view(x.dtype).view(x.shape).copy_(x.detach())
        array: NDArray[np.uint8] = coded.numpy()
        return array

    def decode(
        self, data: Buffer, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Tensor:
        coded = from_bytes(data, self.size(shape, dtype), device)
        return coded.view(dtype).view(tuple(shape))

    def size(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        check_shape(shape)
        return prod(shape) * dtype.itemsize


def bytes_of(x: Tensor) -> NDArray[np.uint8] | None:
    """What `Raw` encodes x to, in x's own memory; None where it does not lie so. Errors as for `encode`."""
    if x.device.type != "cpu" or not x.is_contiguous():
        return None
    check_values(x)
    array: NDArray[np.uint8] = x.detach().reshape(-1).view(torch.uint8).numpy()
    return array


def tensor_of(data: NDArray[np.uint8], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What `Raw` decodes from data, in the memory of data, which nobody may write to, whatever torch lets one do.

    Raises Truncated or Oversized if the bytes are not as many as they should be.
    """
    check_size(data, prod(shape) * dtype.itemsize)
    return torch.from_numpy(np.asarray(_Lent(data))).view(dtype).view(tuple(shape))


class _Lent:
    """Bytes as torch takes them without a word: as if they could be written to. Keeps them alive."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.__array_interface__ = {**data.__array_interface__, "data": (data.ctypes.data, False)}
