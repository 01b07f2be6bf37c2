"""Many chunks at once, as columns: what an index needs to know of them, checked in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, pi
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldkv.chunk import MAX_INDEX, Branch, ChunkKey, Meta, check_digest, check_key
from worldkv.errors import InvalidInput
from worldkv.pose import Matrix, check
from worldkv.views import Candidates

SHAPES = {
    "begin": ("n",),
    "poses": ("n", "frames", "4", "4"),
    "fov": ("n",),
    "aspect": ("n",),
    "depth": ("n", "frames", "h", "w"),
    "descriptor": ("n", "d"),
}


@dataclass(frozen=True, eq=False)
class Batch:
    """Chunks of any branches, all of equally many frames; what `Meta` says of one, a column says of all.

    keys    [n] names
    specs   [n] digests of the model specs that made them
    begin   [n] int64: times of their first latent frames, latent frames
    poses   [n, frames, 4, 4] float64, camera-to-world
    fov, aspect  [n] float64
    depth   [n, frames, h, w] float32, all NaN for a chunk that has none; None: no chunk has any
    descriptor   [n, d] float32, all NaN for a chunk that has none; None: no chunk has any
    index   [n] int64: the numbers of the keys

    Arrays of these types are kept, not copied: they are not to be written to any more.

    Raises what `Meta` raises, naming the first chunk that is wrong; InvalidInput for columns of other lengths or
    shapes.
    """

    keys: Sequence[ChunkKey]
    specs: Sequence[str]
    begin: NDArray[np.int64]
    poses: Matrix
    fov: Matrix
    aspect: Matrix
    depth: NDArray[np.float32] | None = None
    descriptor: NDArray[np.float32] | None = None
    index: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "begin", np.asarray(self.begin))
        for name in ("poses", "fov", "aspect"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        for name in ("depth", "descriptor"):
            extra = getattr(self, name)
            given = None if extra is None else np.asarray(extra, np.float32)
            object.__setattr__(self, name, given if given is not None and given.size else None)
        self._check_shapes()
        try:
            self._check_values()
        except InvalidInput:
            self._blame()
            raise
        object.__setattr__(self, "index", np.fromiter((key.index for key in self.keys), np.int64, len(self)))

    @classmethod
    def of(cls, metas: Sequence[Meta]) -> Batch:
        """These chunks. Raises InvalidInput for one of another number of frames, or another shape of its extras."""
        frames = len(metas[0].poses) if metas else 1
        for meta in metas:
            if len(meta.poses) != frames:
                raise InvalidInput(f"chunk {meta.key} has {len(meta.poses)} frames, those before it {frames}")
        return cls(
            [meta.key for meta in metas],
            [meta.spec for meta in metas],
            np.fromiter((meta.begin for meta in metas), np.int64, len(metas)),
            np.stack([meta.poses for meta in metas]) if metas else np.empty((0, 1, 4, 4)),
            np.fromiter((meta.fov for meta in metas), np.float64, len(metas)),
            np.fromiter((meta.aspect for meta in metas), np.float64, len(metas)),
            _stacked("depth", metas),
            _stacked("descriptor", metas),
        )

    @classmethod
    def packed(
        cls,
        keys: Sequence[ChunkKey],
        specs: Sequence[str],
        begin: ArrayLike,
        poses: ArrayLike,
        fov: ArrayLike,
        aspect: ArrayLike,
        depth: ArrayLike | None = None,
        descriptor: ArrayLike | None = None,
    ) -> Batch:
        """Chunks whose poses come as they travel: [n, frames * 12], the first three rows of each matrix, row by row.

        Raises as the constructor does, and InvalidInput for another count of numbers.
        """
        rows = np.asarray(poses, np.float64)
        if rows.ndim != 2 or not rows.shape[1] or rows.shape[1] % 12:
            raise InvalidInput(f"poses come as 12 numbers a frame, [n, frames * 12], got {rows.shape}")
        full = np.zeros((len(rows), rows.shape[1] // 12, 4, 4))
        full[..., :3, :] = rows.reshape(len(rows), -1, 3, 4)
        full[..., 3, 3] = 1
        columns: tuple[Any, ...] = (begin, full, fov, aspect, depth, descriptor)
        return cls(keys, specs, *columns)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def frames(self) -> int:
        """Latent frames of each chunk."""
        return int(self.poses.shape[1])

    def meta(self, row: int) -> Meta:
        """One of them, without what an index does not ask for."""
        depth, descriptor = (
            None if extra is None or np.isnan(extra[row]).all() else extra[row]
            for extra in (self.depth, self.descriptor)
        )
        return Meta(
            self.keys[row],
            self.specs[row],
            int(self.begin[row]),
            self.poses[row],
            float(self.fov[row]),
            float(self.aspect[row]),
            descriptor=descriptor,
            depth=depth,
        )

    def views(self) -> Candidates:
        """What selectors need to know of them, in their order."""
        return Candidates.of(self.poses, self.fov, self.aspect, self.index, self.depth, self.descriptor)

    def runs(self) -> Iterator[tuple[Branch, slice]]:
        """Rows that belong to one branch, as long as they follow each other."""
        begin = 0
        for branch, run in groupby(self.keys, lambda key: key.branch):
            end = begin + sum(1 for _ in run)
            yield branch, slice(begin, end)
            begin = end

    def _check_shapes(self) -> None:
        if len(self.specs) != len(self):
            raise InvalidInput(f"a batch of {len(self)} chunks has {len(self.specs)} spec digests")
        sizes = {"n": len(self), "4": 4, "frames": max(self.poses.shape[1:2], default=0)}
        for name, shape in SHAPES.items():
            got = None if (column := getattr(self, name)) is None else column.shape
            if got is not None and (
                len(got) != len(shape) or any(sizes.get(s, n) != n for s, n in zip(shape, got, strict=True))
            ):
                raise InvalidInput(f"{name} of {len(self)} chunks has shape [{', '.join(shape)}], got {got}")
        if not self.frames:
            raise InvalidInput(f"a chunk has poses of at least one frame, got {self.poses.shape}")

    def _check_values(self) -> None:
        """Raise InvalidInput unless every chunk is one that `Meta` would take."""
        for key in self.keys:
            check_key(key)
        for spec in set(self.specs):
            check_digest(spec)
        check(self.poses)
        begin, fov, aspect, depth, descriptor = self.begin, self.fov, self.aspect, self.depth, self.descriptor
        sound = [
            not begin.size or (begin.dtype.kind in "iu" and begin.min() >= 0 and begin.max() <= MAX_INDEX),
            ((fov > 0) & (fov < pi) & (aspect > 0) & (aspect < inf)).all(),
            depth is None or _none_or_all(depth, depth >= 0),
            descriptor is None or _none_or_all(descriptor, np.isfinite(descriptor)),
        ]
        if not all(sound):
            raise InvalidInput("a batch holds values that a chunk must not have")

    def _blame(self) -> None:
        """Raise the error of the first chunk that is wrong, naming it."""
        for row, key in enumerate(self.keys):
            try:
                self.meta(row)
            except InvalidInput as error:
                raise type(error)(f"chunk {key}: {error}") from error


def _none_or_all(extra: NDArray[np.float32], good: NDArray[np.bool_]) -> bool:
    """Whether each row [n, ...] is good throughout, or NaN throughout: there is none."""
    within = tuple(range(1, extra.ndim))
    return bool((good.all(within) | np.isnan(extra).all(within)).all())


def _stacked(name: Literal["depth", "descriptor"], metas: Sequence[Meta]) -> NDArray[np.float32] | None:
    """An extra of all chunks, NaN for those that have none; None if no chunk has any."""
    extras = [getattr(meta, name) for meta in metas]
    shape = next((extra.shape for extra in extras if extra is not None), None)
    if shape is None:
        return None
    stacked = np.full((len(metas), *shape), np.nan, np.float32)
    for row, (meta, extra) in enumerate(zip(metas, extras, strict=True)):
        if extra is not None:
            if extra.shape != shape:
                raise InvalidInput(f"chunk {meta.key} has a {name} of shape {extra.shape}, those before it {shape}")
            stacked[row] = extra
    return stacked
