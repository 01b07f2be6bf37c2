"""Named tensors as bytes, and back: how the state of a walk is saved.

    length   of the header, 8 bytes, little endian
    header   msgpack: name, dtype and shape of each tensor
    tensors  one after the other, in that order

A state is gigabytes: writing it copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import msgpack
import torch
from torch import Tensor

from worldkv.codec.base import from_bytes, to_bytes
from worldkv.errors import InvalidInput
from worldkv.format import Frame

DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8)
}
LENGTH = 8
"""Bytes before the header."""


def pack(tensors: Mapping[str, Tensor]) -> Frame:
    """Their bytes: their own memory where that is the CPU's and contiguous, so that they must not change any more."""
    rows = [[name, str(each.dtype).removeprefix("torch."), list(each.shape)] for name, each in tensors.items()]
    header: bytes = msgpack.packb(rows)
    body = [to_bytes(each.detach().flatten().view(torch.uint8)) for each in tensors.values()]
    return Frame.of(len(header).to_bytes(LENGTH, "little") + header, *body)


def unpack(data: Frame) -> dict[str, Tensor]:
    """Tensors with memory of their own, on the CPU. Raises InvalidInput for bytes that are no tensors."""
    try:
        rows, at = _header(data)
        found: dict[str, Tensor] = {}
        for name, kind, shape in rows:
            dtype, size = DTYPES[kind], prod(shape) * DTYPES[kind].itemsize
            if not isinstance(name, str) or min(shape, default=0) < 0 or at + size > data.nbytes:
                raise ValueError(f"{name!r} of {shape} is no name, or lies beyond their end")
            found[name] = from_bytes(data.slice(at, size), size, "cpu").view(dtype).view(shape)
            at += size
        if at != data.nbytes:
            raise ValueError(f"{data.nbytes - at} bytes are left")
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InvalidInput(f"{data.nbytes} bytes are not named tensors: {str(error)[:200]}") from error
    return found


def _header(data: Frame) -> tuple[Any, int]:
    """What is said of the tensors, and where they begin."""
    length = int.from_bytes(data.slice(0, min(LENGTH, data.nbytes)), "little")
    if LENGTH + length > data.nbytes:
        raise ValueError(f"a header of {length} bytes lies beyond their end")
    return msgpack.unpackb(data.slice(LENGTH, length)), LENGTH + length
