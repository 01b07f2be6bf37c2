"""What LingBot sees of the camera: a ray through every pixel, folded into the tokens of the latent grid."""

from __future__ import annotations

from math import pi, tan

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.adapters.wan.config import CameraConfig


def rays(config: CameraConfig, motion: Tensor, keys: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Folded rays [B, F, S, channels * patch^2] float32.

    motion [B, F, 4, 4] float32: each frame's pose as seen from the one before it, moves in shares of full speed
    keys   [B, F, config.keys]: held keys
    grid   rows and columns of latent cells

    A ray is its origin, where the variant has it, and its unit direction, through the centre of a pixel; then come the
    held keys, the same at every pixel. The order of a token's channels: quantity, row and column of the pixel in its
    cell, row and column of the cell in its patch.
    """
    c, (rows, columns) = config, grid
    height, width = rows * c.cell, columns * c.cell
    focal = width / 2 / tan(c.fov * pi / 360)
    u = (torch.arange(width, device=motion.device) + 0.5 - width / 2) / focal
    v = (torch.arange(height, device=motion.device) + 0.5 - height / 2) / focal
    ahead = torch.stack([*torch.meshgrid(u, v, indexing="xy"), u.new_ones(height, width)], -1)
    direction = functional.normalize(ahead, dim=-1) @ motion[:, :, None, :3, :3].transpose(-1, -2)
    constant = [motion[..., :3, 3]] * c.origin, [keys] * bool(c.keys)
    before, after = ([x[:, :, None, None].expand(*direction.shape[:4], -1) for x in part] for part in constant)
    pixels = torch.cat([*before, direction, *after], -1)
    token = (rows // patch, patch, c.cell, columns // patch, patch, c.cell)
    folded = pixels.view(*pixels.shape[:2], *token, -1).permute(0, 1, 2, 5, 8, 4, 7, 3, 6)
    return folded.flatten(4).flatten(2, 3)
