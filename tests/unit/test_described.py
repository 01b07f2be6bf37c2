"""Chunks that carry depth maps and descriptors, for selectors that look at more than poses."""

from dataclasses import replace

import numpy as np
import pytest

from pocket.rooms import FIELD_OF_VIEW
from services.generator import walks
from services.generator.report.plan import sight
from services.generator.scenarios import SCENARIOS
from services.generator.walks import DEFAULT, DEPTH_MAP, Described, run_walk
from tests.toys import toy_model
from worldkv.chunk import Meta
from worldkv.select import Query

PLAIN = replace(DEFAULT, codec="int4")
"""The default, for a model without codecs of its own."""


def recalled(selector: str, described: bool) -> int:
    """Chunks recalled by a toy model on a short walk."""
    variant = replace(PLAIN, selector=selector, described=described)
    return sum(len(log.recalled) for log in run_walk(toy_model(), SCENARIOS["pan90"](0), variant).chunks)


def test_content_is_compared_only_where_it_is_known():
    assert recalled("attention", described=False) == 0
    assert recalled("attention", described=True) > 0


def test_other_selectors_choose_the_same_whatever_chunks_carry():
    assert recalled("pose", described=True) == recalled("pose", described=False) > 0


@pytest.fixture(scope="module")
def watched() -> tuple[list[Meta], list[Query]]:
    """What the index was told and asked on a short walk."""
    metas, queries = [], []

    class Watched(Described):
        def __init__(self, *args, rooms):
            super().__init__(*args, rooms=rooms)
            add, nearest = self.finder.add, self.finder.nearest

            async def told(meta):
                metas.append(meta)
                await add(meta)

            async def asked(query, *rest):
                queries.append(query)
                return await nearest(query, *rest)

            vars(self.finder).update(add=told, nearest=asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walks, "Described", Watched)
        run_walk(toy_model(), SCENARIOS["pan90"](0), replace(PLAIN, described=True))
    return metas, queries


def test_depth_is_that_of_the_true_renderer_at_the_centres_of_a_few_fields(watched):
    walk, (metas, _) = SCENARIOS["pan90"](0), watched
    columns = (np.arange(DEPTH_MAP[1]) + 0.5) / DEPTH_MAP[1] * 2 - 1
    aside = columns * np.tan(np.radians(FIELD_OF_VIEW) / 2)
    for meta in metas:
        assert meta.depth.shape == (3, *DEPTH_MAP)
        for pose, depth in zip(meta.poses, meta.depth, strict=True):
            way = np.arctan2(pose[0, 2], pose[2, 2]) + np.arctan(aside)
            wall = sight(walk.rooms, pose[0, 3], pose[2, 3], way) / np.hypot(1, aside)
            assert np.allclose(
                depth[DEPTH_MAP[0] // 2], wall, atol=1e-3
            )  # so near the horizon the floor is 15 units off


def test_a_query_carries_the_descriptor_of_the_chunk_before_it(watched):
    metas, queries = watched
    assert len(queries) == len(metas) - 1
    for before, query in zip(metas, queries, strict=False):
        assert np.array_equal(query.descriptor, before.descriptor)
    assert len({m.descriptor.tobytes() for m in metas}) > len(metas) / 2  # some of them show the same: a pause
