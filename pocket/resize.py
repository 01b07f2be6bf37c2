"""The same model for pictures of another size: patches grow with the picture, tokens stay.

A wider run can so begin from weights of a smaller one: what the blocks learned does not depend on how
many pixels a patch has (the idea of resized patch embeddings in FlexiViT, arXiv 2212.08013).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from pocket.model import PocketModel
from worldkv.errors import InvalidInput


def resized(model: PocketModel, scale: float) -> PocketModel:
    """A model for pictures and patches `scale` times as large that at first draws what `model` draws, enlarged.

    Raises InvalidInput where `scale` does not make whole pixels of a patch.
    """
    old = model.config
    patch = old.patch * scale
    if patch < 1 or patch != round(patch):
        raise InvalidInput(f"scale {scale} makes patches of {patch:g} pixels; expected a whole number of at least 1")
    size = round(patch)
    larger = PocketModel(replace(old, height=old.rows * size, width=old.columns * size, patch=size))
    state = dict(model.state_dict())
    shrink = _linear(size, old.patch)
    state["patch_embedding.weight"] = state["patch_embedding.weight"] @ shrink
    enlarge = _linear(old.patch, size)
    state["head.weight"] = enlarge @ state["head.weight"]
    state["head.bias"] = enlarge @ state["head.bias"]
    larger.load_state_dict(state)
    return larger


def _linear(begin: int, end: int) -> Tensor:
    """The matrix [3 end², 3 begin²] that resamples a flat RGB patch from `begin` to `end` pixels a side."""
    units = torch.eye(3 * begin**2).view(-1, 3, begin, begin)
    out = functional.interpolate(units, size=(end, end), mode="bilinear", antialias=True, align_corners=False)
    return out.flatten(1).T
