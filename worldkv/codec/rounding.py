"""Rounding to evenly spaced levels between the least and the greatest value of a group.

Of a group are written its lowest level and the step between levels, both bfloat16, which has the range of float32:
the first is rounded down and the second up, so that the levels always span the group and nothing is clipped.
(Clipping outliers lowers the mean error of keys and values and raises that of what attention makes of them.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldkv.codec.packing import pack, unpack

GROUP_BYTES = 4
TINY = 1e-37
"""Smallest step, so that its inverse stays finite."""
SLACK = 2.0**-8
"""More than rounding to bfloat16 moves a number, relative to it."""


def largest_error(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Bound on the error of each value of a group of values between low and high, both float32."""
    reach = (high - low) + 2 * SLACK * low.abs()
    step: Tensor = (1 + 2 * SLACK) * reach / (2**bits - 1)
    return step / 2 + 2.0**-20 * torch.maximum(low.abs(), high.abs()) + TINY


def rounded_size(groups: int, group: int, bits: int) -> int:
    """Bytes of so many groups of so many values."""
    return groups * (GROUP_BYTES + group * bits // 8)


def round_groups(x: Tensor, bits: int) -> Tensor:
    """Code x, [items, groups, group] float32 and finite: uint8 [items, bytes]."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    low = (low - SLACK * low.abs()).bfloat16()
    most = 2**bits - 1
    step = ((high / most - low.float() / most) * (1 + SLACK)).clamp(min=TINY).bfloat16()
    # Half a step more, for the conversion to integers cuts off.
    inverse = 1 / step.float()
    codes = torch.addcmul(0.5 - low.float() * inverse, x, inverse).to(torch.uint8)
    ends = [each.flatten(1).view(torch.uint8) for each in (low, step)]
    return torch.cat([*ends, pack(codes.flatten(1), bits)], -1)


def unround_groups(data: Tensor, groups: int, group: int, bits: int) -> Tensor:
    """The values of what `round_groups` coded: [items, groups, group] float32."""
    ends = data[:, : GROUP_BYTES * groups].reshape(-1).view(torch.bfloat16).float()
    low, step = ends.view(len(data), 2, groups, 1).unbind(1)
    codes = unpack(data[:, GROUP_BYTES * groups :], bits)
    return torch.addcmul(low, codes.view(len(data), groups, group), step)
