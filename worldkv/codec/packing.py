"""Codes of 8, 4, 3 or 2 bits in bytes.

The codes of an item are cut into equal runs, and the i-th code of every run shares bytes with the others' i-th,
so that packing is a few operations on long runs. 4 bits: two runs, the first in the low half of each byte.
2 bits: four runs, from the low bits up. 3 bits: eight runs in three runs of bytes, again from the low bits up.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUNS = {8: 1, 4: 2, 3: 8, 2: 4}
"""Runs that the codes are cut into, by bits: what their number must be a multiple of."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Bytes [items, n * bits / 8] of codes [items, n], both uint8; codes are below 2 ** bits."""
    if bits == 8:
        return codes
    c = codes.unflatten(-1, (RUNS[bits], -1)).unbind(-2)
    if bits == 4:
        parts = [c[0] | c[1] << 4]
    elif bits == 2:
        parts = [c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6]
    else:
        low = c[0] | c[1] << 3 | c[2] << 6
        middle = c[2] >> 2 | c[3] << 1 | c[4] << 4 | c[5] << 7
        high = c[5] >> 1 | c[6] << 2 | c[7] << 5
        parts = [low, middle, high]
    return torch.cat(parts, -1)


def unpack(data: Tensor, bits: int) -> Tensor:
    """Codes [items, n] float32 of bytes [items, n * bits / 8] uint8."""
    if bits == 8:
        return data.float()
    if bits == 3:
        a, b, c = data.unflatten(-1, (3, -1)).unbind(-2)
        mixed = (a, a >> 3, a >> 6 | b << 2, b >> 1, b >> 4, b >> 7 | c << 1, c >> 2, c >> 5)
        runs = [each & 7 for each in mixed]
    else:
        runs = [data >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.stack(runs, -2).flatten(-2).float()
