"""Pictures that worlds begin from: whatever file somebody gives, as the model sees it, or refused in words."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from worldkv.errors import InvalidInput

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 1 << 24
"""Of a picture as it is given, which is more than most cameras take: a small file may hold far more of them than there
is memory, and no model here sees a fortieth of these."""
GREY = 0.5
"""Behind what is transparent, as after the first picture."""
SKY, GROUND = (0.62, 0.72, 0.84), (0.42, 0.40, 0.36)
"""Colours of the plain that a world begins in where nobody gives a picture."""
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Modes of 16 bits a pixel, as Pillow names them."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by the orientation that its file says."""

_NO_PICTURE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
)
"""What Pillow raises for bytes that are none."""


def opened(data: bytes, height: int, width: int) -> Tensor:
    """The picture of an image file, [3, height, width] float32 in 0..1: its middle, as large as has the right shape.

    Of a film that is the first picture. It is turned as its file says, what is transparent is grey, and all colours
    are brought to red, green and blue. Raises InvalidInput for bytes that are no whole picture, or of too many pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as file:
            if (pixels := file.width * file.height) > MAX_PIXELS:
                raise InvalidInput(
                    f"a picture has at most {MAX_PIXELS} pixels, got {file.width} x {file.height}, which are {pixels}"
                )
            # Nothing else that the file says of itself is read: it need not make sense.
            turn = _TURNS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            picture = _plain(file if turn is None else file.transpose(turn))
    except InvalidInput:
        raise
    except _NO_PICTURE as error:
        raise InvalidInput(f"{len(data)} bytes are no whole {', '.join(FORMATS)} file: {error}") from error
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - scale * width) / 2, (picture.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    small = picture.resize((width, height), Image.Resampling.BICUBIC, box)
    rows = np.asarray(small, np.float32) / np.float32(255)
    return torch.from_numpy(rows).permute(2, 0, 1).contiguous()


def plain(height: int, width: int) -> Tensor:
    """A plain under the sky, [3, height, width] float32 in 0..1: for a world that nobody gave a picture."""
    upper, lower = (torch.tensor(colour)[:, None, None].expand(-1, height, width) for colour in (SKY, GROUND))
    above = torch.arange(height)[:, None] < height / 2
    return torch.where(above, upper, lower)


def _plain(picture: Image.Image) -> Image.Image:
    """The same in eight bits of red, green and blue."""
    if picture.mode in _DEEP:
        deep = np.asarray(picture).astype(np.float32)
        return Image.fromarray((deep.clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (round(255 * GREY),) * 3 + (255,))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")
