"""A paced walk through a shard and a replica as processes: all that it recalls, and all that it put, is what it was."""

from dataclasses import replace

import pytest

from benchmarks.gen_paced import HOT, WARM, walk
from services.generator.adapters.paced.adapter import PacedWorldModel
from services.generator.adapters.paced.shapes import SHAPES, Shape

SMALL = Shape(replace(SHAPES["paced-mg2"].spec, layers=2, heads=2, frame_tokens=440), step_seconds=0.05)


@pytest.mark.slow
async def test_a_paced_walk_has_from_the_store_what_it_put_there():
    seen = await walk(PacedWorldModel(SMALL), "R360_3L360_3", ahead=True)
    assert len(seen.recall) == len(seen.place) == 28 - WARM
    assert seen.recalled > 0
    assert seen.fetched > 0, f"{HOT} chunks at hand are too few"
