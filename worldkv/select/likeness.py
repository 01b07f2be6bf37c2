"""What people are shown of a chunk that was chosen: how near it was seen from, and how much of the view it shows."""

from __future__ import annotations

from collections.abc import Sequence
from math import degrees
from typing import NamedTuple

import numpy as np

from worldkv.pose import Matrix, angle, distance
from worldkv.select.overlap import GRID
from worldkv.select.seam import Query
from worldkv.views import Candidates, sees, target


class Likeness(NamedTuple):
    """A chunk beside a coming view.

    distance  between the two cameras that are nearest to each other (units plus radians), units
    angle     between the directions of these two, degrees
    overlap   share of the coming view that at least one of the chunk's frames sees, 0..1: the mean over its frames, as
              the selector `fov` counts it
    """

    distance: float
    angle: float
    overlap: float


def likenesses(query: Query, chunks: Sequence[Matrix]) -> list[Likeness]:
    """Chunks, by their poses [frames, 4, 4], beside a coming view; all are taken to see through the query's lens.

    Of a chunk without poses nothing is known: all is zero.
    """
    known = [poses for poses in chunks if len(poses)]
    if not known:
        return [Likeness(0.0, 0.0, 0.0) for _ in chunks]
    stacked = np.stack(known)
    away = distance(stacked[:, :, None], query.poses)  # [chunks, frames, coming frames]
    turned = angle(stacked[:, :, None, :3, :3], query.poses[:, :3, :3])
    near = (away + turned).reshape(len(known), -1).argmin(1)[:, None]
    away, turned = (np.take_along_axis(each.reshape(len(known), -1), near, 1)[:, 0] for each in (away, turned))
    points = target(query.poses, query.fov, query.aspect, query.view_range, **GRID).flat
    seen = sees(Candidates.of(stacked, query.fov, query.aspect), points, query.view_range).mean(-1)
    found = (Likeness(float(a), degrees(t), float(s)) for a, t, s in zip(away, turned, seen, strict=True))
    return [next(found) if len(poses) else Likeness(0.0, 0.0, 0.0) for poses in chunks]
