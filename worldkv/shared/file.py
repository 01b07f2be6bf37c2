"""Files under /dev/shm, and runs of bytes in them. The system frees them with the last process that maps them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from worldkv.errors import InvalidInput, Unavailable

FOLDER = Path("/dev/shm")
NONCE_BYTES = 16
PAGE = mmap.PAGESIZE
TOUCH_BYTES = 64 << 20
"""How much is touched at a time, so that signals and other threads get their turn."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_host = ""
_POPULATE_READ, _POPULATE_WRITE = 22, 23  # <linux/mman.h>, since 5.14; no names in Python


class Extent(NamedTuple):
    """A run of bytes in a segment.

    offset, length    bytes from the begin of the segment, and bytes
    slot, generation  which entry of the arena's table guards it, and what that said; zero in a staging segment
    """

    offset: int
    length: int
    slot: int = 0
    generation: int = 0


def check_extents(extents: Sequence[Extent], size: int) -> None:
    """InvalidInput for extents that are empty or outside of a segment of `size` bytes."""
    for extent in extents:
        if extent.length < 1 or not 0 <= extent.offset <= size - extent.length:
            raise InvalidInput(f"{extent} is empty or lies outside of {size} shared bytes")


def cut(extents: Sequence[Extent], begin: int, length: int) -> tuple[Extent, ...]:
    """The extents of `length` bytes from byte `begin` of a part; InvalidInput if it has not so many."""
    size, end = sum(extent.length for extent in extents), begin + length
    if not 0 <= begin <= end <= size:
        raise InvalidInput(f"bytes {begin} to {end} of a part that has {size}")
    found, at = [], 0
    for extent in extents:
        left, right = max(begin - at, 0), min(end - at, extent.length)
        if left < right:
            found.append(extent._replace(offset=extent.offset + left, length=right - left))
        at += extent.length
    return tuple(found)


def remove_stale(prefix: str) -> list[str]:
    """Remove segments called `prefix-...` whose process is gone, also if it was killed; answers their names.

    A live owner holds a lock on its segment, which the system drops with the process.
    """
    removed = []
    for name in sorted(entry for entry in os.listdir(FOLDER) if entry.startswith(f"{prefix}-")):
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            fd = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(FOLDER / name)
                removed.append(name)
            finally:
                os.close(fd)
    return removed


def check_name(name: str) -> str:
    """The name of a segment itself, or InvalidInput if it is odd or has folders in it."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"shared memory has names of letters, digits and . _ -, without folders; got {name[:80]!r}")
    return name


def live_on(host: str) -> None:
    """Let this process share memory, from now on, only with processes that say they live on the same host.

    host  a word of letters and digits; empty: with every process that finds the memory, which is the default
    """
    global _host
    if host and not host.isalnum():
        raise InvalidInput(f"a host is named by letters and digits, got {host[:80]!r}")
    _host = host


class SharedFile:
    """A file under /dev/shm, mapped whole: written by who made it, read by who opens it.

    name  of the file, without folders
    size  bytes
    view  all of them; writable for the maker
    """

    def __init__(self, name: str, fd: int, size: int, mine: bool) -> None:
        self.name, self.size, self._fd, self._mine = name, size, fd, mine
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if mine else 0))
        self.view = memoryview(self._map)

    @classmethod
    def create(cls, prefix: str, size: int, huge_pages: bool = True) -> SharedFile:
        """A new file called `prefix-` and random digits, all of it reserved and touched; Unavailable if there is no
        room for it on this host."""
        if sys.byteorder != "little":
            raise Unavailable("shared memory holds little-endian numbers, this machine does not")
        check_name(prefix)
        free = os.statvfs(FOLDER)
        if free.f_bavail * free.f_frsize < size:
            raise Unavailable(f"{size} bytes of shared memory wanted, {free.f_bavail * free.f_frsize} are free")
        name, fd = _create_locked(prefix)
        try:
            os.ftruncate(fd, size)
            made = cls(name, fd, size, mine=True)
            if huge_pages:
                with suppress(OSError):  # a kernel without them
                    made._map.madvise(mmap.MADV_HUGEPAGE)
            made._touch(_POPULATE_WRITE)
        except OSError as error:
            os.unlink(FOLDER / name)
            os.close(fd)
            raise Unavailable(f"no {size} bytes of shared memory: {os.strerror(error.errno or 0)}") from error
        return made

    @classmethod
    def open(cls, name: str, least: int) -> SharedFile:
        """A file that somebody made, to be read; Unavailable if there is none, or it has fewer than `least` bytes."""
        check_name(name)
        if _host and f"-{_host}-" not in name:
            raise Unavailable(f"shared memory {name!r} is not of host {_host}")
        try:
            fd = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise Unavailable(f"shared memory {name!r} cannot be opened: {error.strerror}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size < max(least, 1):
            os.close(fd)
            raise Unavailable(f"shared memory {name!r} has {status.st_size} bytes, not {least}")
        opened = cls(name, fd, status.st_size, mine=False)
        with suppress(OSError):  # not touched beforehand, it is only slower
            opened._touch(_POPULATE_READ)
        return opened

    def close(self) -> None:
        """Unmap, and remove the file if it is this process' own. Views that are still used keep the mapping."""
        if self._fd < 0:
            return
        if self._mine:
            with suppress(FileNotFoundError):
                os.unlink(FOLDER / self.name)
        os.close(self._fd)
        self._fd, self.view = -1, memoryview(b"")
        with suppress(BufferError):
            self._map.close()

    def _touch(self, advice: int) -> None:
        """Have the page tables filled, a stretch at a time: nobody faults later, and a full host is an error here."""
        try:
            for begin in range(0, self.size, TOUCH_BYTES):
                self._map.madvise(advice, begin, min(TOUCH_BYTES, self.size - begin))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            if self._mine:  # a kernel before 5.14
                os.posix_fallocate(self._fd, 0, self.size)
            self._map[::PAGE]


def _create_locked(prefix: str) -> tuple[str, int]:
    """A new file that is locked by this process, and its name."""
    while True:
        name = "-".join(filter(None, (prefix, _host, secrets.token_hex(8))))
        fd = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return name, fd
        os.close(fd)  # taken for stale between the two calls
