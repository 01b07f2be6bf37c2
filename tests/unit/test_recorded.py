"""Recorded walks: what is written is read again, and leads where it led."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.actions import PITCH_LIMIT, Action, Walker, follow
from worldkv.errors import InvalidInput
from worldkv.recorded import SCHEMA, RecordedWalk, action_between, read_walk, write_walk

numbers = st.floats(-50, 50)
walkers = st.builds(Walker, numbers, numbers, st.floats(-720, 720), st.floats(-PITCH_LIMIT, PITCH_LIMIT))


@given(walkers, walkers)
def test_an_action_leads_from_one_place_to_the_other(before, after):
    reached = before.after(action_between(before, after))
    np.testing.assert_allclose(reached.pose, after.pose, atol=1e-9)


def test_what_is_written_is_read_again(tmp_path):
    way = Walker(1.0, 2.0, 30.0, 5.0, -0.5), Walker(1.5, 2.0, 40.0), Walker(0.1, 0.2)
    walked = RecordedWalk("rooms:7", 3, 2, way)
    write_walk(tmp_path / "deep" / "walk.json", walked)
    assert read_walk(tmp_path / "deep" / "walk.json") == walked


def test_the_actions_of_a_walk_lead_along_it():
    way = follow(Walker(1.0, 1.0, 350.0), [Action(forward=0.2, turn=9.0), Action(strafe=-0.1, look=4.0)] * 20)
    again = follow(way[0], RecordedWalk("", 0, 0, (*way,)).actions)
    np.testing.assert_allclose([w.pose for w in again], [w.pose for w in way], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "worldkv.walk/9"}, SCHEMA),
        ({"scene": 7}, "scene: expected str, got 7"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"shown": 3}, "shown = 3: the walk has 2 latent frames"),
        ({"walkers": []}, "1 to 1000000 latent frames, got 0"),
        ({"walkers": [[0, 0, 0, 0]]}, "five finite numbers"),
        ({"walkers": [[0, 0, 0, 0, float("inf")]]}, "five finite numbers"),
        ({"walkers": 5}, "not iterable"),
    ],
)
def test_what_is_no_recorded_walk_is_refused_in_words(tmp_path, change, words):
    whole = {"schema": SCHEMA, "scene": "rooms:7", "seed": 0, "shown": 1, "walkers": [[0, 0, 0, 0, 0]] * 2}
    file = tmp_path / "walk.json"
    file.write_text(json.dumps(whole))
    assert len(read_walk(file).walkers) == 2
    file.write_text(json.dumps(whole | change))
    with pytest.raises(InvalidInput, match=words) as raised:
        read_walk(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "walk.json").write_text(content)
    with pytest.raises(InvalidInput, match="no recorded walk"):
        read_walk(tmp_path / "walk.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere.json cannot be read: No such file"):
        read_walk(tmp_path / "nowhere.json")
