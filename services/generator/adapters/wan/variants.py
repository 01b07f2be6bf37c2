"""The models of the family, as numbers.

Architecture, schedules and sizes are those of the published code of each model; what is set here and could not be
compared with published weights is named in `docs/models.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

from services.generator.adapters.wan.config import ActionConfig, CameraConfig, ContextConfig, WanConfig
from services.generator.adapters.wan.moves import Controls, driving, running, walking
from services.generator.adapters.wan.schedule import Level, picked, warped
from worldkv.actions import AXES, Axis
from worldkv.chunk import ModelSpec

GIVEN = 36
"""Channels of a latent cell where a first picture is given: 16 drawn, 4 of mask, 16 of the picture."""
CLIP = ContextConfig("image", width=1280, tokens=257)
"""Hidden state of ViT-H/14 at 224 pixels: 256 patches and a class token."""

LINGBOT_STEP = 0.05 * 4
"""Units a latent frame of LingBot's keyboard controller: 0.05 a picture, four pictures a frame."""
LINGBOT_RANGE = 10 * 16 / 4 * LINGBOT_STEP
"""16 pictures a second."""
MATRIX_STEP = 0.1235 * 4
"""Units a latent frame: 0.1235 a picture, taken from Matrix-Game 3's controller, for version 2 has no poses."""
MATRIX_RANGE = 10 * 25 / 4 * MATRIX_STEP
"""25 pictures a second."""
SHORT, LONG = (1000, 666, 333), (1000, 750, 500, 250)
"""Nominal denoise steps of the models that were distilled to three and to four."""


SMALL = WanConfig(dim=1536, ffn=8960, heads=12, layers=30, frames=3)
"""Wan 2.1 of 1.3 billion parameters."""
LARGE = WanConfig(dim=5120, ffn=13824, heads=40, layers=40, frames=3)
"""Wan 2.2 A14B, one of its two experts."""


@dataclass(frozen=True)
class Variant:
    """A model of the family.

    name        of its `ModelSpec`
    backbone    the transformer
    levels      denoise passes, from pure noise down; the clean pass comes after them
    grid        rows and columns of latent cells that it is used with by default
    view_range  how far a view is taken to reach, world units: what its controller walks in ten seconds
    history     poses before a chunk that what it is told depends on
    step        world units a latent frame that count as full speed
    controls    keyboard and mouse that stand for a motion, where the model is told of these
    axes        of an action, what it can be told
    """

    name: str
    backbone: WanConfig
    levels: tuple[Level, ...]
    grid: tuple[int, int]
    view_range: float
    history: int
    step: float
    controls: Controls | None = None
    axes: tuple[Axis, ...] = AXES

    def spec(self, weights: str, vae: str, grid: tuple[int, int], dtype: str) -> ModelSpec:
        """What makes its keys and values interchangeable.

        weights, vae  digests, hex
        grid          rows and columns of latent cells
        dtype         of keys and values
        """
        c = self.backbone
        return ModelSpec(
            model=self.name,
            weights=weights,
            vae=vae,
            layers=c.layers,
            heads=c.heads,
            head_dim=c.head_dim,
            dtype=cast(Literal["float32", "float16", "bfloat16"], dtype),  # checked by ModelSpec
            frame_tokens=(grid[0] // c.patch) * (grid[1] // c.patch),
            latent=(c.out_channels, *grid),
            frames=c.frames,
            rope=(c.rope.time, c.rope.height, c.rope.width),
            theta=c.rope.theta,
            kv_sets=1,  # all of them are distilled: no guidance
            view_range=self.view_range,
            camera_in_keys="none",  # motion since the frame before is all that they are told
        )


def lingbot_world_fast(act: bool = False, shift: float = 10.0) -> Variant:
    """LingBot-World-Fast, told of the camera by rays (cam), or by directions and held keys (act).

    shift  of the denoise schedule: 10 is what the official command line passes and what a port found exact; 5 is the
           default of the official function and used by others. Which one the weights were made for is not published
    """
    camera = CameraConfig(origin=False, keys=4) if act else CameraConfig()
    backbone = replace(LARGE, in_channels=GIVEN, stream="float32", camera=camera)
    name = f"lingbot-world-fast-{'act' if act else 'cam'}"
    return Variant(name, backbone, picked((0, 179, 358, 679), shift), (58, 104), LINGBOT_RANGE, 1, LINGBOT_STEP)


def lingbot_world_v2(shift: float = 10.0, small: bool = False) -> Variant:
    """LingBot-World v2 causal-fast, or its small sibling of 1.3 billion; shift as in `lingbot_world_fast`.

    The large one has the weights' names and shapes of `lingbot_world_fast`: only its name tells them apart.
    """
    backbone = replace(SMALL if small else LARGE, frames=4, in_channels=GIVEN, stream="float32", camera=CameraConfig())
    name, grid = ("lingbot-world-v2-1.3b", (60, 104)) if small else ("lingbot-world-v2-14b", (58, 104))
    return Variant(name, backbone, picked((0, 250, 500, 750), shift), grid, LINGBOT_RANGE, 1, LINGBOT_STEP)


def _matrix_game(
    name: str, controls: Controls, keyboard: int, mouse: int, window: int, steps: tuple[int, ...]
) -> Variant:
    actions = ActionConfig(keyboard, mouse, window)
    backbone = replace(SMALL, in_channels=GIVEN, context=CLIP, actions=actions)
    history = actions.frames + 1  # motion is a difference of poses
    return Variant(
        f"matrix-game-2.0-{name}", backbone, warped(steps), (44, 80), MATRIX_RANGE, history, MATRIX_STEP, controls
    )


LINGBOT_CAM, LINGBOT_ACT = lingbot_world_fast(), lingbot_world_fast(act=True)
LINGBOT_V2, LINGBOT_V2_SMALL = lingbot_world_v2(), lingbot_world_v2(small=True)
MATRIX_UNIVERSAL = _matrix_game("universal", walking, keyboard=4, mouse=2, window=6, steps=SHORT)
MATRIX_GTA = replace(_matrix_game("gta", driving, keyboard=2, mouse=2, window=4, steps=SHORT), axes=("forward", "turn"))
MATRIX_TEMPLERUN = replace(
    _matrix_game("templerun", running, keyboard=7, mouse=0, window=6, steps=LONG), axes=("strafe", "turn")
)
SELF_FORCING = Variant("self-forcing", SMALL, warped(LONG), (60, 104), LINGBOT_RANGE, 0, LINGBOT_STEP)

VARIANTS = {
    each.name: each
    for each in (
        LINGBOT_CAM,
        LINGBOT_ACT,
        LINGBOT_V2,
        LINGBOT_V2_SMALL,
        MATRIX_UNIVERSAL,
        MATRIX_GTA,
        MATRIX_TEMPLERUN,
        SELF_FORCING,
    )
}


SHIFTED: dict[str, Callable[[float], Variant]] = {
    LINGBOT_CAM.name: lambda shift: lingbot_world_fast(shift=shift),
    LINGBOT_ACT.name: lambda shift: lingbot_world_fast(act=True, shift=shift),
    LINGBOT_V2.name: lambda shift: lingbot_world_v2(shift),
    LINGBOT_V2_SMALL.name: lambda shift: lingbot_world_v2(shift, small=True),
}
"""Models whose schedule has a shift that is a setting, by name, for another shift."""
