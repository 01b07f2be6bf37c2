"""A world as one file: its record, and the frames of its chunks one after the other.

docs/format.md is the specification. Every byte is under a checksum; the file is there whole or not at all, for it is
written beside its place and then renamed. Frames are written and read one at a time. All of this blocks.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_64, xxh3_64_intdigest

from worldkv.catalog import World, pack, unpack
from worldkv.errors import (
    BadHeader,
    BadMagic,
    ChecksumMismatch,
    ChunkCorrupt,
    InvalidInput,
    Oversized,
    Truncated,
    UnknownVersion,
)
from worldkv.format import MAX_HEADER_BYTES, MAX_KV_BYTES, MAX_PART_BYTES, Frame
from worldkv.store import PartKey

MAGIC = b"\x89WKW\r\n\x1a\n"
VERSION = 1
END = (1 << 64) - 1
"""Number of the entry that ends a file."""

_PREFIX = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<Q")
_ENTRY = struct.Struct("<QQQ")


class WorldBytes:
    """The bytes of a world's file: `begin`, then its frames by chunk number, the immutable part first, then `end`."""

    def __init__(self, world: World) -> None:
        self._heads, self._count = xxh3_64(), 0
        record = pack(world)
        prefix = _PREFIX.pack(MAGIC, VERSION, len(record))
        self.begin = prefix + record + _CHECKSUM.pack(xxh3_64_intdigest(prefix + record))

    def frame(self, key: PartKey, frame: Frame) -> tuple[bytes | memoryview, ...]:
        """What a frame adds; sums up all of it."""
        state = xxh3_64()
        for buffer in frame.buffers:
            state.update(buffer)
        head = self._head(_number(key), frame.nbytes, state.intdigest())
        self._count += 1
        return (head, *frame.buffers)

    def end(self) -> bytes:
        """What ends the file."""
        return self._head(END, self._count, self._heads.intdigest())

    def _head(self, number: int, size: int, checksum: int) -> bytes:
        head = _ENTRY.pack(number, size, checksum)
        head += _CHECKSUM.pack(xxh3_64_intdigest(head))
        self._heads.update(head)
        return head


class WorldWriter:
    """Writes a world's file: `add` its frames by chunk number, the immutable part first, then `finish` or `abandon`.

    Raises OSError where the file cannot be written; `path` holds what it held before until `finish` is through.
    """

    def __init__(self, path: Path, world: World) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        self._bytes = WorldBytes(world)
        self._file: BinaryIO = open(self._temporary, "xb")  # noqa: SIM115 (closed by finish or abandon)
        self._file.write(self._bytes.begin)

    def add(self, key: PartKey, frame: Frame) -> None:
        for buffer in self._bytes.frame(key, frame):
            self._file.write(buffer)

    def finish(self) -> None:
        """Put the file in its place, so that it is there also after a crash."""
        self._file.write(self._bytes.end())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Leave nothing behind; after `finish` this does nothing."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def read_world(file: BufferedReader) -> World:
    """The record at the begin of a world's file: of `chunks` chunks, whose frames follow.

    Raises BadMagic, UnknownVersion, Truncated, Oversized, ChecksumMismatch or BadHeader.
    """
    begin = file.read(_PREFIX.size)
    if not MAGIC.startswith(begin[: len(MAGIC)]):
        raise BadMagic(f"the file of a world begins with {MAGIC!r}, got {begin[: len(MAGIC)]!r}")
    if len(begin) < _PREFIX.size:
        raise Truncated(f"the file of a world has at least {_PREFIX.size} bytes, got {len(begin)}")
    _, version, size = _PREFIX.unpack(begin)
    if version != VERSION:
        raise UnknownVersion(f"version {version} of a world's file, this reader knows {VERSION}")
    if size > MAX_HEADER_BYTES:
        raise Oversized(f"a world's record of {size} bytes is over the limit of {MAX_HEADER_BYTES}")
    record = _exactly(file, size, "its record")
    if _CHECKSUM.unpack(_exactly(file, _CHECKSUM.size, "its record")) != (xxh3_64_intdigest(begin + record),):
        raise ChecksumMismatch("the world's record is not the one that was written")
    try:
        return unpack(bytes(record))
    except ChunkCorrupt as error:
        raise BadHeader(f"the file begins with what is no world: {error}") from error


def read_frames(file: BufferedReader, world: World) -> Iterator[tuple[PartKey, Frame | ChecksumMismatch]]:
    """The frames that follow a record, in their order; an error in the place of one whose bytes changed.

    Raises Truncated, Oversized, ChecksumMismatch or BadHeader where it is not known how to read on.
    """
    heads, count, last = xxh3_64(), 0, -1
    while True:
        head = _exactly(file, _ENTRY.size, "an entry")
        checksum = _exactly(file, _CHECKSUM.size, "an entry")
        if _CHECKSUM.unpack(checksum) != (xxh3_64_intdigest(head),):
            raise ChecksumMismatch(f"the head of entry {count} is not the one that was written")
        number, size, checksum_of_frame = _ENTRY.unpack(head)
        if number == END:
            if (size, checksum_of_frame) != (count, heads.intdigest()):
                raise BadHeader(f"the file ends after {count} entries, not with those that were written")
            if file.read(1):
                raise Oversized("bytes follow the end of the world's file")
            return
        heads.update(head + checksum)
        key = _key(world, number)
        if number <= last:
            raise BadHeader(f"{key} stands after entry {last // 2}: numbers rise")
        if size > (limit := MAX_PART_BYTES if key.kind == "part" else MAX_KV_BYTES):
            raise Oversized(f"{key} of {size} bytes is over the limit of {limit}")
        data = _exactly(file, size, str(key))
        if xxh3_64_intdigest(data) == checksum_of_frame:
            yield key, Frame.of(data)
        else:
            yield key, ChecksumMismatch(f"{key} is not what was written")
        last, count = number, count + 1


def _number(key: PartKey) -> int:
    return key.chunk.index * 2 + (key.kind == "kv")


def _key(world: World, number: int) -> PartKey:
    if number // 2 >= world.chunks:
        raise BadHeader(f"chunk {number // 2} of a world of {world.chunks}")
    return PartKey(world.lineage.key(number // 2), "kv" if number % 2 else "part")


def _exactly(file: BufferedReader, size: int, what: str) -> bytearray:
    """The next `size` bytes; nothing is set aside for more than the file has."""
    here = os.fstat(file.fileno()).st_size - file.tell()
    if size > here:
        raise Truncated(f"{size} bytes of {what}, of which the file has {here}")
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        n = file.readinto(view[got:])
        if not n:
            raise Truncated(f"{size} bytes of {what}, of which the file has {got}")
        got += n
    return data


def open_world(path: Path) -> BufferedReader:
    """The file of a world, to be read; raises InvalidInput naming a file that cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
