"""A run of bytes kept as the buffers it is made of, so that gigabytes are never joined."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldkv.chunk import Buffer


@dataclass(frozen=True, eq=False)
class Frame:
    """Bytes as a scatter list; built with `Frame.of`, which copies nothing.

    buffers  read-only flat views, none empty; their bytes one after the other are the frame
    nbytes   bytes of all buffers

    A frame keeps alive the whole objects that its buffers are views of, and these must not change while it is used.
    """

    buffers: tuple[memoryview, ...]
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", sum(buffer.nbytes for buffer in self.buffers))

    @classmethod
    def of(cls, *data: Buffer | Frame) -> Frame:
        """The frame of these buffers and frames, in this order; a frame alone is returned as it is."""
        if len(data) == 1 and isinstance(data[0], Frame):
            return data[0]
        buffers: list[memoryview] = []
        for each in data:
            buffers += each.buffers if isinstance(each, Frame) else [_flat(each)]
        return cls(tuple(buffer for buffer in buffers if buffer.nbytes))

    def slice(self, begin: int, length: int) -> memoryview:
        """`length` bytes from `begin`: a view where they lie in one buffer, else a copy."""
        assert 0 <= begin <= begin + length <= self.nbytes, (begin, length, self.nbytes)
        if len(self.buffers) == 1:
            return self.buffers[0][begin : begin + length]
        found: list[memoryview] = []
        at, end = 0, begin + length
        for buffer in self.buffers:
            if at < end and begin < at + buffer.nbytes:
                found.append(buffer[max(begin - at, 0) : end - at])
            at += buffer.nbytes
        return found[0] if len(found) == 1 else memoryview(b"".join(found))


def join(frame: Frame) -> bytes:
    """The bytes of a frame in one piece: copies all of it."""
    return b"".join(frame.buffers)


def write_file(path: Path, frame: Frame) -> None:
    """Write a frame so that `path` holds all of it or what it held before, also after a crash; raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            for buffer in frame.buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _flat(data: Buffer) -> memoryview:
    view = (data.data if isinstance(data, np.ndarray) else memoryview(data)).toreadonly()
    return view.cast("B") if view.nbytes else memoryview(b"")
