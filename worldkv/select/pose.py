"""Selection by nearness of poses, exactly as the paper does it."""

from __future__ import annotations

from math import degrees, sqrt

import numpy as np

from worldkv.pose import Matrix, angle
from worldkv.select.overlap import with_gains
from worldkv.select.seam import Choice, Query, ranked
from worldkv.views import Candidates, square

BLOCK = 8192
"""Candidates looked at at once."""


class Pose:
    """The k candidates of smallest 1/2 (squared distance / its maximum) + 1/2 (angle / its maximum).

    Source: WorldKV (arXiv 2605.22718) and its released code. The pose of a chunk, and of the coming one, is the mean
    translation and the mean rotation matrix of its latent frames; the maxima are taken over the candidates, and a
    maximum of zero makes its term zero. There is no threshold: slots are filled as long as there are candidates.

    The score is 1 minus that sum, so it is relative to the candidates at hand and not comparable between queries; its
    parts are both terms, "distance" and "angle", and what they are in themselves, "units" and "degrees". Ties go to the
    oldest.
    """

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        if not len(candidates):
            return []
        centre, turn = query.poses[:, :3, 3].mean(0), query.poses[:, :3, :3].mean(0)
        squares, angles = _terms(candidates, centre, turn)
        far, turned = _relative(squares), _relative(angles)
        score = 1 - (far + turned) / 2

        def parts(row: int) -> dict[str, float]:
            relative = {"distance": float(far[row]), "angle": float(turned[row])}
            return relative | {"units": sqrt(squares[row]), "degrees": degrees(angles[row])}

        ranks = enumerate(ranked(score, k + spares))
        choices = [Choice(row, float(score[row]), parts=parts(row), spare=place >= k) for place, row in ranks]
        return with_gains(query, candidates, choices)


def _terms(candidates: Candidates, centre: Matrix, turn: Matrix) -> tuple[Matrix, Matrix]:
    """Squared distance and angle of each candidate from a pose, [n] each; block by block, so that it stays in cache."""
    squares, angles = np.empty((2, len(candidates)))
    row = 0
    for part in candidates.parts:
        for begin in range(0, len(part), BLOCK):
            block = slice(begin, min(begin + BLOCK, len(part)))
            rows = slice(row, row + block.stop - block.start)
            squares[rows] = square(part.translation[block], centre)
            angles[rows] = angle(part.rotation[block], turn)
            row = rows.stop
    return squares, angles


def _relative(values: Matrix) -> Matrix:
    """Values [n] divided by their maximum; zeros if that is zero."""
    largest = values.max()
    return values / largest if largest > 0 else np.zeros_like(values)
