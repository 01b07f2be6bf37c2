"""Films that every browser plays."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from services.generator.report.files import replacing

FRAME_RATE = 7
"""Latent frames a second."""


def write_video(path: Path, frames: Iterable[Image.Image], rate: int = FRAME_RATE) -> None:
    """Write an MP4 (H.264, yuv420p) of at least one picture, by rename; widths and heights must be even."""
    with replacing(path) as unfinished, av.open(str(unfinished), "w", options={"movflags": "+faststart"}) as film:
        stream = None
        for picture in frames:
            if stream is None:
                stream = film.add_stream("libx264", rate=Fraction(rate), options={"preset": "veryfast", "crf": "23"})
                stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        if stream is None:
            raise ValueError("a film has at least one picture")
        film.mux(stream.encode())
