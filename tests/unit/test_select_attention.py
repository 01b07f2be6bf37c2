"""Selection by descriptors: cosines by hand, and nothing is said of what is not known."""

import numpy as np
import pytest
from hypothesis import given

from tests.looks import chunk, chunks, described, look
from worldkv.errors import InvalidInput
from worldkv.select import Attention


def test_scores_are_cosines_from_nought_to_one():
    vectors = np.array([[-2, 0], [0, 5], [3, 3], [0.1, 0]], np.float32)
    hits = Attention().choose(
        look(chunk(), descriptor=np.array([4, 0], np.float32)), chunks(*[chunk()] * 4, descriptor=vectors), 4
    )
    assert [h.row for h in hits] == [3, 2, 1, 0]
    assert [h.score for h in hits] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, 0])
    assert [h.parts["cosine"] for h in hits] == pytest.approx([1, 0.5**0.5, 0, -1])


@given(described)
def test_only_chunks_whose_content_is_known_are_chosen(drawn):
    candidates, query = drawn
    rows = {h.row for h in Attention().choose(query, candidates, 100)}
    if candidates.descriptor is None or not len(query.descriptor):
        assert not rows
    else:
        assert rows == set(np.flatnonzero(~np.isnan(candidates.descriptor[:, 0])).tolist())


def test_a_descriptor_of_nothing_has_nothing_in_common():
    vectors = np.zeros((1, 2), np.float32)
    query = look(chunk(), descriptor=np.array([4, 0], np.float32))
    assert Attention().choose(query, chunks(chunk(), descriptor=vectors), 1)[0].score == 0.5


def test_descriptors_of_other_lengths_are_refused():
    query = look(chunk(), descriptor=np.ones(3, np.float32))
    with pytest.raises(InvalidInput, match="descriptors of chunks have 2 values, the query's 3"):
        Attention().choose(query, chunks(chunk(), descriptor=np.ones((1, 2), np.float32)), 1)
