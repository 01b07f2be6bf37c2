"""Pictures as a client takes them."""

from io import BytesIO

import pytest
from PIL import Image

from worldkv.client.pictures import pictures_of
from worldkv.errors import InvalidInput
from worldkv.v1 import sessions_pb2 as pb


def jpeg(height: int = 8, width: int = 16) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG")
    return file.getvalue()


def sized(data: bytes, height: int, width: int) -> bytes:
    """A JPEG file that says that it is as large as this."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


@pytest.mark.parametrize(
    "data", [b"", b"no picture", jpeg()[:-40], sized(jpeg(), 65_000, 65_000)], ids=["empty", "other", "cut", "bomb"]
)
def test_what_is_no_jpeg_file_is_said_so(data):
    with pytest.raises(InvalidInput, match=f"{len(data)} bytes are no JPEG file"):
        pictures_of([pb.Picture(format=pb.PICTURE_FORMAT_JPEG, height=8, width=16, data=data)], 8, 16)
