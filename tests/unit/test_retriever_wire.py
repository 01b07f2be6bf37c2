"""Messages of the retriever: everything that leaves comes back, and what is none is refused by value."""

from contextlib import suppress
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import chunk_keys, digests, lineages, metas, poses
from worldkv import rpc
from worldkv import wire_retriever as wire
from worldkv.chunk import Lineage, Meta
from worldkv.errors import InvalidInput, InvalidPose, NotFound, Unavailable, WorldKVError
from worldkv.index import Batch, Hit
from worldkv.pose import camera
from worldkv.select import Query
from worldkv.v1 import retriever_pb2 as pb
from worldkv.wire import parse

shares = st.floats(0, 1)
hits = st.builds(
    Hit,
    chunk_keys,
    shares,
    shares,
    st.dictionaries(st.sampled_from(["angle", "alone"]), shares),
    st.booleans(),
    st.lists(poses(), max_size=3).map(lambda some: np.stack(some) if some else np.empty((0, 4, 4))),
)
founds = st.builds(wire.Found, st.lists(hits, max_size=4), st.integers(0, 2**40), st.integers(0, 2**40))


@st.composite
def queries(draw: st.DrawFn) -> Query:
    some = st.lists(poses(), min_size=1, max_size=3).map(np.stack)
    return Query(
        draw(some),
        draw(st.floats(0.01, 3.14)),
        draw(st.floats(0.01, 100)),
        draw(st.floats(0.01, 100)),
        draw(some | st.just(np.empty((0, 4, 4)))),
        np.array(draw(st.lists(st.floats(-1, 1, width=32), max_size=4)), np.float32),
    )


lookups = st.builds(
    wire.Lookup,
    lineages(),
    queries(),
    st.integers(0, 1024),
    st.integers(0, 1024),
    st.lists(st.integers(0, 2**63 - 1), max_size=5),
    st.integers(0, 2**63 - 1),
    st.lists(metas(), max_size=2),
    st.sampled_from(["pose", "coverage"]),
    st.integers(0, 2**64 - 1),
    st.just("") | digests,
)


def same(a: object, b: object) -> bool:
    """Whether two nouns say the same; empty depth maps say as much as none."""
    if isinstance(a, Meta | Query | wire.Lookup):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, np.ndarray) and b is None:
        return not a.size
    if isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], Meta):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(metas())
def test_metas_come_back(meta):
    assert same(meta, wire.meta_of(wire.meta_message(meta)))


@given(lookups)
def test_lookups_come_back(lookup):
    (back,) = wire.lookups_of(pb.NearestRequest(queries=[wire.lookup_message(lookup)]))
    assert same(lookup, back)


@given(st.lists(founds | st.builds(NotFound, st.text(max_size=20)), max_size=4))
def test_answers_come_back(answers):
    message = pb.NearestResponse(answers=map(wire.answer_message, answers))
    back = wire.answers_of(pb.NearestResponse.FromString(message.SerializeToString()))
    assert [str(a) if isinstance(a, WorldKVError) else a for a in answers] == [
        str(b) if isinstance(b, WorldKVError) else b for b in back
    ]
    assert [type(a) for a in answers] == [type(b) for b in back]
    for ours, theirs in zip(answers, back, strict=True):
        if isinstance(ours, wire.Found):
            assert all(np.array_equal(a.poses, b.poses) for a, b in zip(ours.hits, theirs.hits, strict=True))


@given(st.lists(metas(), max_size=6))
def test_chunks_of_any_shape_come_as_columns_in_their_order(some):
    batches = wire.batches_of(wire.add_message(some))
    back = [batch.meta(row) for batch in batches for row in range(len(batch))]
    assert [meta.key for meta in back] == [meta.key for meta in some]
    for a, b in zip(some, back, strict=True):
        assert np.array_equal(a.poses, b.poses)
        assert (a.spec, a.begin, a.fov, a.aspect) == (b.spec, b.begin, b.fov, b.aspect)
        assert same(a.depth, b.depth)
    assert all(isinstance(batch, Batch) for batch in batches)


@given(st.binary(max_size=200))
def test_bytes_of_others_are_refused_or_mean_something(data):
    for kind, read in (
        (pb.NearestRequest, wire.lookups_of),
        (pb.AddRequest, wire.batches_of),
        (pb.RemoveRequest, wire.removal_of),
        (pb.NearestResponse, wire.answers_of),
    ):
        with suppress(InvalidInput):
            read(parse(kind, data))


def good() -> pb.NearestQuery:
    lookup = wire.Lookup(Lineage.begin(b"b" * 16), Query(camera(0, 0, 0)[None], 1.0, 0.75, 8.0), 3)
    return wire.lookup_message(lookup)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q: q.view.poses.append(1.0), "13"),
        (lambda q: q.view.ClearField("poses"), "at least one pose"),
        (lambda q: q.view.visible.extend([1.0] * 11), "11"),
        (lambda q: q.view.poses.__setitem__(0, float("nan")), "finite"),
        (lambda q: setattr(q.view, "fov", 4.0), "4.0"),
        (lambda q: setattr(q.view, "aspect", 0.0), "aspect"),
        (lambda q: setattr(q.view, "view_range", float("inf")), "view_range"),
        (lambda q: q.ClearField("lineage"), "lineage"),
        (lambda q: setattr(q.lineage.parts[0], "branch", b"x"), "16 bytes"),
        (lambda q: q.pending.add(), "16 bytes"),
        (lambda q: setattr(q, "spec", "0X"), "0X"),
    ],
)
def test_a_query_that_is_wrong_is_refused_by_value(change, words):
    query = good()
    wire.lookups_of(pb.NearestRequest(queries=[query]))
    change(query)
    with pytest.raises(InvalidInput, match=words):
        wire.lookups_of(pb.NearestRequest(queries=[query]))


def test_too_much_is_refused():
    with pytest.raises(InvalidInput, match="at most 256 queries, got 257"):
        wire.lookups_of(pb.NearestRequest(queries=[good()] * 257))
    with pytest.raises(InvalidInput, match="at most 1024 chunks, got 1025"):
        wire.batches_of(pb.AddRequest(chunks=[pb.AddRequest().chunks.add()] * 1025))
    with pytest.raises(InvalidInput, match="at most 1024 branches, got 1025"):
        wire.removal_of(pb.RemoveRequest(branches=[b"b" * 16] * 1025))


@pytest.mark.parametrize("numbers", [0, 11, 13])
def test_chunks_without_whole_poses_are_refused(numbers):
    request = pb.AddRequest()
    chunk = request.chunks.add(spec="0" * 32, fov=1, aspect=1, poses=[0.0] * numbers)
    chunk.key.branch = b"b" * 16
    with pytest.raises(InvalidPose, match=str(numbers)):
        wire.batches_of(request)


def test_errors_keep_their_names_on_the_way():
    for error in (Unavailable("a"), InvalidPose("b"), NotFound("c")):
        back = rpc.error_named(rpc.name_of(error), str(error))
        assert (type(back), str(back)) == (type(error), str(error))
    assert type(rpc.error_named("NoSuch", "x")) is WorldKVError
