"""Pictures as they travel. Coding them takes a while: do it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from worldkv.errors import InvalidInput, NonFinite
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import FORMATS, Format, format_of

BYTES: dict[Format, int] = {"rgb8": 3, "rgb32f": 12}
"""Bytes of a pixel in the formats that have no coding."""


def encoded(pictures: Tensor, form: Format, quality: int) -> list[pb.Picture]:
    """Messages of pictures [pictures, 3, height, width] float32 in 0..1; `quality` of JPEG, 1 to 95."""
    rows = pictures.permute(0, 2, 3, 1).contiguous().cpu()
    if form == "rgb32f":
        floats = rows.numpy().astype("<f4", copy=False)
        return [_message(form, each.shape, each.tobytes()) for each in floats]
    bytes_of = (rows.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if form == "rgb8":
        return [_message(form, each.shape, each.tobytes()) for each in bytes_of]
    return [_message(form, each.shape, _jpeg(each, quality)) for each in bytes_of]


def decoded(messages: Sequence[pb.Picture], height: int, width: int) -> Tensor:
    """Pictures [pictures, 3, height, width] float32 in 0..1.

    Raises InvalidInput for another size, NonFinite for numbers that are not finite.
    """
    pictures = [_picture(message, height, width) for message in messages]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _message(form: Format, shape: tuple[int, ...], data: bytes) -> pb.Picture:
    return pb.Picture(format=FORMATS[form], width=shape[1], height=shape[0], data=data)


def _jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _picture(message: pb.Picture, height: int, width: int) -> NDArray[np.float32]:
    """One picture [height, width, 3] float32 in 0..1."""
    form, size = format_of(message.format), (message.width, message.height)
    if size != (width, height):
        raise InvalidInput(f"pictures of this model are {width} x {height} pixels, got {size[0]} x {size[1]}")
    if form == "jpeg":
        return np.asarray(_opened(message.data, size), np.float32) / np.float32(255)
    wanted = width * height * BYTES[form]
    if len(message.data) != wanted:
        raise InvalidInput(f"a picture of {width} x {height} as {form} has {wanted} bytes, got {len(message.data)}")
    if form == "rgb8":
        return np.frombuffer(message.data, np.uint8).reshape(height, width, 3).astype(np.float32) / np.float32(255)
    floats = np.frombuffer(message.data, "<f4").reshape(height, width, 3)
    if not np.isfinite(floats).all():
        raise NonFinite("a picture holds numbers that are not finite")
    if floats.min() < 0 or floats.max() > 1:
        raise InvalidInput(f"pictures lie between 0 and 1, got {floats.min()} to {floats.max()}")
    return floats.astype(np.float32)


def _opened(data: bytes, size: tuple[int, int]) -> Image.Image:
    """A JPEG file as pixels; its size is looked at before anything is unpacked."""
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as file:
            found = file.size
            picture = file.convert("RGB") if found == size else None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{len(data)} bytes are no JPEG file: {error}") from error
    if picture is None:
        raise InvalidInput(f"a picture is said to be {size[0]} x {size[1]} pixels, and is {found[0]} x {found[1]}")
    return picture
