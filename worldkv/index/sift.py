"""Which chunks of a batch a branch takes: those that are new, up to the first that it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worldkv.errors import AlreadyExists, InvalidInput, SpecMismatch, WorldKVError
from worldkv.index.batch import Batch
from worldkv.index.table import Table
from worldkv.views import Candidates


def sift(table: Table | None, batch: Batch, views: Candidates, rows: slice) -> tuple[Candidates, WorldKVError | None]:
    """The chunks of a batch that are new to a branch, rising by number, and why the first that is refused is.

    table  the branch's, None if it has none yet
    views  the whole batch's
    rows   those of the branch; those from the first that is refused on are left out
    """
    begin, end = int(rows.start), int(rows.stop)
    refusal: WorldKVError | None = None
    spec = table.spec if table else batch.specs[begin]
    for row in range(begin, end):
        if batch.specs[row] != spec:
            words = f"chunk {batch.keys[row]} is of spec {batch.specs[row]}, others of its branch of {spec}"
            end, refusal = row, SpecMismatch(words)
            break
    if table is not None and (odd := _other_shape(table.rows, views, slice(begin, end))) is not None:
        end, refusal = odd, _shape_error(table.rows, batch, odd)
    numbers = batch.index[begin:end]
    if (np.diff(numbers) > 0).all() and (table is None or not len(numbers) or numbers[0] > table.index[-1]):
        return _bare(views.take(slice(begin, end))), refusal
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    held = table.find(numbers) if table else np.full(len(numbers), -1)
    own, known = views.take(slice(begin, end)), held >= 0
    other = ~_same_view(own, own.take(first[which]))
    if table is not None:
        other[known] |= ~_same_view(own.take(known), table.rows.take(held[known]))
    if other.any():
        end = begin + int(other.argmax())
        refusal = AlreadyExists(f"chunk {batch.keys[end]} is indexed with another pose or lens")
    new = first[(held[first] < 0) & (first < end - begin)]
    return _bare(views.take(begin + new)), refusal


def _other_shape(held: Candidates, views: Candidates, rows: slice) -> int | None:
    """First of some rows whose poses, depth map or descriptor have another shape than those that are held."""
    if held.poses.shape[1:] != views.poses.shape[1:]:
        return int(rows.start)
    odd = [
        np.flatnonzero(~np.isnan(extra[rows]).all(tuple(range(1, extra.ndim))))[:1]
        for known, extra in zip(held.extras, views.extras, strict=True)
        if known is not None and extra is not None and known.shape[1:] != extra.shape[1:]
    ]
    first = np.concatenate([*odd, []])
    return int(rows.start + first.min()) if len(first) else None


def _shape_error(held: Candidates, batch: Batch, row: int) -> InvalidInput:
    frames = held.poses.shape[1]
    if frames != batch.frames:
        return InvalidInput(f"chunk {batch.keys[row]} has {batch.frames} frames, others of its branch {frames}")
    return InvalidInput(f"chunk {batch.keys[row]} has a depth map or a descriptor of another shape than its branch's")


def _bare(chunks: Candidates) -> Candidates:
    """The same chunks, without the extras that none of them has."""
    depth, descriptor = (None if extra is None or np.isnan(extra).all() else extra for extra in chunks.extras)
    return replace(chunks, depth=depth, descriptor=descriptor)


def _same_view(a: Candidates, b: Candidates) -> NDArray[np.bool_]:
    """Which chunks [n] have the same poses and lens in both."""
    return np.asarray((a.poses == b.poses).all((1, 2, 3)) & (a.fov == b.fov) & (a.aspect == b.aspect))
