"""What every pose index must do. The oracle works number by number and calls nothing of what is tested."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import acos, exp, sqrt, tan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldkv.chunk import ChunkKey, Lineage, Meta
from worldkv.errors import AlreadyExists, InvalidInput, SpecMismatch
from worldkv.index import Hit, PoseIndex, ScanIndex
from worldkv.pose import Matrix, camera
from worldkv.select import Coverage, Fov, Latest, Oldest, Pose, Query, Selector

INDEXES = [ScanIndex]
FOV, ASPECT, RANGE = 1.1, 0.75, 8.0
SELECTORS: dict[str, Selector] = {
    "pose": Pose(),
    "fov": Fov(),
    "coverage": Coverage(threshold=0.02, fill=None),
    "filled": Coverage(),
}


@pytest.fixture(params=INDEXES)
def index(request):
    return request.param()


def frames(rng: np.random.Generator, count: int = 3) -> Matrix:
    """A camera that turns and walks, anywhere in a world of 10 units."""
    (x, y, z), yaw, pitch = rng.uniform(-5, 5, 3), rng.uniform(0, 360), rng.uniform(-15, 15)
    return np.stack([camera(x + 0.2 * i, y, z, yaw + 8 * i, pitch) for i in range(count)])


@cache
def meta(key: ChunkKey, seed: int = 0, count: int = 3) -> Meta:
    rng = np.random.default_rng([seed, key.index, *key.branch])
    return Meta(key, "0" * 32, 3 * key.index, frames(rng, count), float(rng.uniform(0.8, 1.5)), ASPECT)


def query(seed: int = 0, visible: int = 0) -> Query:
    rng = np.random.default_rng(seed)
    return Query(frames(rng, 2), FOV, ASPECT, RANGE, frames(rng, visible) if visible else np.empty((0, 4, 4)))


def filled(index: PoseIndex, lineage: Lineage, length: int) -> list[Meta]:
    metas = [meta(key) for key in lineage.keys(length)]
    for each in metas:
        index.add(each)
    return metas


def keys(hits: list[Hit]) -> list[ChunkKey]:
    return [hit.key for hit in hits]


# The oracle: scalars and loops, from the formulas


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def mean_pose(poses: Matrix) -> tuple[list[float], list[float]]:
    mean = [[sum(float(p[i][j]) for p in poses) / len(poses) for j in range(4)] for i in range(3)]
    return [row[3] for row in mean], [x for row in mean for x in row[:3]]


def oracle_pose(asked: Query, metas: list[Meta]) -> list[float]:
    centre, turn = mean_pose(asked.poses)
    terms = []
    for each in metas:
        c, r = mean_pose(each.poses)
        cosine = min(1, max(-1, (dot(r, turn) - 1) / 2))
        terms.append((dot(minus(c, centre), minus(c, centre)), acos(cosine)))
    worst = [max(t[i] for t in terms) or 1 for i in range(2)]
    return [1 - t[0] / worst[0] / 2 - t[1] / worst[1] / 2 for t in terms]


def grid(asked: Query) -> Iterator[tuple[list[float], list[float]]]:
    """(source, point) of each point of the coming view."""
    for pose in asked.poses.tolist():
        source = [row[3] for row in pose[:3]]
        for a in range(6):
            for b in range(2):
                for c in range(4):
                    z = (c + 0.5) / 4 * RANGE
                    u, v = ((a + 0.5) / 3 - 1) * tan(FOV / 2) * z, ((b + 0.5) - 1) * tan(FOV / 2) * ASPECT * z
                    yield source, [s + dot(row[:3], (u, v, z)) for s, row in zip(source, pose[:3], strict=True)]


def sees(pose: list[list[float]], fov: float, point: list[float]) -> bool:
    away = minus(point, [row[3] for row in pose[:3]])
    x, y, z = (dot([row[i] for row in pose[:3]], away) for i in range(3))
    return 0 < z <= RANGE and abs(x) <= z * tan(fov / 2) and abs(y) <= z * tan(fov / 2) * ASPECT


def near(poses: Matrix, fov: float, source: list[float], point: list[float]) -> float:
    if not any(sees(pose, fov, point) for pose in poses.tolist()):
        return 0.0
    centre, _ = mean_pose(poses)
    line, to = minus(point, source), minus(centre, source)
    along = min(1, max(0, dot(line, to) / dot(line, line)))
    off = minus(to, [along * x for x in line])
    away = sqrt(dot(off, off)) / RANGE
    return (exp(-away) + exp(-8 * away)) / 2


def oracle_fov(asked: Query, metas: list[Meta]) -> list[float]:
    points = [p for _, p in grid(asked)]
    return [sum(any(sees(f, m.fov, p) for f in m.poses.tolist()) for p in points) / len(points) for m in metas]


def oracle_coverage(
    asked: Query, metas: list[Meta], k: int, threshold: float, fill: float | None, again: float = 0.3
) -> list[tuple[int, float]]:
    """(chunk number, gain) of each choice, in order."""
    lines = list(grid(asked))
    show = [[near(m.poses, m.fov, *line) for line in lines] for m in metas]
    missing = [1 - max((near(v[None], FOV, *line) for v in asked.visible), default=0) for line in lines]
    score = [sum(s) / len(lines) for s in show]
    chosen: list[tuple[int, float]] = []

    def gain(i: int) -> float:
        return dot(show[i], missing) / len(lines)

    def worth(i: int) -> bool:
        return gain(i) >= threshold > 0 or (fill is not None and score[i] >= fill)

    while len(chosen) < k:
        left = [i for i in range(len(metas)) if i not in [j for j, _ in chosen] and worth(i)]
        if not left:
            break
        best = max(left, key=lambda i: gain(i) + again * score[i])
        chosen.append((best, gain(best)))
        missing = [m * (1 - s) for m, s in zip(missing, show[best], strict=True)]
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_nearest_agrees_with_the_oracle(index, seed):
    lineage = Lineage.begin(bytes([seed]) * 16)
    metas, asked = filled(index, lineage, 12), query(seed, visible=seed % 3)
    for selector, scores in ((Pose(), oracle_pose(asked, metas)), (Fov(), oracle_fov(asked, metas))):
        best = sorted(range(len(metas)), key=lambda i: -scores[i])[:4]
        best = [i for i in best if scores[i] > 0]
        hits = index.nearest(asked, selector, 4, lineage)
        assert keys(hits) == [lineage.key(i) for i in best]
        assert [h.score for h in hits] == pytest.approx([scores[i] for i in best], abs=1e-7)
    for threshold, fill in ((0.02, None), (0.04, 0.3)):
        chosen = oracle_coverage(asked, metas, 4, threshold, fill)
        hits = index.nearest(asked, Coverage(threshold, fill), 4, lineage)
        assert keys(hits) == [lineage.key(i) for i, _ in chosen]
        assert [h.gain for h in hits] == pytest.approx([gain for _, gain in chosen], abs=1e-7)


# Adding and removing


def test_adding_again_changes_nothing(index):
    lineage = Lineage.begin()
    first = meta(lineage.key(0))
    assert index.add(first)
    assert not index.add(first)
    assert not index.add(meta(lineage.key(0)))
    assert len(index) == 1


def test_another_pose_or_lens_under_a_known_key_is_refused(index):
    lineage = Lineage.begin()
    first = meta(lineage.key(0))
    index.add(first)
    for other in (meta(first.key, seed=1), replace(first, fov=1.0), replace(first, aspect=1.0)):
        with pytest.raises(AlreadyExists, match="another pose or lens"):
            index.add(other)
    assert len(index) == 1


def test_a_chunk_of_another_model_is_refused_in_a_branch_and_welcome_in_another(index):
    lineage = Lineage.begin()
    index.add(meta(lineage.key(0)))
    with pytest.raises(SpecMismatch, match=f"is of spec {'1' * 32}, others of its branch of {'0' * 32}"):
        index.add(replace(meta(lineage.key(1)), spec="1" * 32))
    assert index.add(replace(meta(lineage.fork(1).key(1)), spec="1" * 32))
    assert len(index) == 2


def test_what_was_removed_is_not_found_until_it_is_added_again(index):
    lineage = Lineage.begin()
    metas = filled(index, lineage, 5)
    assert index.remove(metas[3].key)
    assert not index.remove(metas[3].key)
    assert not index.remove(ChunkKey(bytes(16), 3))
    assert keys(index.nearest(query(), Oldest(), 9, lineage)) == [lineage.key(i) for i in (0, 1, 2, 4)]
    assert index.add(meta(metas[3].key, seed=1))
    assert keys(index.nearest(query(), Oldest(), 9, lineage)) == [lineage.key(i) for i in range(5)]


def test_an_emptied_branch_may_be_filled_again_with_other_chunks(index):
    lineage = Lineage.begin()
    index.add(meta(lineage.key(0)))
    with pytest.raises(InvalidInput, match="1 frames, others of its branch 3"):
        index.add(meta(lineage.key(1), count=1))
    index.remove(lineage.key(0))
    assert len(index) == 0
    assert index.nearest(query(), Pose(), 3, lineage) == []
    assert index.add(meta(lineage.key(1), count=1))


def test_a_branch_that_lost_most_of_its_chunks_still_finds_the_others(index):
    lineage = Lineage.begin()
    metas = filled(index, lineage, 200)
    kept = metas[5::7]
    for each in metas:
        if each not in kept:
            index.remove(each.key)
    fresh = type(index)()
    for each in kept:
        fresh.add(each)
    for selector in (Oldest(), Pose(), Coverage()):
        assert index.nearest(query(), selector, 99, lineage) == fresh.nearest(query(), selector, 99, lineage)
    for each in metas:
        assert index.add(each) == (each not in kept)
    assert keys(index.nearest(query(), Oldest(), 999, lineage)) == [each.key for each in metas]


@settings(max_examples=20)
@given(st.data())
@pytest.mark.parametrize("make", INDEXES)
def test_any_history_leaves_what_a_dictionary_would_hold(make, data):
    index, held = make(), {}
    branches = [Lineage.begin(bytes([b]) * 16) for b in (1, 2)]
    steps = st.tuples(
        st.booleans(), st.sampled_from(branches), *[st.integers(0, 150)] * 2, st.sampled_from([-3, 1, 1, 2])
    )
    for adding, lineage, begin, end, step in data.draw(st.lists(steps, max_size=8)):
        for i in range(begin, end)[::step]:
            key = lineage.key(i)
            if adding:
                assert index.add(meta(key)) == (key not in held)
                held[key] = meta(key)
            else:
                assert index.remove(key) == (held.pop(key, None) is not None)
    assert len(index) == len(held)
    fresh = make()
    for key in sorted(held):
        fresh.add(held[key])
    for lineage in branches:
        own = sorted(key for key in held if lineage.covers(key))
        assert keys(index.nearest(query(), Oldest(), 1000, lineage)) == own
        for selector in (Pose(), Coverage()):
            assert index.nearest(query(), selector, 5, lineage) == fresh.nearest(query(), selector, 5, lineage)


# Lineages, exclusions, pending chunks


def test_a_fork_sees_its_parents_chunks_and_not_its_siblings(index):
    parent = Lineage.begin()
    filled(index, parent, 10)
    left, right = parent.fork(6), parent.fork(4)
    for child, length in ((left, 9), (right, 7)):
        for i in range(child.start, length):
            index.add(meta(child.key(i)))
    for lineage, length in ((parent, 10), (left, 9), (right, 7)):
        assert keys(index.nearest(query(), Oldest(), 99, lineage)) == list(lineage.keys(length))
    index.add(meta(ChunkKey(left.head, 2)))  # before the fork: no chunk of that world
    assert keys(index.nearest(query(), Oldest(), 99, left)) == list(left.keys(9))
    grandchild = left.fork(8)
    assert keys(index.nearest(query(), Latest(), 2, grandchild)) == [left.key(7), left.key(6)]
    assert keys(index.nearest(query(), Latest(), 99, parent.fork(0))) == []
    assert len(index) == 10 + 3 + 3 + 1


@settings(max_examples=30)
@given(st.sets(st.integers(0, 40)), st.sampled_from(sorted(SELECTORS)), st.integers(0, 5), st.integers(0, 3))
@pytest.mark.parametrize("make", INDEXES)
def test_exclusions_are_never_returned_nor_compared_with(make, exclude, name, k, spares):
    index, other, lineage = make(), make(), Lineage.begin(b"e" * 16).fork(9, b"f" * 16)
    for each in filled(index, lineage, 20):
        if each.key.index not in exclude:
            other.add(each)
    hits = index.nearest(query(), SELECTORS[name], k, lineage, exclude, spares)
    assert hits == other.nearest(query(), SELECTORS[name], k, lineage, spares=spares)
    assert not exclude & {hit.key.index for hit in hits}
    assert len(hits) <= (k + spares if k else 0)


@pytest.mark.parametrize("name", SELECTORS)
def test_pending_chunks_are_ranked_in_one_list_with_all_others(index, name):
    whole, part, lineage = index, type(index)(), Lineage.begin()
    metas = filled(whole, lineage, 12)
    for each in metas[:4] + metas[6:10]:
        part.add(each)
    foreign = meta(Lineage.begin().key(3))
    pending = [metas[11], metas[3], metas[5], metas[4], metas[4], metas[10], foreign]
    asked = whole.nearest(query(1), SELECTORS[name], 3, lineage, {5}, 2)
    assert asked == part.nearest(query(1), SELECTORS[name], 3, lineage, {5}, 2, pending)
    assert asked == type(index)().nearest(query(1), SELECTORS[name], 3, lineage, {5}, 2, metas)
    assert len(part) == 8


def test_counts_must_not_be_negative(index):
    for k, spares in ((-1, 0), (1, -1)):
        with pytest.raises(InvalidInput, match="must not be negative"):
            index.nearest(query(), Pose(), k, Lineage.begin(), spares=spares)


def test_least_useful_names_chunks_of_the_lineage():
    index, parent = ScanIndex(), Lineage.begin()
    still = [replace(meta(key), poses=np.stack([np.eye(4)] * 3), fov=FOV) for key in parent.keys(4)]
    child = parent.fork(3)
    turned = [replace(meta(child.key(3)), poses=np.stack([camera(0, 0, 0, 180)] * 3))]
    for each in still + turned:
        index.add(each)
    assert index.least_useful(child, 2, RANGE) == [child.key(2), child.key(1)]
    assert index.least_useful(child, 9, RANGE, protect={0, 2}, exclude={1}) == [child.key(3)]
    assert index.least_useful(Lineage.begin(), 9, RANGE) == []
