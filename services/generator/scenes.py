"""What a world is before anybody remembers it: where it begins, what is solid, and what it truly looks like.

A scene is told in the model's own words. Only the pocket model's has walls and true pictures; what other models make of
words they find out when they hear them (`WorldModel.start`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, hypot

import numpy as np
import torch
from torch import Tensor

from services.generator.adapters.wan.variants import VARIANTS
from worldkv.actions import Slide, Walker, unhindered
from worldkv.chunk import ModelSpec
from worldkv.errors import InvalidInput

MAX_SCENE = 4096
"""Characters of a scene's words."""
MAX_SEED = 1 << 32
DEFAULT_ROOMS = "rooms:0"


@dataclass(frozen=True)
class Scene:
    """A world as it is entered.

    start     where one stands at first
    slide     what stops a walker
    pictures  true views [pictures, 3, height, width] float32 in 0..1 of walkers, one each; None: nobody knows any
    """

    start: Walker
    slide: Slide = unhindered
    pictures: Callable[[Sequence[Walker]], Tensor] | None = None


def scene(spec: ModelSpec, words: str) -> Scene:
    """The scene of these words in a model's worlds; InvalidInput for words that mean nothing to it."""
    if len(words) > MAX_SCENE:
        raise InvalidInput(f"a scene has at most {MAX_SCENE} characters, got {len(words)}")
    return SCENES.get(spec.model, _plain)(spec, words)


def _plain(spec: ModelSpec, words: str) -> Scene:
    """Entered anywhere: there is nothing before it is drawn."""
    return Scene(Walker(0.0, 0.0))


def _rooms(spec: ModelSpec, words: str) -> Scene:
    """`rooms:SEED`: the rooms of a seed, entered somewhere with room around."""
    from pocket import rooms

    built = rooms.build(rooms_seed(words))
    rng = np.random.default_rng((built.seed, 1))
    x, z = rooms.free_place(built, rng, 1.0)
    start = Walker(x, z, float(rng.uniform(0, 360)))
    _, height, width = spec.latent

    def pictures(walkers: Sequence[Walker]) -> Tensor:
        render = rooms.Renderer([built], height, width)
        poses = torch.from_numpy(np.stack([walker.pose for walker in walkers]))
        views, _ = render(torch.zeros(len(walkers), dtype=torch.int64), poses)
        return views

    return Scene(start, _in_short_steps(partial(rooms.slide, built), 0.99 * rooms.RADIUS), pictures)


def rooms_seed(words: str) -> int:
    """The seed of a pocket world's rooms, from the words of its scene. Raises InvalidInput for other words."""
    kind, _, number = (words or DEFAULT_ROOMS).partition(":")
    if kind != "rooms" or not (number.isascii() and number.isdecimal()) or int(number) >= MAX_SEED:
        raise InvalidInput(f"a scene of pocket is rooms:SEED with a seed below {MAX_SEED}, got {words[:80]!r}")
    return int(number)


SCENES: dict[str, Callable[[ModelSpec, str], Scene]] = {"pocket": _rooms}
"""What makes a scene of words, by model; in the worlds of others nothing is known before it is drawn."""
PROMPTS = (
    "A harbour town at dawn: narrow streets of wet cobblestones between old stone houses, boats at a quay, light fog.",
    "A path through a beech forest in autumn, low sun between the trunks, moss on the rocks, a brook beside the path.",
    "A wide desert under a clear sky, a caravan road between red sandstone cliffs, an oasis with palms far away.",
)
EXAMPLES: dict[str, tuple[str, ...]] = {
    "pocket": tuple(f"rooms:{seed}" for seed in range(8)),
    **{name: PROMPTS for name, each in VARIANTS.items() if each.backbone.context.kind == "text"},
}
"""Some scenes, by model, for whoever knows none; models that are not named here are not told in words."""
PICTURED = frozenset(name for name, each in VARIANTS.items() if each.backbone.given_channels)
"""Models whose worlds can begin from a picture."""


def _in_short_steps(slide: Slide, longest: float) -> Slide:
    """The rule for moves of any length: applied to pieces of at most `longest` units, so that no wall is jumped."""

    def walk(x: float, z: float, dx: float, dz: float) -> tuple[float, float]:
        pieces = max(1, ceil(hypot(dx, dz) / longest))
        for _ in range(pieces):
            x, z = slide(x, z, dx / pieces, dz / pieces)
        return x, z

    return walk
