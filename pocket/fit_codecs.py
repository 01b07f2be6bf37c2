"""Codecs fitted to the pocket model's keys and values: `python -m pocket.fit_codecs` fits them again.

They depend on the weights, so they are fitted after training, on walks through training worlds, and shipped beside
the weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocket.clips import clips
from pocket.model import PocketModel
from pocket.weights_file import CODECS, SHIPPED, load, save_codecs
from worldkv.codec import Klt, fit
from worldkv.rope import place

BITS = (3.0, 2.0, 1.5, 1.0)
"""Bits a value that codecs are fitted for."""
RECENT = 4
"""Chunks that stand in the window when a sample is taken."""


@torch.inference_mode()
def sample(model: PocketModel, walks: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys (chunk-local time) and values of clean passes over shown walks: each [layers, tokens, heads, head_dim]."""
    c = model.config
    rng = np.random.default_rng(seed)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for _ in range(walks):
        pictures, poses = clips(rng, 4, 8 * c.frames, c)
        window: list[tuple[Tensor, Tensor]] = []
        for begin in range(0, pictures.shape[1], c.frames):
            now = slice(begin, begin + c.frames)
            at = torch.full((len(pictures),), len(window) * c.frames)
            frames = pictures[:, now]
            _, kv = model.chunk(
                frames,
                frames.new_zeros(frames.shape[:2]),
                model.embed_rays(poses[:, now]),
                at,
                _placed(window, model, len(pictures)),
                None,
            )
            window = [*window, kv][-RECENT:]
            keys.append(kv[0].flatten(1, 2))
            values.append(kv[1].flatten(1, 2))
    return torch.cat(keys, 1), torch.cat(values, 1)


def _placed(window: list[tuple[Tensor, Tensor]], model: PocketModel, batch: int) -> tuple[Tensor, Tensor]:
    c = model.config
    if not window:
        none = torch.empty(c.layers, batch, 0, c.heads, c.head_dim)
        return none, none
    keys = [place(k, c.rope, torch.full((c.layers,), i * c.frames)) for i, (k, _) in enumerate(window)]
    return torch.cat(keys, 2), torch.cat([v for _, v in window], 2)


def main() -> None:
    """Fit and write; says the error that each codec leaves on walks it was not fitted to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--out", type=Path, default=CODECS)
    parser.add_argument("--walks", type=int, default=12, help="batches of 4 walks of 8 chunks to fit to")
    args = parser.parse_args()
    model = load(args.weights)[0].eval()
    given, fresh = sample(model, args.walks, seed=11), sample(model, 2, seed=12)
    pairs: dict[str, tuple[Klt, Klt]] = {}
    for bits in BITS:
        fitted = []
        for kind, x, other in zip(("keys", "values"), given, fresh, strict=True):
            codec = fit(x, bits)
            back = codec.decode(codec.encode(other), other.shape, other.dtype)
            error = float((back - other).norm() / other.norm())
            print(f"{codec.name} of {kind}: relative error {error:.3f}", file=sys.stderr)
            fitted.append(codec)
        pairs[f"klt{bits:g}"] = (fitted[0], fitted[1])
    save_codecs(args.out, pairs)


if __name__ == "__main__":
    main()
