"""What the paper (arXiv 2605.22718) and its project page report of speed and memory, on four H200."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Reported(NamedTuple):
    """Of one model, by mode.

    fps    pictures a second of the last chunk
    psnr   over revisited frames, dB
    chunk  bytes of keys and values that a chunk leaves
    """

    fps: Mapping[str, float]
    psnr: Mapping[str, float]
    chunk: Mapping[str, float]


LINGBOT = Reported(
    fps={"window": 5.05, "full": 2.36, "worldkv": 4.78},
    psnr={"window": 12.184, "full": 15.901, "worldkv": 15.660},
    chunk={"full": 3.4e9, "worldkv": 1.7e9},
)
MATRIX = Reported(
    fps={"window": 18.87, "full": 7.82, "worldkv": 16.25},
    psnr={"window": 11.422, "full": 13.748, "worldkv": 14.101},
    chunk={},
)
CURVE: Mapping[str, Mapping[int, float]] = {
    "full": {1: 8.9, 5: 8.3, 10: 7.7, 20: 6.7, 30: 6.0, 40: 5.4, 50: 4.9, 60: 4.5, 70: 4.2, 80: 3.9, 90: 3.6},
    "worldkv": {1: 8.9, 5: 8.0, 10: 7.7, 20: 7.7, 30: 7.7, 40: 7.7, 50: 7.7, 60: 7.7, 70: 7.7, 80: 7.7, 90: 7.7},
}
"""Pictures a second of LingBot-World-Fast by chunk: the project page's, higher than the paper's for no told reason."""


def reported(model: str) -> tuple[str, Reported] | None:
    """The reported model that a variant is closest to, if any, and its figures."""
    if model.startswith("lingbot-world-fast"):
        return "LingBot-World-Fast", LINGBOT
    return ("Matrix-Game-2.0", MATRIX) if model.startswith("matrix-game-2.0") else None
