"""All that is fed: where bytes come in, and what is right there."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fuzz import files
from benchmarks.fuzz.messages import (
    READERS,
    STREAMS,
    answered,
    as_the_runtime_says,
    by_reader,
    filled,
    heard,
    spoken,
)
from services.kvstore.redis_pieces import Manifest
from worldkv.catalog import unpack
from worldkv.errors import WorldKVError
from worldkv.v1 import sessions_pb2 as pb

SEEDS = 24
"""Messages of each kind, made at random."""
TRIES = 1_000
"""Messages made to find good ones among them."""


@dataclass(frozen=True)
class Target:
    """Something that reads bytes.

    seeds   good bytes
    read    raises an error of ours for bytes that are no good
    sealed  whether what is read out of changed bytes has to be what the good ones say, or is wrong data
    """

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    sealed: bool = False


def targets() -> list[Target]:
    """All of them, with the same seeds every time."""
    rng = random.Random(0)
    part, saved = files.part(), files.session()
    found = [
        Target("file of a part", [part], files.part_again, sealed=True),
        Target("file of keys and values", [files.keys_and_values()], files.kv_again, sealed=True),
        Target("header of a part, right checksum", [files.header_of(part)], files.sealed_part),
        Target("saved session", [saved], files.session_again, sealed=True),
        Target("file of a world", [files.world_file()], files.world_again, sealed=True),
        Target("record of a world", [files.record()], unpack),
        Target("manifest in Redis", [files.manifest()], lambda data: Manifest.unpack(data).pack(), sealed=True),
        Target("token", [files.token("tenant"), files.token("watch", session="w1")], files.claims, sealed=True),
        Target("WebSocket, text of a client", [spoken(rng) for _ in range(SEEDS)], heard),
        Target("WebSocket, frame of an answer", _seeds(rng, pb.WalkResponse, answered), answered),
    ]
    for kind, read in STREAMS:
        both = as_the_runtime_says(kind, read)
        found.append(Target(f"stream of {kind.DESCRIPTOR.name}", _seeds(rng, kind, both), both))
    for kind, convert in READERS:
        reader = by_reader(kind, convert)
        found.append(Target(kind.DESCRIPTOR.name, _seeds(rng, kind, reader), reader))
    return found


def _seeds(rng: random.Random, kind: type, read: Callable[[bytes], object]) -> list[bytes]:
    """Messages of a kind: good ones as far as chance makes them, others beside them."""
    good, others = list[bytes](), list[bytes]()
    for _ in range(TRIES):
        data = filled(rng, kind).SerializeToString()
        try:
            read(data)
            good.append(data)
        except WorldKVError:
            others.append(data)
    return good[: SEEDS - 4] + others[: SEEDS - min(len(good), SEEDS - 4)]
