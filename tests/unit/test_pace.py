"""When held chunks are begun: in time, and as late as that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.live.pace import RECENT, SLOWER, SPARE_SECONDS, Pace

SECONDS = st.floats(0.001, 2.0)


@given(st.lists(SECONDS, min_size=1, max_size=20), SECONDS)
def test_whoever_is_no_slower_than_lately_is_in_time(times, playing):
    pace, now = Pace(playing), 0.0
    for took in times:
        now = max(now, pace.due) + took
        pace.drawn(now, took)
    assert pace.due + min(max(times[-RECENT:]), playing) <= pace.until + 1e-9


def test_a_chunk_is_begun_no_earlier_than_the_one_before_it_is_played():
    pace = Pace(0.4)
    pace.drawn(10.0, 0.3)
    pace.drawn(10.1, 0.3)
    assert (pace.until, pace.due) == pytest.approx((10.8, 10.4))


def test_a_fast_model_begins_late():
    pace = Pace(0.4)
    pace.drawn(10.0, 0.1)
    assert pace.due == pytest.approx(10.4 - (SLOWER * 0.1 + SPARE_SECONDS))


def test_what_is_waited_for_is_begun_at_once():
    pace = Pace(0.4)
    pace.drawn(10.0, 0.1)
    pace.hurry(10.1)
    assert pace.due <= 10.1
    pace.drawn(10.2, 0.1)
    assert pace.until == pytest.approx(10.6), "played from when it came"
