"""Films, by pictures; how they are asked for is tested with gateways."""

import io
from threading import Thread

import av
import pytest
from PIL import Image

from services.gateway.film import Film
from worldkv.errors import ChunkCorrupt


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 16), (200, 40, 40)).save(file, "JPEG")
    return file.getvalue()


def test_a_film_holds_what_was_added():
    film = Film(10.0)
    data = film.add([jpeg()] * 3) + film.add([jpeg()]) + film.end()
    film.abandon()
    with av.open(io.BytesIO(data)) as made:
        assert len([*made.decode(video=0)]) == 4


def test_what_is_no_picture_is_refused():
    film = Film(10.0)
    with pytest.raises(ChunkCorrupt, match="picture 0"):
        film.add([b"no JPEG at all"])
    film.abandon()


def test_an_abandoned_film_takes_no_more():
    film = Film(10.0)
    adding = Thread(target=lambda: [film.add([jpeg()] * 8) for _ in range(20)])
    adding.start()
    film.abandon()  # a thread may be at it
    adding.join()
    assert film.add([jpeg()] * 100) == b""
    film.end()
