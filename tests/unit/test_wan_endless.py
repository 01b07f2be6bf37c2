"""Walks of the Wan models without an end: at which times keys and queries stand in attention."""

import pytest

from benchmarks.model_endless import measured
from services.generator.adapters.wan.variants import VARIANTS

pytestmark = pytest.mark.slow

FRAMES = 60


@pytest.mark.parametrize("name", VARIANTS)
def test_a_rebased_walk_stays_within_its_window_however_long_it_is(name):
    assert measured(name, "rebased", 1.0, FRAMES) == [1.0] * (1 + (VARIANTS[name].backbone.actions is not None))


def test_times_are_read_off_what_the_model_is_given():
    assert measured("matrix-game-2.0-gta", "original", 1.0, FRAMES) == [FRAMES / 18, 1.0]
    assert measured("lingbot-world-v2-1.3b", "original", 1.0, FRAMES) == [FRAMES / 24]


def test_recalled_chunks_that_are_pruned_take_more_frames_than_tokens():
    slots = 3 * 18 // 10  # of three whole chunks, for chunks of 6 + 2 + 2 tokens
    assert measured("self-forcing", "rebased", 0.25, FRAMES) == [(9 + 3 * slots) / 18]
