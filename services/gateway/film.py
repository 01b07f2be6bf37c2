"""Films of pictures: H.264 in an MP4 that can be sent while it is made, for any browser. All of this blocks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import RawIOBase
from threading import Lock

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from worldkv.errors import ChunkCorrupt

LEAST_HEIGHT = 240
"""Smaller pictures are shown larger, by whole factors and unblurred: films halve the resolution of colour."""
PREFERRED = ("libx264", "h264", "libopenh264")
"""Encoders, the best first."""
OPTIONS = {"preset": "veryfast", "crf": "18", "threads": "1"}
PIECES = "frag_keyframe+empty_moov+default_base_moof"
"""No part of the file is written that would have to be changed later."""
KEY_SECONDS = 2
"""Between pictures that stand alone: at these a player can begin, and a piece is sent."""


class Film:
    """Takes pictures, each a JPEG file, and gives the bytes of a film as they come to be.

    rate  pictures a second
    """

    def __init__(self, rate: float) -> None:
        self._rate = Fraction(rate).limit_denominator(1000) if rate > 0 else Fraction(10)
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format="mp4", options={"movflags": PIECES})
        self._reader = VideoCodecContext.create("mjpeg", "r")
        self._stream: VideoStream | None = None
        self._count = 0
        self._lock, self._over = Lock(), False  # who is cancelled abandons it while a thread may be at it

    def add(self, pictures: Sequence[bytes]) -> bytes:
        """More pictures; bytes that are ready, perhaps none. Raises ChunkCorrupt for what is no JPEG file."""
        with self._lock:
            for picture in () if self._over else pictures:
                try:
                    frames = self._reader.decode(av.Packet(picture))
                except av.FFmpegError as error:
                    raise ChunkCorrupt(f"picture {self._count} cannot be read: {error}") from error
                for frame in frames:
                    self._add(frame)
            return self._sink.taken()

    def end(self) -> bytes:
        """The last bytes."""
        with self._lock:
            if self._stream is not None and not self._over:
                self._container.mux(self._stream.encode(None))
            self._close()
            return self._sink.taken()

    def abandon(self) -> None:
        """No more is wanted, and nothing is added any more; after `end` this does nothing."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self._container.close()

    def _add(self, frame: VideoFrame) -> None:
        if self._stream is None:
            self._stream = self._begun(frame)
        stream = self._stream
        scaled = frame.reformat(
            stream.width,
            stream.height,
            "yuv420p",
            interpolation="POINT",
            src_colorspace=Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        scaled.pts, scaled.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(stream.encode(scaled))

    def _begun(self, frame: VideoFrame) -> VideoStream:
        """A track for pictures as large as this one, in even numbers of pixels."""
        factor = max(1, -(-LEAST_HEIGHT // frame.height))
        name = next(each for each in PREFERRED if each in av.codecs_available)
        stream = self._container.add_stream(name, rate=self._rate, options=OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = (-(-factor * each // 2) * 2 for each in (frame.width, frame.height))
        stream.pix_fmt, stream.time_base = "yuv420p", 1 / self._rate
        context = stream.codec_context
        context.gop_size = max(1, round(self._rate * KEY_SECONDS))
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU601  # or players guess by the size
        return stream


class _Sink(RawIOBase):
    """Where a film is written to, from begin to end."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._bytes += data
        return len(data)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def taken(self) -> bytes:
        """What was written since this was asked last."""
        given, self._bytes = bytes(self._bytes), bytearray()
        return given
