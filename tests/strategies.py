"""Hypothesis strategies for the nouns: specs, poses, keys, lineages, immutable parts and KV parts. All are small.

Importing this sets how long properties are tried: 50 examples, and no deadline for one, for machines are shared.
"""

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from worldkv.chunk import BRANCH_BYTES, DTYPES, ChunkKey, KVPart, Lineage, Meta, ModelSpec, Part, Segment
from worldkv.pose import Matrix

settings.register_profile("worldkv", max_examples=50, deadline=None)
settings.load_profile("worldkv")

branches = st.binary(min_size=BRANCH_BYTES, max_size=BRANCH_BYTES)
chunk_keys = st.builds(ChunkKey, branches, st.integers(0, 1000) | st.integers(0, 2**63 - 1))
digests = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
_seeds = st.integers(0, 2**32 - 1)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    rope = draw(st.tuples(*[st.integers(0, 8)] * 3))
    return ModelSpec(
        model=draw(names),
        weights=draw(digests),
        vae=draw(digests),
        layers=draw(st.integers(0, 4)),
        heads=draw(st.integers(1, 4)),
        head_dim=draw(st.integers(max(1, 2 * sum(rope)), 64)),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        frame_tokens=draw(st.integers(1, 64)),
        latent=draw(st.tuples(*[st.integers(1, 16)] * 3)),
        frames=draw(st.integers(1, 4)),
        rope=rope,
        theta=draw(st.floats(1, 1e6)),
        kv_sets=draw(st.integers(1, 2)),
        view_range=draw(st.floats(0.1, 100)),
        camera_in_keys=draw(st.sampled_from(["none", "world"])),
    )


@st.composite
def poses(draw: st.DrawFn) -> Matrix:
    """Camera-to-world [4, 4] float64: any rotation, within 1,000 units of the origin."""
    w, x, y, z = draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(c * c for c in q) > 0.01))
    n = 2 / (w * w + x * x + y * y + z * z)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - n * (y * y + z * z), n * (x * y - w * z), n * (x * z + w * y)],
        [n * (x * y + w * z), 1 - n * (x * x + z * z), n * (y * z - w * x)],
        [n * (x * z - w * y), n * (y * z + w * x), 1 - n * (x * x + y * y)],
    ]
    pose[:3, 3] = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return pose


@st.composite
def metas(draw: st.DrawFn) -> Meta:
    frames = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(_seeds))
    return Meta(
        key=draw(chunk_keys),
        spec=draw(digests),
        begin=draw(st.integers(0, 2**40)),
        poses=np.stack([draw(poses()) for _ in range(frames)]),
        fov=draw(st.floats(0.01, 3.14)),
        aspect=draw(st.floats(0.01, 100)),
        recalled=tuple(draw(st.lists(chunk_keys, max_size=4))),
        shown=draw(st.booleans()),
        descriptor=draw(st.none() | st.integers(0, 8).map(lambda n: rng.normal(size=n).astype(np.float32))),
        depth=draw(st.none() | st.integers(0, 4).map(lambda n: rng.random((frames, n, n + 1), np.float32))),
    )


@st.composite
def parts(draw: st.DrawFn) -> Part:
    meta = draw(metas())
    shape = (len(meta.poses), *draw(st.tuples(*[st.integers(1, 4)] * 3)))
    latents = np.random.default_rng(draw(_seeds)).normal(size=shape).astype(np.float16)
    return Part(meta, latents, draw(st.binary(max_size=200)))


@st.composite
def kv_parts(draw: st.DrawFn) -> KVPart:
    places = draw(
        st.lists(st.tuples(st.sampled_from(["k", "v"]), st.integers(0, 40), st.integers(0, 7)), unique=True, max_size=6)
    )
    return KVPart(tuple(draw(segments(*place)) for place in places), draw(st.booleans()))


@st.composite
def segments(draw: st.DrawFn, kind: Any = "k", layer: int = 0, head_group: int = 0) -> Segment:
    return Segment(
        kind=kind,
        layer=layer,
        head_group=head_group,
        dtype=draw(st.sampled_from(DTYPES)),
        shape=draw(st.tuples(*[st.integers(0, 100)] * 3)),
        codec=draw(st.sampled_from(["raw", "int8", "int4"]) | names),
        data=np.random.default_rng(draw(_seeds)).integers(0, 256, draw(st.integers(0, 300)), np.uint8),
    )


@st.composite
def lineages(draw: st.DrawFn) -> Lineage:
    """A world forked up to four times."""
    lineage = Lineage.begin(draw(branches))
    for at in draw(st.lists(st.integers(0, 30), max_size=4)):
        lineage = lineage.fork(at)
    return lineage
