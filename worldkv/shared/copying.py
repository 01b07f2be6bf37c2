"""Copies at the speed of memory, and checksums taken while what was copied is still in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from worldkv.errors import InvalidInput

PIECE_BYTES = 512 << 10
"""How much is copied, and then summed while it is still in the processor's cache, at a time."""
STRIDE_BYTES = 64 << 20
"""How much is copied at a time where nothing is summed; other threads run meanwhile."""


def copy(source: Sequence[memoryview], target: Sequence[memoryview]) -> None:
    """Copy the bytes of `source`, in order, into `target`; InvalidInput if they are not as many."""
    for piece, place in pairs(source, target, STRIDE_BYTES):
        move(piece, place)


def copy_checked(source: Sequence[memoryview], target: Sequence[memoryview]) -> int:
    """Like `copy`, and answers the xxh3-64 of the bytes as they now lie in `target`; reads memory once."""
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


def pairs(
    source: Sequence[memoryview], target: Sequence[memoryview], most: int
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


def move(source: memoryview, target: memoryview) -> None:
    """Copy bytes, at the speed of memory; other threads run while much is copied."""
    if source.nbytes <= PIECE_BYTES:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
