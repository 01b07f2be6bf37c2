"""Whatever a put is sent, message by message."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from xxhash import xxh3_64_intdigest

from services.kvstore.membership import Membership
from services.kvstore.metrics import Metrics
from services.kvstore.puts import Puts
from services.kvstore.ram import RamTier
from services.kvstore.segments import Segments
from services.kvstore.tiered import Tiered
from tests.wire.shard import CONFIG, body, item, kv
from worldkv import wire
from worldkv.errors import InvalidInput
from worldkv.v1 import kvstore_pb2 as pb


def frames(*each: Any) -> list[bytes]:
    return [x if isinstance(x, bytes) else x.SerializeToString() for x in each]


pieces = st.builds(
    wire.piece_frame, st.integers(0, 2), st.sampled_from([0, 10, 20]), st.sampled_from([b"", b"0123456789", b"x"])
)
heads = st.builds(
    lambda n, size, piece, how: frames(item(kv(n), body(10)[:10] * 2, piece, size=size, **how(piece)))[0],
    st.integers(0, 3),
    st.sampled_from([0, 10, 20]),
    st.sampled_from([0, 10, 1 << 31]),
    st.sampled_from(
        [
            lambda piece: {},
            lambda piece: {"staged": pb.StagedExtents()},
            lambda piece: {"inline": pb.InlinePieces(piece_bytes=piece, checksum_follows=True)},
        ]
    ),
)
sums = st.sampled_from(frames(*(pb.PutRequest(checksum=n) for n in (0, xxh3_64_intdigest(b"0123456789")))))
streams = st.lists(st.one_of(pieces, heads, sums, st.binary(max_size=30)), max_size=8)


@given(all_streams=st.lists(streams, max_size=5))
@settings(max_examples=40)
def test_whatever_is_sent_is_kept_or_refused_and_nothing_leaks(all_streams, tier):
    async def send() -> None:
        tiers = Tiered(tier, None, CONFIG.tiers)
        metrics, segments = Metrics(CollectorRegistry()), Segments("worldkv-test-staging")
        puts = Puts(tiers, metrics, CONFIG.serving, Membership(), segments)
        for stream in all_streams:
            answers = []
            with suppress(InvalidInput):
                async for answer in puts.serve("default", each_of(stream), lambda: 10.0):
                    answers.append(answer.item)
            assert len(answers) == len(set(answers))
            tier.check_integrity()
            assert not tier.stats().reserved_bytes
        tier.delete("default", [kv(n) for n in range(4)])

    asyncio.run(send())


async def each_of(frames: Sequence[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


@pytest.fixture(scope="module")
def tier():
    tier = RamTier(CONFIG.ram)
    yield tier
    tier.close()
