"""Copies at the speed of memory, and checksums taken while what was copied is still in the processor's cache."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import xxhash

from worldkv.errors import InvalidInput

PIECE_BYTES = 512 << 10
"""How much is copied, and then summed while it is still in the processor's cache, at a time."""
PARALLEL_BYTES = 16 << 20
"""From so many bytes a second thread sums while the first copies: whole copies are faster than those of pieces."""
STREAMED_BYTES = 192 << 20
"""From so many bytes the C library writes past the cache, nearly twice as fast."""
SUMMED_BYTES = 64 << 20
"""How much is summed at a time, before looking whether the sum is still wanted."""


def copy(source: Sequence[memoryview], target: Sequence[memoryview]) -> None:
    """Copy the bytes of `source`, in order, into `target`; InvalidInput if they are not as many.

    Runs are as long as they can be: from some hundred MB on the C library writes past the cache, nearly twice as fast.
    """
    for piece, place in pairs(source, target):
        move(piece, place)


def copy_checked(source: Sequence[memoryview], target: Sequence[memoryview], steady: bool = False) -> int:
    """Like `copy`, and answers the xxh3-64 of the bytes as they now lie in `target`.

    steady  nobody changes `source` meanwhile, so that what is read for the copy may be summed: faster for much
    """
    if steady and sum(view.nbytes for view in source) >= PARALLEL_BYTES:
        with summing(source) as total:
            copy(source, target)
            return total()
    digest = xxhash.xxh3_64()
    for piece, place in pairs(source, target, PIECE_BYTES):
        move(piece, place)
        digest.update(place)
    return digest.intdigest()


def checksum(views: Sequence[memoryview]) -> int:
    """The xxh3-64 of these bytes, one view after the other."""
    digest = xxhash.xxh3_64()
    for view in views:
        digest.update(view)
    return digest.intdigest()


@contextmanager
def summing(views: Sequence[memoryview]) -> Iterator[Callable[[], int]]:
    """Sums these bytes in another thread while the block goes on; yields what waits for their xxh3-64."""
    digest, left = xxhash.xxh3_64(), threading.Event()

    def run() -> None:
        for view in views:
            flat = _flat(view)
            for begin in range(0, flat.nbytes, SUMMED_BYTES):
                if left.is_set():
                    return
                digest.update(flat[begin : begin + SUMMED_BYTES])

    thread = threading.Thread(target=run, name="worldkv-summing")
    thread.start()

    def total() -> int:
        thread.join()
        return digest.intdigest()

    try:
        yield total
    finally:
        left.set()
        thread.join()


def pairs(
    source: Sequence[memoryview], target: Sequence[memoryview], most: int = sys.maxsize
) -> Iterator[tuple[memoryview, memoryview]]:
    """Pieces of both that belong together, of at most `most` bytes; InvalidInput if they are not as long."""
    sizes = sum(view.nbytes for view in source), sum(view.nbytes for view in target)
    if sizes[0] != sizes[1]:
        raise InvalidInput(f"{sizes[0]} bytes do not fit buffers of {sizes[1]}")
    places = (_flat(view) for view in target if view.nbytes)
    place, done = memoryview(b""), 0
    for view in source:
        flat, at = _flat(view), 0
        while at < flat.nbytes:
            if done == place.nbytes:
                place, done = next(places), 0
            n = min(flat.nbytes - at, place.nbytes - done, most)
            yield flat[at : at + n], place[done : done + n]
            at, done = at + n, done + n


def _flat(view: memoryview) -> memoryview:
    return view if (view.format == "B" and view.ndim == 1) or not view.nbytes else view.cast("B")


def move_in_two(source: memoryview, target: memoryview) -> None:
    """Copy bytes, many in two threads: one alone does not use all that memory gives.

    They share evenly, but one has enough to be written past the cache where there are so many.
    """
    if source.nbytes < PARALLEL_BYTES:
        move(source, target)
        return
    half = source.nbytes // 2
    first = max(half, STREAMED_BYTES) if source.nbytes >= STREAMED_BYTES else half
    other = threading.Thread(target=move, args=(source[first:], target[first:]), name="worldkv-copying")
    other.start()
    try:
        move(source[:first], target[:first])
    finally:
        other.join()


def move(source: memoryview, target: memoryview) -> None:
    """Copy bytes, at the speed of memory; other threads run while much is copied."""
    if source.nbytes <= PIECE_BYTES:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
