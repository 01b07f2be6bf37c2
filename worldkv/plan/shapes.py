"""The models as numbers, for sums that need no model. A test holds them equal to the adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

from worldkv.errors import NotFound

DECODER_CELL_BYTES = 303_000
"""Of a streaming Wan decoder's features, half precision, for each latent cell of the picture: 1.76 GiB at 480x832."""


@dataclass(frozen=True)
class Shape:
    """A model, as far as memory and traffic go.

    name         to be found by
    variant      the adapter's name for it
    layers, heads, head_dim, value_bytes   of keys and values
    frame_tokens, frames   tokens of a latent frame, latent frames of a chunk
    latent       shape of a latent frame: channels, rows, columns
    cell         pixels of a side of a latent cell
    pictures     to a latent frame
    rate         pictures a second at which it is played
    parameters, weight_bytes   of the transformer, and bytes of each
    window       latent frames of sink, recalled and recent
    codec        that it is stored with unless another is asked for
    actions_bytes  of a session's action caches
    decoder_bytes  of a session's picture decoder
    """

    name: str
    variant: str
    layers: int
    heads: int
    head_dim: int
    value_bytes: int
    frame_tokens: int
    frames: int
    latent: tuple[int, int, int]
    cell: int
    pictures: int
    rate: float
    parameters: int
    weight_bytes: int
    window: tuple[int, int, int]
    codec: str
    actions_bytes: int = 0
    decoder_bytes: int = 0

    @property
    def width(self) -> int:
        """Channels of a token's keys, and of its values."""
        return self.heads * self.head_dim

    @property
    def chunk_seconds(self) -> float:
        """Playing time of a chunk."""
        return self.frames * self.pictures / self.rate

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return self.latent[1] * self.latent[2] * self.cell**2


def _wan(name: str, variant: str, large: bool, parameters: int, rate: float, grid: tuple[int, int]) -> Shape:
    rows, columns = grid
    return Shape(
        name=name,
        variant=variant,
        layers=40 if large else 30,
        heads=40 if large else 12,
        head_dim=128,
        value_bytes=2,
        frame_tokens=(rows // 2) * (columns // 2),
        frames=3,
        latent=(16, rows, columns),
        cell=8,
        pictures=4,
        rate=rate,
        parameters=parameters,
        weight_bytes=2,
        window=(3, 9, 3),
        codec="int4",
        decoder_bytes=DECODER_CELL_BYTES * rows * columns,
    )


_POCKET = Shape(
    name="pocket",
    variant="pocket",
    layers=5,
    heads=4,
    head_dim=64,
    value_bytes=4,
    frame_tokens=48,
    frames=3,
    latent=(3, 72, 96),
    cell=1,
    pictures=1,
    rate=10.0,
    parameters=5_073_200,
    weight_bytes=4,
    window=(3, 6, 3),
    codec="klt2",
)
_CAM = _wan("lingbot-14b", "lingbot-world-fast-cam", True, 18_544_332_864, 16.0, (60, 104))
_ACT = replace(_CAM, name="lingbot-14b-act", variant="lingbot-world-fast-act", parameters=18_545_643_584)
_V2 = replace(
    _wan("lingbot-v2-1.3b", "lingbot-world-v2-1.3b", False, 1_709_502_016, 16.0, (60, 104)),
    frames=4,
    window=(4, 12, 4),
)
_V2_LARGE = replace(_CAM, name="lingbot-v2-14b", variant="lingbot-world-v2-14b", frames=4, window=(4, 12, 4))
_MATRIX = replace(
    _wan("matrix-game-2.0", "matrix-game-2.0-universal", False, 1_619_242_304, 25.0, (44, 80)),
    actions_bytes=162_385_920,
)
_GTA = replace(
    _MATRIX,
    name="matrix-game-2.0-gta",
    variant="matrix-game-2.0-gta",
    parameters=1_619_238_464,
    actions_bytes=54_128_640,
)
_TEMPLERUN = replace(
    _MATRIX,
    name="matrix-game-2.0-templerun",
    variant="matrix-game-2.0-templerun",
    parameters=1_508_715_584,
    actions_bytes=184_320,
)
_SELF_FORCING = _wan("self-forcing", "self-forcing", False, 1_418_996_800, 16.0, (60, 104))

SHAPES = {each.name: each for each in (_POCKET, _CAM, _ACT, _V2, _V2_LARGE, _MATRIX, _GTA, _TEMPLERUN, _SELF_FORCING)}
"""By name. LingBot's are at 480x832, Matrix-Game's at 352x640."""


def shape(name: str) -> Shape:
    """The model of a name, or of its adapter's name. Raises NotFound, with the names there are."""
    found = SHAPES.get(name) or next((each for each in SHAPES.values() if each.variant == name), None)
    if found is None:
        like = get_close_matches(name, SHAPES, 1)
        meant = f"; did you mean {like[0]}?" if like else ""
        raise NotFound(f"no model {name!r}; there are {', '.join(SHAPES)}{meant}")
    return found
