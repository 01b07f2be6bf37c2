"""Pictures that worlds begin from: whatever file is given is a picture of the model's size, or refused in words."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from services.generator.adapters.wan.encoders.pictures import GREY, MAX_PIXELS, opened, plain
from worldkv.errors import InvalidInput

HEIGHT, WIDTH = 16, 24


def colours(width: int = 48, height: int = 32) -> Image.Image:
    """Red grows to the right, green downwards, blue stays."""
    red, green = np.linspace(0, 255, width), np.linspace(0, 255, height)
    rows = np.stack([*np.meshgrid(red, green), np.full((height, width), 100.0)], -1)
    return Image.fromarray(rows.round().astype(np.uint8))


def file(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    data = BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def transparent() -> Image.Image:
    """Its right half is not there."""
    picture = colours().convert("RGBA")
    picture.paste((9, 9, 9, 0), (24, 0, 48, 32))
    return picture


def film() -> bytes:
    black = Image.new("RGB", (48, 32))
    return file(colours(), "GIF", save_all=True, append_images=[black, black])


def said(orientation: int) -> bytes:
    """What a file says of how its picture is to be turned, beside how wide it is."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = orientation, 20
    return exif.tobytes()


def lying(says: bytes = said(6)) -> bytes:
    """Turned by what its file says: to the right by a quarter."""
    return file(colours().transpose(Image.Transpose.ROTATE_90), exif=says)


def deep() -> Image.Image:
    """Grey, sixteen bits."""
    return Image.fromarray(np.asarray(colours().convert("L")).astype(np.uint16) * 257)


TRUE = opened(file(colours()), HEIGHT, WIDTH)
GREYS = torch.from_numpy(np.array(colours().convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))) / 255


def test_a_picture_of_the_right_shape_is_only_made_smaller():
    assert TRUE.shape == (3, HEIGHT, WIDTH)
    assert TRUE.dtype == torch.float32
    assert torch.allclose(TRUE[0], torch.linspace(0, 1, WIDTH).expand(HEIGHT, -1), atol=0.03)
    assert torch.allclose(TRUE[1], torch.linspace(0, 1, HEIGHT)[:, None].expand(-1, WIDTH), atol=0.03)
    assert torch.allclose(TRUE[2], torch.tensor(100 / 255), atol=0.003)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (file(colours(), "JPEG", quality=95), 0.05),
        (file(colours().convert("CMYK"), "JPEG", quality=95), 0.05),
        (file(colours(), "WEBP", lossless=True), 1e-6),
        (film(), 0.1),
        (file(colours().convert("P"), "PNG"), 0.1),
        (file(colours().convert("RGBA")), 1e-6),
        (lying(), 1e-6),
    ],
    ids=["jpeg", "cmyk", "webp", "film", "palette", "opaque", "turned"],
)
def test_the_same_picture_in_other_forms_is_the_same(data, error):
    assert (opened(data, HEIGHT, WIDTH) - TRUE).abs().max() <= error


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_in_each_of_the_ways_that_there_are(orientation):
    data = file(colours(), exif=said(orientation))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert torch.equal(opened(data, HEIGHT, WIDTH), opened(file(upright.convert("RGB")), HEIGHT, WIDTH))


def test_what_a_file_says_besides_need_not_make_sense():
    wide, words = bytes.fromhex("0100 0004 00000001"), bytes.fromhex("0100 0002 00000001")
    assert wide in said(6), "a number is said"
    says = said(6).replace(wide, words)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(BytesIO(lying(says))))
    assert torch.equal(opened(lying(says), HEIGHT, WIDTH), TRUE)


@pytest.mark.parametrize("picture", [colours().convert("L"), colours().convert("LA"), deep()], ids=["l", "la", "deep"])
def test_grey_has_three_colours(picture):
    assert (opened(file(picture), HEIGHT, WIDTH) - GREYS).abs().max() <= 1.5 / 255


def test_two_levels_are_black_and_white():
    checks = Image.fromarray(np.indices((HEIGHT, WIDTH)).sum(0) % 2 == 0)
    wanted = torch.from_numpy(np.asarray(checks).astype(np.float32))
    assert torch.equal(opened(file(checks), HEIGHT, WIDTH), wanted.expand(3, -1, -1))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_is_grey(form):
    got = opened(file(transparent(), form, **({"lossless": True} if form == "WEBP" else {})), HEIGHT, WIDTH)
    assert torch.allclose(got[:, :, 13:], torch.tensor(GREY), atol=0.05)
    assert torch.allclose(got[0, :, :10], TRUE[0, :, :10], atol=0.1)


@pytest.mark.parametrize(("width", "height"), [(480, 32), (48, 320), (1, 1), (1, 4000), (7, 5)])
def test_of_a_picture_of_another_shape_the_middle_is_taken(width, height):
    got = opened(file(colours(width, height)), HEIGHT, WIDTH)
    assert got.shape == (3, HEIGHT, WIDTH)
    share = min(width / WIDTH, height / HEIGHT) * WIDTH / width  # of its width that is seen
    if width >= WIDTH:
        assert got[0, 0, 0] == pytest.approx((1 - share) / 2, abs=0.05)
        assert got[0, 0, -1] == pytest.approx((1 + share) / 2, abs=0.05)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("spoil", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"no picture", lambda d: d[4:]])
def test_what_is_no_whole_picture_is_refused(form: str, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidInput, match="no whole JPEG, PNG, WEBP, GIF file"):
        opened(spoil(file(colours(), form)), HEIGHT, WIDTH)


def test_other_files_than_pictures_of_the_web_are_refused():
    for form in ("TIFF", "BMP", "PPM"):
        with pytest.raises(InvalidInput, match="no whole"):
            opened(file(colours(), form), HEIGHT, WIDTH)


@pytest.mark.parametrize("side", [5800, 12000, 30000])
def test_a_small_file_of_too_many_pixels_is_not_unpacked(side):
    """Of one colour, a hundred kilobytes at most; Pillow itself warns of the second, and refuses the third."""
    row = b"\0" + bytes(-(-side // 8))
    data = png_of(side, row)
    assert side * side > MAX_PIXELS
    with pytest.raises(InvalidInput, match=r"pixels"):
        opened(data, HEIGHT, WIDTH)


def png_of(side: int, row: bytes) -> bytes:
    """A square PNG of one bit a pixel, its rows alike."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


WHOLE = {form: file(colours(9, 6), form) for form in ("PNG", "JPEG", "GIF", "WEBP")}


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_picture_is_a_picture_or_refused(form, data):
    harmed = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        harmed[data.draw(st.integers(0, len(harmed) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = opened(bytes(harmed), HEIGHT, WIDTH)
    except InvalidInput:
        return
    assert got.shape == (3, HEIGHT, WIDTH)
    assert (got >= 0).all()
    assert (got <= 1).all()


def test_a_world_that_nobody_gave_a_picture_begins_in_a_plain():
    got = plain(HEIGHT, WIDTH)
    assert got.shape == (3, HEIGHT, WIDTH)
    assert torch.equal(got[:, 0], got[:, HEIGHT // 2 - 1])
    assert torch.equal(got[:, -1], got[:, HEIGHT // 2])
    assert (got[:, 0] > got[:, -1]).all()
