"""Many chunks at once: batches, what an index takes of them, what it lacks, and what those see who read meanwhile."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from math import inf, nan
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.errors import AlreadyExists, InvalidInput, InvalidPose, SpecMismatch
from worldkv.index import Batch, Gap, ScanIndex
from worldkv.pose import Matrix, camera
from worldkv.views import Candidates, join

SPEC, OTHER = "0" * 32, "1" * 32
A, B = Lineage.begin(b"a" * 16), Lineage.begin(b"b" * 16)


def poses(seed: int, frames: int = 2) -> Matrix:
    rng = np.random.default_rng(seed)
    places = rng.uniform(-5, 5, (frames, 3)).tolist()
    return np.stack([camera(x, y, z, float(rng.uniform(0, 360))) for x, y, z in places])


def meta(lineage: Lineage, number: int, seed: int | None = None, **fields) -> Meta:
    view = poses(number if seed is None else seed, fields.pop("frames", 2))
    return replace(Meta(lineage.key(number), SPEC, 2 * number, view, 1.1, 0.75), **fields)


plain = cache(meta)


def metas(lineage: Lineage, *numbers: int) -> list[Meta]:
    return [plain(lineage, number) for number in numbers]


def numbers(index: ScanIndex, lineage: Lineage, exclude: Sequence[int] = ()) -> list[int]:
    found = index.candidates(lineage, exclude)
    return [] if found is None else found.index.tolist()


def content(candidates: Candidates | None) -> list[object]:
    """A deep copy of all columns, to compare."""
    columns = [] if candidates is None else [getattr(candidates, f.name) for f in fields(candidates)]
    return [None if column is None else column.tobytes() for column in columns]


# Batches


def test_a_batch_is_what_its_chunks_are():
    depth, descriptor = np.ones((2, 3, 4), np.float32), np.arange(5, dtype=np.float32)
    some = [meta(A, 0), meta(A, 1, depth=depth), meta(B, 7, descriptor=descriptor, fov=0.5)]
    batch = Batch.of(some)
    assert (len(batch), batch.frames, batch.index.tolist()) == (3, 2, [0, 1, 7])
    assert [*batch.runs()] == [(A.head, slice(0, 2)), (B.head, slice(2, 3))]
    for row, each in enumerate(some):
        again = batch.meta(row)
        assert (again.key, again.spec, again.begin, again.fov) == (each.key, each.spec, each.begin, each.fov)
        assert np.array_equal(again.poses, each.poses)
        for extra in ("depth", "descriptor"):
            known, kept = getattr(each, extra), getattr(again, extra)
            assert (known is None) == (kept is None)
            assert known is None or np.array_equal(known, kept)


def test_poses_as_they_travel_are_completed():
    whole = Batch.of(metas(A, 0, 1, 2))
    rest = whole.fov, whole.aspect
    packed = Batch.packed(whole.keys, whole.specs, whole.begin, whole.poses[:, :, :3].reshape(3, -1), *rest)
    assert np.array_equal(packed.poses, whole.poses)
    for wrong in (np.zeros((3, 0)), np.zeros((3, 13)), np.zeros(36)):
        with pytest.raises(InvalidInput, match="12 numbers a frame"):
            Batch.packed(whole.keys, whole.specs, whole.begin, wrong, *rest)


def test_an_empty_batch_adds_nothing():
    index = ScanIndex()
    assert index.add_many(Batch.of([])) == 0
    assert (len(index), index.nbytes, index.branches()) == (0, 0, [])


mirrored = np.diag([-1.0, 1, 1, 1])[None].repeat(2, 0)


@pytest.mark.parametrize(
    ("column", "value", "error", "words"),
    [
        ("poses", 2 * np.eye(4)[None].repeat(2, 0), InvalidPose, "last row"),
        ("poses", mirrored, InvalidPose, "reflection"),
        ("poses", np.full((2, 4, 4), nan), InvalidPose, "finite"),
        ("fov", 0.0, InvalidInput, "field of view"),
        ("fov", nan, InvalidInput, "field of view"),
        ("aspect", inf, InvalidInput, "aspect"),
        ("begin", -1, InvalidInput, "latent frame from 0"),
        ("begin", 1 << 63, InvalidInput, "latent frame from 0"),
        ("specs", "x" * 32, InvalidInput, "spec digest"),
        ("keys", ChunkKey(b"short", 1), InvalidInput, "16 bytes"),
        ("keys", ChunkKey(b"a" * 16, 1 << 63), InvalidInput, "chunk's number"),
        ("depth", np.full((2, 3, 3), -1.0), InvalidInput, "negative values or NaN"),
        ("descriptor", np.array([1, nan, 2]), InvalidInput, "descriptor is finite"),
    ],
)
def test_a_batch_names_the_first_wrong_chunk_with_the_error_of_one(column, value, error, words):
    good = Batch.of(metas(A, *range(6)))
    columns = {f.name: getattr(good, f.name) for f in fields(good) if f.init}
    columns |= {"depth": np.ones((6, 2, 3, 3)), "descriptor": np.ones((6, 3))}
    Batch(**columns)
    wrong = [*columns[column]]
    wrong[3] = wrong[5] = value
    with pytest.raises(error, match=words) as caught:
        Batch(**(columns | {column: wrong}))
    assert type(caught.value) is error
    assert "00/3: " in str(caught.value) or f"{A.key(3)}: " in str(caught.value) or column == "keys"


def test_columns_of_other_lengths_and_shapes_are_refused():
    good = Batch.of(metas(A, 0, 1))
    columns = {f.name: getattr(good, f.name) for f in fields(good) if f.init}
    for column, value, words in [
        ("specs", [SPEC], "1 spec digests"),
        ("fov", np.ones(3), r"fov of 2 chunks has shape \[n\], got \(3,\)"),
        ("begin", 5, "begin of 2 chunks"),
        ("poses", np.eye(4), "poses of 2 chunks"),
        ("poses", np.empty((2, 0, 4, 4)), "at least one frame"),
        ("depth", np.ones((2, 3, 4, 4)), r"depth of 2 chunks has shape \[n, frames, h, w\]"),
        ("descriptor", np.ones(2), "descriptor of 2 chunks"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            Batch(**(columns | {column: value}))
    with pytest.raises(InvalidInput, match="1 has 3 frames, those before it 2"):
        Batch.of([meta(A, 0), meta(A, 1, frames=3)])
    with pytest.raises(InvalidInput, match="2 has a descriptor of shape"):
        Batch.of([meta(A, n, descriptor=np.ones(n + 1, np.float32)) for n in (1, 2)])


# Adding many


def test_adding_many_counts_what_is_new():
    index = ScanIndex()
    assert index.add_many(Batch.of(metas(A, 0, 1, 2) + metas(B, 9) + metas(A, 3))) == 5
    assert index.add_many(Batch.of(metas(A, 2, 5, 4, 5) + metas(B, 8))) == 3
    assert numbers(index, A) == [0, 1, 2, 3, 4, 5]
    assert numbers(index, B) == [8, 9]
    assert (len(index), index.held(A.head), index.held(B.head), index.held(bytes(16))) == (8, 6, 2, 0)
    assert set(index.branches()) == {A.head, B.head}
    assert index.nbytes == index.branch_bytes(A.head) + index.branch_bytes(B.head)


@pytest.mark.parametrize(
    ("refused", "error", "words"),
    [
        (meta(A, 1, seed=9), AlreadyExists, "another pose or lens"),
        (meta(A, 4, seed=9), AlreadyExists, "another pose or lens"),
        (meta(A, 1, aspect=1.0), AlreadyExists, "another pose or lens"),
        (meta(A, 6, spec=OTHER), SpecMismatch, f"is of spec {OTHER}, others of its branch of {SPEC}"),
        (meta(A, 6, depth=np.ones((2, 2, 2), np.float32)), InvalidInput, "another shape than its branch"),
    ],
)
@pytest.mark.parametrize("after", [(), (7, 3)])
def test_chunks_before_one_that_is_refused_are_findable_and_those_after_it_are_not(refused, error, words, after):
    index = ScanIndex()
    index.add_many(Batch.of([meta(A, 0), meta(A, 1), meta(A, 2, depth=np.ones((2, 3, 3), np.float32))]))
    with pytest.raises(error, match=words) as caught:
        index.add_many(Batch.of([*metas(B, 0), *metas(A, 5, 4), refused, *metas(A, *after)]))
    assert str(refused.key) in str(caught.value)
    assert numbers(index, A) == [0, 1, 2, 4, 5]
    assert numbers(index, B) == [0]
    assert len(index) == 6


def test_what_a_chunk_lacks_may_have_any_shape_in_its_batch():
    index, depth = ScanIndex(), np.ones((2, 3, 3), np.float32)
    index.add(meta(A, 0, depth=depth))
    assert index.add_many(Batch.of([meta(A, 1), meta(B, 0, depth=depth[:, :2, :2])])) == 2
    assert np.isnan(index.candidates(A).depth).all((1, 2, 3)).tolist() == [False, True]
    assert index.candidates(B).depth.shape == (1, 2, 2, 2)
    both = meta(A, 2, spec=OTHER, depth=depth[:, :2, :2])
    with pytest.raises(SpecMismatch):
        index.add(both)


def test_another_number_of_frames_is_refused_until_the_branch_is_empty():
    index, longer = ScanIndex(), Batch.of([meta(A, 1, frames=3)])
    index.add_many(Batch.of(metas(A, 0)))
    with pytest.raises(InvalidInput, match="3 frames, others of its branch 2"):
        index.add_many(longer)
    assert index.remove(A.key(0))
    assert index.add_many(longer) == 1


def test_depth_maps_and_descriptors_come_back_and_are_unknown_elsewhere():
    index, depth = ScanIndex(), np.full((2, 2, 3), inf, np.float32)
    index.add_many(Batch.of(metas(A, 0, 1)))
    before = index.candidates(A)
    index.add(meta(A, 2, depth=depth))
    index.add(meta(A, 3, descriptor=np.arange(4, dtype=np.float32)))
    child = A.fork(4)
    index.add_many(Batch.of(metas(child, 4)))
    found = index.candidates(child, pending=[meta(child, 5, depth=depth)])
    assert found is not None
    assert found.depth is not None
    assert before.extras == (None, None)
    assert np.isnan(found.depth).all((1, 2, 3)).tolist() == [True, True, False, True, True, False]
    assert np.array_equal(found.depth[2], depth)
    assert np.isnan(found.descriptor).all(1).tolist() == [True] * 3 + [False] + [True] * 2
    assert index.candidates(child, exclude=range(4)).extras == (None, None)


# Forgetting, and what is missing


def test_a_branch_is_dropped_as_one():
    index = ScanIndex()
    index.add_many(Batch.of(metas(A, 0, 1, 2) + metas(B, 0)))
    assert index.drop_branch(A.head) == 3
    assert index.drop_branch(A.head) == 0
    assert (index.branches(), len(index), index.nbytes) == ([B.head], 1, index.branch_bytes(B.head))
    assert index.remove_many([B.key(0), B.key(0), B.key(1), A.key(0)]) == 1
    assert (index.branches(), len(index), index.nbytes) == ([], 0, 0)


def test_what_is_missing_is_told_by_branch_in_runs():
    index, child = ScanIndex(), A.fork(4, b"c" * 16)
    index.add_many(Batch.of(metas(A, 1, 2, 6) + metas(child, 4, 5, 8)))
    assert index.missing(child, 10) == [
        Gap(A.head, 0, 1),
        Gap(A.head, 3, 4),
        Gap(child.head, 6, 8),
        Gap(child.head, 9, 10),
    ]
    assert index.missing(child, 3) == [Gap(A.head, 0, 1)]
    assert index.missing(A, 0) == []
    assert index.missing(B, 1 << 62) == [Gap(B.head, 0, 1 << 62)]


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(0, 70), st.integers(0, 50))
def test_missing_and_held_are_together_what_was_published(held, removed, published, at):
    index, child = ScanIndex(), A.fork(at, b"c" * 16)
    index.add_many(Batch.of(metas(child, *sorted(held))))
    index.remove_many([child.key(number) for number in removed])
    gaps = index.missing(child, published)
    told = [ChunkKey(gap.branch, number) for gap in gaps for number in range(gap.begin, gap.end)]
    assert told == [child.key(n) for n in range(published) if n not in held - removed]
    assert all(a.branch != b.branch or a.end < b.begin for a, b in pairwise(gaps))


# While it changes


def batches(index: ScanIndex, lineage: Lineage, adding: bool, chosen: list[int]) -> None:
    if adding:
        index.add_many(Batch.of(metas(lineage, *chosen)))
    else:
        index.remove_many([lineage.key(number) for number in chosen])


changes = st.tuples(
    st.sampled_from([True, True, False]),
    st.lists(st.integers(0, 90), max_size=50) | st.builds(lambda n, m: [*range(n, n + m)], *[st.integers(0, 60)] * 2),
)


@settings(max_examples=40)
@given(st.lists(changes, min_size=1, max_size=8), st.sets(st.integers(0, 90), max_size=4), st.integers(1, 60))
def test_what_a_reader_was_given_stays_as_it_was(steps, exclude, at):
    """And is what the world held then."""
    index, child, given = ScanIndex(), A.fork(at, b"c" * 16), []
    held: set[int] = set()
    for adding, chosen in steps:
        batches(index, child, adding, chosen)
        held = held | {*chosen} if adding else held - {*chosen}
        pending = metas(child, 20, 91, 70)
        now = index.candidates(child, exclude, pending)
        fresh = metas(child, *sorted((held | {20, 70, 91}) - exclude))
        assert content(now) == content(Batch.of(fresh).views() if fresh else None)
        given.append((index.candidates(child, exclude, pending), content(now)))
        assert len(index) == len(held)
    index.add_many(Batch.of(metas(child, *range(200))))
    index.remove_many([child.key(number) for number in range(0, 200, 2)])
    for snapshot, then in given:
        assert content(snapshot) == then


def test_chunks_that_were_taken_away_are_packed_and_room_is_given_back():
    index = ScanIndex()
    index.add_many(Batch.of(metas(A, *range(100))))
    full = index.nbytes
    index.remove_many([A.key(number) for number in range(90)])
    assert index.nbytes < full / 3
    assert numbers(index, A) == [*range(90, 100)]


def test_many_exclusions_leave_the_others_in_order():
    index = ScanIndex()
    index.add_many(Batch.of(metas(A, *range(400))))
    few, many = [0, 7, 8, 399], [*range(0, 400, 3)]
    for exclude in (few, many):
        assert numbers(index, A, exclude) == [n for n in range(400) if n not in exclude]
        pending = index.candidates(A, exclude, metas(A, 5, 500))
        assert pending.index.tolist() == [n for n in [*range(400), 500] if n not in exclude]


# Candidates of several parts


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.data())
def test_parts_joined_are_the_whole(sizes, data):
    whole = Batch.of(metas(A, *range(sum(sizes)))).views()
    ends = np.cumsum([0, *sizes]).tolist()
    parts = [whole.take(slice(a, b)) for a, b in pairwise(ends)]
    chosen = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9)), np.int64)
    for rows in (chosen, slice(1, len(whole) - 1), whole.index % 2 == 0):
        assert content(join(parts).take(rows)) == content(whole.take(rows))
    assert content(join(parts).middle()) == content(whole.middle())
    assert content(replace(join(parts), fov=whole.fov + 1)) == content(replace(whole, fov=whole.fov + 1))
    assert len(join(parts)) == len(whole)
    assert join(parts).columns[0].tolist() == whole.index.tolist()


def test_a_reader_in_another_thread_sees_whole_chunks_only():
    index, whole, done = ScanIndex(), Batch.of(metas(A, *range(60))), Event()
    reads: list[int] = []

    def read() -> None:
        views = whole.views()
        while not done.is_set():
            if (found := index.candidates(A)) is not None:
                reads.append(len(found))
                assert content(found) == content(views.take(found.index))

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            for _ in range(2):
                for each in metas(A, *range(0, 60, 2), *range(1, 60, 2)):
                    index.add(each)
                index.remove_many([A.key(number) for number in range(1, 60, 3)])
        finally:
            done.set()
        reading.result()
    assert len(set(reads)) > 1
