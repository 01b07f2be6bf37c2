"""The trivial codec: the values as they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import Buffer
from worldkv.codec.base import check_shape, check_values, from_bytes


class Raw:
    """Bit for bit: little-endian, in C order."""

    name = "raw"

    def encode(self, x: Tensor) -> NDArray[np.uint8]:
        check_values(x)
        coded = torch.empty(self.size(x.shape, x.dtype), dtype=torch.uint8)
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
