"""Pictures as they travel, and as arrays. JPEG needs Pillow; the other forms need nothing."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import InvalidInput, WorldKVError
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import format_of

Pictures = NDArray[np.uint8] | NDArray[np.float32]
"""[pictures, height, width, 3]: bytes, or floats in 0..1."""


def pictures_of(messages: Iterable[pb.Picture], height: int, width: int) -> Pictures:
    """The pictures of one chunk: floats where they travelled as floats, else bytes; none is [0, height, width, 3].

    Raises InvalidInput for one that is not what it says or not like the others, WorldKVError for JPEG without Pillow.
    """
    decoded = [_decode(each) for each in messages]
    if len({(each.shape, each.dtype) for each in decoded}) > 1:
        raise InvalidInput(f"pictures of a chunk are alike, got {[each.shape for each in decoded]}")
    return np.stack(decoded) if decoded else np.empty((0, height, width, 3), np.uint8)


def picture_messages(pictures: Pictures, jpeg: int | None = None) -> list[pb.Picture]:
    """Messages that carry pictures [pictures, height, width, 3], uint8 or float32 in 0..1.

    jpeg  quality, 1 to 95, at which bytes are coded; None: as they are

    Raises InvalidInput for another array, WorldKVError for JPEG without Pillow.
    """
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype not in (np.uint8, np.float32):
        raise InvalidInput(
            f"pictures are [pictures, height, width, 3] uint8 or float32, got {pictures.shape} {pictures.dtype}"
        )
    if jpeg is not None and (pictures.dtype != np.uint8 or not 1 <= jpeg <= 95):
        raise InvalidInput(f"JPEG takes bytes and a quality from 1 to 95, got {pictures.dtype} and {jpeg}")
    _, height, width, _ = pictures.shape
    if jpeg is not None:
        return [
            pb.Picture(format=pb.PICTURE_FORMAT_JPEG, height=height, width=width, data=_to_jpeg(each, jpeg))
            for each in pictures
        ]
    exact = pictures.dtype == np.float32
    form = pb.PICTURE_FORMAT_RGB32F if exact else pb.PICTURE_FORMAT_RGB8
    rows = pictures.astype("<f4", copy=False) if exact else pictures
    return [pb.Picture(format=form, height=height, width=width, data=each.tobytes()) for each in rows]


def _decode(message: pb.Picture) -> NDArray[Any]:
    form, shape = format_of(message.format), (message.height, message.width, 3)
    picture: NDArray[Any]
    if form == "jpeg":
        picture = _from_jpeg(message.data)
    else:
        kind = np.dtype(np.uint8 if form == "rgb8" else "<f4")
        if len(message.data) != kind.itemsize * message.height * message.width * 3:
            raise InvalidInput(f"a picture {shape} of {kind} has other than {len(message.data)} bytes")
        picture = np.frombuffer(message.data, kind).reshape(shape)
    if picture.shape != shape:
        raise InvalidInput(f"a picture says that it is {shape} and is {picture.shape}")
    return picture


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise WorldKVError("JPEG needs Pillow: install it, or ask for pictures as 'rgb8' or 'rgb32f'") from error
    return Image


def _from_jpeg(data: bytes) -> NDArray[np.uint8]:
    image = _pillow()
    try:
        return np.asarray(image.open(BytesIO(data), formats=("JPEG",)).convert("RGB"))
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise InvalidInput(f"{len(data)} bytes are no JPEG file: {error}") from error


def _to_jpeg(picture: NDArray[Any], quality: int) -> bytes:
    out = BytesIO()
    _pillow().fromarray(picture).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()
