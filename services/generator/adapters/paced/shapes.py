"""What the paced models are shaped like, and where the figures come from.

Chunks come in the size that they are kept in: after pruning to the first frame and a quarter of the others', which a
real model does on its own device, where its keys and values are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldkv.chunk import ModelSpec

PICTURES = 4
"""Pictures of a latent frame (Wan's VAE: stride 4 in time)."""
CLEAN = 0.25
"""Share of a step that its clean pass takes: one of four passes."""


@dataclass(frozen=True)
class Shape:
    """A model to be paced.

    spec          of its chunks as they are kept
    step_seconds  that drawing a chunk takes, clean pass included
    """

    spec: ModelSpec
    step_seconds: float


def _shape(name: str, layers: int, heads: int, frame_tokens: int, latent: tuple[int, int, int], step: float) -> Shape:
    """`frame_tokens` of a frame before pruning: half of a chunk's are left."""
    spec = ModelSpec(
        model=name,
        weights="",
        vae="",
        layers=layers,
        heads=heads,
        head_dim=128,
        dtype="bfloat16",
        frame_tokens=frame_tokens // 2,
        latent=latent,
        frames=3,
        rope=(22, 21, 21),
        theta=10_000.0,
        kv_sets=1,
        view_range=8.0,
        camera_in_keys="none",
    )
    return Shape(spec, step)


SHAPES = {
    # Matrix-Game-2.0: 30 layers of 12 heads, 880 tokens a frame of 352x640; 12 pictures at 25 a second play 0.48 s.
    "paced-mg2": _shape("paced-mg2", 30, 12, 880, (16, 44, 80), 0.48),
    # One of eight ranks of LingBot-World-Fast: all 1,560 tokens a frame of 480x832, 5 of its 40 heads in each of
    # 40 layers (sequence parallelism by heads); eight H100 were measured to take 0.393 s a chunk.
    "paced-lingbot": _shape("paced-lingbot", 40, 5, 1560, (16, 60, 104), 0.393),
}
"""By the name a generator is told."""
