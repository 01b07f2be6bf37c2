"""The nouns: specs and their digests, lineages, and what a chunk may hold."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as some
from tests.golden import make
from worldkv.chunk import (
    Chunk,
    ChunkKey,
    KVPart,
    Lineage,
    Meta,
    ModelSpec,
    Part,
    Segment,
    check_key,
    new_branch,
)
from worldkv.errors import InvalidInput, InvalidPose, NonFinite, SpecMismatch

SPEC = ModelSpec(
    model="toy",
    weights="ab" * 16,
    vae="",
    layers=2,
    heads=3,
    head_dim=16,
    dtype="float16",
    frame_tokens=5,
    latent=(3, 4, 4),
    frames=2,
    rope=(4, 2, 2),
    theta=10_000,
    kv_sets=1,
    view_range=8,
    camera_in_keys="none",
)
OTHER: dict[str, Any] = {
    "model": "toys",
    "weights": "cd" * 16,
    "vae": "ef" * 16,
    "layers": 3,
    "heads": 2,
    "head_dim": 32,
    "dtype": "bfloat16",
    "frame_tokens": 6,
    "latent": (3, 4, 5),
    "frames": 3,
    "rope": (2, 4, 2),
    "theta": 10_001.0,
    "kv_sets": 2,
    "view_range": 9.0,
    "camera_in_keys": "world",
}


def test_the_digest_tells_every_field():
    assert OTHER.keys() == {field.name for field in fields(ModelSpec)}
    digests = {replace(SPEC, **{name: value}).digest for name, value in OTHER.items()}
    assert len(digests | {SPEC.digest}) == len(OTHER) + 1


def test_the_digest_is_the_same_for_ever():
    assert SPEC.digest == "b08a48dcb3bba71a7df0fac7e1d1fa67"


@given(some.specs())
def test_equal_specs_have_equal_digests(spec):
    assert replace(spec) == spec
    assert replace(spec).digest == spec.digest
    assert len(spec.digest) == 32
    spec.require(spec.digest)


def test_whole_numbers_and_lists_make_the_same_spec():
    again = replace(SPEC, theta=10_000.0, view_range=8.0, latent=[3, 4, 4], rope=[4, 2, 2])  # type: ignore[arg-type]
    assert again == SPEC
    assert again.digest == SPEC.digest


def test_a_chunk_of_another_model_is_a_mismatch():
    with pytest.raises(SpecMismatch, match=f"{'0' * 32} met model toy of spec {SPEC.digest}"):
        SPEC.require("0" * 32)


def test_raw_bytes_count_keys_and_values_of_all_layers():
    assert SPEC.raw_bytes == 2 * 2 * (2 * 5) * 3 * 16 * 2
    assert replace(SPEC, dtype="float32", kv_sets=2).raw_bytes == 4 * SPEC.raw_bytes
    assert replace(SPEC, layers=0).raw_bytes == 0


@pytest.mark.parametrize(
    ("name", "value", "because"),
    [
        ("layers", -1, "layers must not be negative, got -1"),
        ("heads", 0, "heads must be at least 1, got 0"),
        ("head_dim", 0, "head_dim must be at least 1"),
        ("head_dim", 8, "need more channels than head_dim 8"),
        ("frame_tokens", 0, "frame_tokens must be at least 1"),
        ("frames", 0, "frames must be at least 1"),
        ("dtype", "int8", "dtype is one of .*, got 'int8'"),
        ("latent", (3, 4), "latent is"),
        ("latent", (3, 0, 4), r"got \(3, 0, 4\)"),
        ("rope", (4, 4), "rope is"),
        ("rope", (4, -1, 4), "none negative"),
        ("theta", 0, "theta must be a positive number, got 0"),
        ("theta", float("nan"), "theta"),
        ("kv_sets", 3, "kv_sets is 1, or 2 .*, got 3"),
        ("view_range", float("inf"), "view_range"),
        ("camera_in_keys", "local", "got 'local'"),
    ],
)
def test_a_spec_that_no_model_has_is_refused_by_name(name, value, because):
    with pytest.raises(InvalidInput, match=because):
        replace(SPEC, **{name: value})


@given(some.lineages(), st.integers(0, 40))
def test_keys_have_no_gaps_and_are_covered(lineage, length):
    keys = list(lineage.keys(length))
    assert [key.index for key in keys] == list(range(length))
    assert all(lineage.covers(key) for key in keys)
    assert all(key.branch == lineage.head for key in keys[lineage.start :])
    assert all(key.branch != lineage.head for key in keys[: lineage.start])


@given(some.lineages(), st.integers(0, 40))
def test_a_fork_shares_exactly_what_was_before_it(parent, at):
    child = parent.fork(at)
    assert (child.start, child.root if at else child.head) == (at, parent.root if at else child.root)
    for own, shared in zip(child.keys(60), parent.keys(60), strict=True):
        assert (own == shared) == (own.index < at)
        assert child.covers(shared) == (shared.index < at)
        assert parent.covers(own) == (own.index < at)


@given(some.lineages(), st.integers(0, 40), st.integers(0, 40))
def test_forks_of_one_world_do_not_see_each_other(world, a, b):
    one, two = world.fork(a), world.fork(b)
    for key in list(one.keys(60))[a:]:
        assert not two.covers(key)


@given(some.lineages(), st.integers(0, 20), st.integers(0, 20))
def test_late_writes_of_an_abandoned_branch_are_not_covered(world, kept, late):
    survivor = world.fork(world.start + kept)
    assert not survivor.covers(ChunkKey(world.head, world.start + kept + late))
    assert all(survivor.covers(ChunkKey(world.head, world.start + n)) for n in range(kept))


def test_a_branch_is_covered_only_where_it_was_read():
    world = Lineage.begin(b"a" * 16).fork(5, b"b" * 16).fork(3, b"c" * 16).fork(9, b"d" * 16)
    assert world.parts == ((b"a" * 16, 3), (b"c" * 16, 9), (b"d" * 16, None))
    assert (world.root, world.head, world.start) == (b"a" * 16, b"d" * 16, 9)
    assert not world.covers(ChunkKey(b"b" * 16, 5))
    assert not world.covers(ChunkKey(b"d" * 16, -1))


@pytest.mark.parametrize(
    ("parts", "because"),
    [
        ((), "ends with the open branch"),
        (((b"a" * 16, 3),), "ends with the open branch"),
        (((b"a" * 16, None), (b"b" * 16, None)), "must rise from 1"),
        (((b"a" * 16, 0), (b"b" * 16, None)), r"must rise from 1, got \[0\]"),
        (((b"a" * 16, 4), (b"b" * 16, 4), (b"c" * 16, None)), "must rise"),
        (((b"short", None),), "16 bytes"),
        (((b"a" * 16, 3), (b"a" * 16, None)), "names one twice"),
    ],
)
def test_a_lineage_that_contradicts_itself_is_refused(parts, because):
    with pytest.raises(InvalidInput, match=because):
        Lineage(parts)


def test_chunks_are_numbered_from_zero():
    with pytest.raises(InvalidInput, match="got -1"):
        Lineage.begin().fork(-1)
    with pytest.raises(InvalidInput, match="got -1"):
        Lineage.begin().key(-1)
    for wrong in (ChunkKey(bytes(15), 0), ChunkKey(bytes(16), -1), ChunkKey(bytes(16), 2**63)):
        with pytest.raises(InvalidInput):
            check_key(wrong)


def test_branches_differ():
    assert len({new_branch() for _ in range(100)}) == 100


def test_a_key_reads_as_branch_and_number():
    assert str(ChunkKey(b"\xab" * 16, 7)) == "ab" * 16 + "/7"


@pytest.mark.parametrize(
    ("name", "value", "error", "because"),
    [
        ("key", ChunkKey(b"short", 1), InvalidInput, "16 bytes"),
        ("key", ChunkKey(bytes(16), -1), InvalidInput, "got -1"),
        ("spec", "toy", InvalidInput, "got 'toy'"),
        ("begin", -3, InvalidInput, "got -3"),
        ("poses", np.eye(4), InvalidInput, r"got \(4, 4\)"),
        ("poses", np.empty((0, 4, 4)), InvalidInput, "at least one frame"),
        ("poses", 2 * np.ones((2, 4, 4)), InvalidPose, "last row"),
        ("fov", 0, InvalidInput, "got 0"),
        ("fov", 3.2, InvalidInput, "got 3.2"),
        ("aspect", float("nan"), InvalidInput, "got nan"),
        ("recalled", (ChunkKey(b"short", 1),), InvalidInput, "16 bytes"),
        ("descriptor", np.zeros(3), InvalidInput, "got float64"),
        ("descriptor", np.full(3, np.nan, np.float32), InvalidInput, "finite"),
        ("depth", np.zeros((3, 2, 2), np.float32), InvalidInput, r"\[2, height, width\], got float32 \(3, 2, 2\)"),
        ("depth", np.zeros((2, 2, 2)), InvalidInput, "float64"),
        ("depth", np.full((2, 1, 1), -1, np.float32), InvalidInput, "negative"),
    ],
)
def test_meta_that_no_chunk_has_is_refused_by_name(name, value, error, because):
    with pytest.raises(error, match=because):
        replace(make.part().meta, **{name: value})


def test_meta_keeps_poses_of_its_own():
    poses = np.stack([np.eye(4)] * 2)
    meta = replace(make.part().meta, poses=poses)
    poses[0, 0, 3] = 9
    assert meta.poses[0, 0, 3] == 0
    assert (meta.begin, meta.end) == (14, 16)


@pytest.mark.parametrize(
    ("latents", "error", "because"),
    [
        (np.zeros((2, 1, 1, 1), np.float32), InvalidInput, "got float32"),
        (np.zeros((2, 1, 1), np.float16), InvalidInput, r"\(2, 1, 1\)"),
        (np.zeros((3, 1, 1, 1), np.float16), InvalidInput, "3 latent frames but 2 poses"),
        (np.full((2, 1, 1, 1), np.inf, np.float16), NonFinite, "not finite"),
    ],
)
def test_latents_that_no_chunk_has_are_refused(latents, error, because):
    with pytest.raises(error, match=because):
        Part(make.part().meta, latents)


def test_conditioning_is_bytes():
    with pytest.raises(InvalidInput, match="got str"):
        Part(make.part().meta, make.part().latents, "forward")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "because"),
    [
        ("kind", "q", "got 'q'"),
        ("layer", -1, "got -1, 0"),
        ("head_group", -2, "got 0, -2"),
        ("dtype", "float64", "got 'float64'"),
        ("shape", (1, 2), r"got \(1, 2\)"),
        ("shape", (1, -2, 3), r"got \(1, -2, 3\)"),
        ("codec", "", "got ''"),
        ("codec", "x" * 65, "1 to 64"),
        ("data", np.zeros(3, np.int8), "got int8"),
        ("data", np.zeros((3, 2), np.uint8), r"got uint8 \(3, 2\)"),
        ("data", np.zeros(6, np.uint8)[::2], "contiguous"),
    ],
)
def test_a_segment_that_cannot_be_is_refused_by_name(name, value, because):
    with pytest.raises(InvalidInput, match=because):
        replace(make.kv().segments[0], **{name: value})


def test_a_chunk_holds_one_segment_of_each_kind_layer_and_head_group():
    segment: Segment = make.kv().segments[0]
    with pytest.raises(InvalidInput, match="k of layer 0 twice"):
        KVPart((segment, segment))
    assert len(KVPart((segment, replace(segment, head_group=1))).segments) == 2


def test_sizes_and_names_come_from_the_parts():
    part, kv = make.part(), make.kv()
    chunk = Chunk(part, kv)
    assert (chunk.key, chunk.meta) == (part.meta.key, part.meta)
    assert part.nbytes == 24 * 2 + len("turn right")
    assert kv.nbytes == 16 + 5
    assert replace(kv, reencoded=False).as_reencoded().reencoded
    assert isinstance(chunk.meta, Meta)
