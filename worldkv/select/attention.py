"""Selection by content: what the model would look for, against what the chunks hold."""

from __future__ import annotations

import numpy as np

from worldkv.errors import InvalidInput
from worldkv.select.overlap import with_gains
from worldkv.select.seam import Choice, Query, ranked
from worldkv.views import Candidates


class Attention:
    """The k candidates whose descriptors point the same way as the query's.

    Descriptors are pooled: of a chunk the mean of its keys, of the query the mean of its queries, over tokens, as
    MemFlow does it; which layers and heads they are made of is up to the model. The score is (1 + cosine) / 2, so it
    is absolute: 1 where both point the same way, 1/2 where they have nothing in common, 0 where they are opposed.

    A query without a descriptor chooses nothing, and a chunk without one is never chosen: of content that is not known
    nothing can be said. Poses are looked at for the gains alone. Ties go to the oldest.

    Raises InvalidInput where descriptors of query and chunks have different lengths.
    """

    def choose(self, query: Query, candidates: Candidates, k: int, spares: int = 0) -> list[Choice]:
        keys, wanted = candidates.descriptor, query.descriptor.astype(np.float64)
        if keys is None or not len(wanted):
            return []
        if keys.shape[1:] != wanted.shape:
            raise InvalidInput(f"descriptors of chunks have {keys.shape[1]} values, the query's {len(wanted)}")
        length = np.linalg.norm(keys.astype(np.float64), axis=-1) * np.linalg.norm(wanted)
        product = keys.astype(np.float64) @ wanted
        cosine = np.clip(np.divide(product, length, out=np.zeros_like(product), where=length > 0), -1, 1)
        known = np.flatnonzero(np.isfinite(keys).all(-1))
        rows = known[ranked(cosine[known], k + spares)]
        choices = [
            Choice(int(row), float(1 + cosine[row]) / 2, parts={"cosine": float(cosine[row])}, spare=place >= k)
            for place, row in enumerate(rows)
        ]
        return with_gains(query, candidates, choices)
