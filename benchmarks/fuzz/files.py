"""Files and saved states: good ones, what reads them, and what they say written again."""

from __future__ import annotations

import os
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from xxhash import xxh3_64_intdigest

from services.generator import saving
from services.generator.session import HeldChunk, SessionState
from services.kvstore.redis_pieces import Manifest
from worldkv.actions import Walker
from worldkv.auth import Authority, Claims
from worldkv.catalog import World, pack
from worldkv.chunk import ChunkKey, KVPart, Lineage, Meta, ModelSpec, Part, Segment
from worldkv.coding import KV
from worldkv.errors import ChecksumMismatch
from worldkv.format import Frame, decode_kv, decode_part, encode_kv, encode_part, join
from worldkv.store import PartKey
from worldkv.worlds.files import WorldBytes, read_frames, read_world

BRANCH = bytes(range(16))
KEY = ChunkKey(BRANCH, 7)
SPEC = ModelSpec(
    model="fuzzed",
    weights="",
    vae="",
    layers=1,
    heads=1,
    head_dim=8,
    dtype="float32",
    frame_tokens=4,
    latent=(3, 2, 2),
    frames=2,
    rope=(1, 2, 1),
    theta=100.0,
    kv_sets=1,
    view_range=8.0,
    camera_in_keys="world",
)
WORLD = World("harbour", Lineage(((BRANCH, 4), (bytes(16), None))), chunks=1)


def part(index: int = 7, branch: bytes = BRANCH) -> bytes:
    """The immutable part of a chunk with everything that one can have."""
    meta = Meta(
        key=ChunkKey(branch, index),
        spec=SPEC.digest,
        begin=2 * index,
        poses=np.stack([np.eye(4)] * 2),
        fov=1.25,
        aspect=0.75,
        recalled=(ChunkKey(BRANCH, 2), ChunkKey(bytes(16), 300)),
        shown=True,
        descriptor=np.array([0.5, -1, 2], np.float32),
        depth=np.array([[[1, 2]], [[3, np.inf]]], np.float32),
    )
    return join(encode_part(Part(meta, (np.arange(24) / 8).astype(np.float16).reshape(2, 3, 2, 2), b"turn right")))


def keys_and_values() -> bytes:
    """The KV part of a chunk: one segment as it is, one in a code, and an empty one."""
    keys, values = np.arange(16, dtype=np.uint8), np.array([255, 0, 1, 2, 3], np.uint8)
    segments = (
        Segment("k", 0, 0, "float16", (2, 1, 4), "raw", keys),
        Segment("v", 0, 0, "float16", (2, 1, 4), "int4", values),
        Segment("k", 39, 1, "bfloat16", (0, 1, 4), "raw", np.empty(0, np.uint8)),
    )
    return join(encode_kv(KEY, SPEC.digest, KVPart(segments, reencoded=True)))


def part_again(data: bytes) -> bytes:
    return join(encode_part(decode_part(data)))


def kv_again(data: bytes) -> bytes:
    return join(encode_kv(*decode_kv(data)))


def sealed_part(data: bytes) -> object:
    """A part with this header, under a right checksum: what it says can be wrong, and nothing else."""
    body = _body()
    gap = bytes(-(32 + len(data)) % 64)
    start = struct.pack(
        "<8sIIQ", bytes.fromhex("89574b560d0a1a0a"), 1, len(data), 32 + len(data) + len(gap) + len(body)
    )
    return decode_part(start + struct.pack("<Q", xxh3_64_intdigest(start + data)) + data + gap + body)


@cache
def _body() -> bytes:
    """What follows the header of a part."""
    made = part()
    return made[-(-(32 + len(header_of(made))) // 64) * 64 :]


def header_of(frame: bytes) -> bytes:
    """The packed header of a part."""
    (size,) = struct.unpack_from("<I", frame, 12)
    return frame[32 : 32 + size]


def session() -> bytes:
    """A saved session with one chunk in its window."""
    walker = Walker(1.0, 2.0, 90.0)
    record = saving.Record(
        "harbour", (BRANCH,), "rooms:7", walker, 3, "worldkv", True, "jpeg", "R90", 9, walker, (4, 5)
    )
    tensor = torch.arange(64, dtype=torch.float32).reshape(1, 8, 1, 8)
    held = HeldChunk(8, np.stack([np.eye(4)] * 2), KV(tensor, tensor + 1))
    return join(saving.encode(saving.Saved(record, SessionState(SPEC.digest, 3, 9, walker, (held,), Frame(())))))


def session_again(data: bytes) -> bytes:
    return join(saving.encode(saving.decode(Frame.of(data), SPEC)))


def world_file() -> bytes:
    """A file of a world of one chunk."""
    made = WorldBytes(WORLD)
    frames = [(PartKey(ChunkKey(BRANCH, 0), "part"), part(0)), (PartKey(ChunkKey(BRANCH, 0), "kv"), keys_and_values())]
    body = [bytes(piece) for key, frame in frames for piece in made.frame(key, Frame.of(frame))]
    return made.begin + b"".join(body) + made.end()


def world_again(data: bytes) -> bytes:
    """The file that this one's contents make. Raises ChecksumMismatch for a frame that is damaged."""
    with open(os.memfd_create("world"), "w+b") as written:
        written.write(data)
        written.flush()
        with open(os.dup(written.fileno()), "rb") as file:
            file.seek(0)
            world = read_world(file)
            made = WorldBytes(world)
            again = [made.begin]
            for key, frame in read_frames(file, world):
                if isinstance(frame, ChecksumMismatch):
                    raise frame
                again += map(bytes, made.frame(key, frame))
    return b"".join(again) + made.end()


def record() -> bytes:
    return pack(WORLD)


def manifest() -> bytes:
    return Manifest(10, 123, 8, "token", bytes(16)).pack()


@cache
def authority() -> Authority:
    """Who signs, by a secret of its own."""
    file = Path(_folder().name) / "secret"
    file.write_text("0123456789abcdef" * 4, encoding="utf-8")
    return Authority(file)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """As long as this process."""
    return tempfile.TemporaryDirectory(prefix="wkv-")


def token(role: Any, **fields: Any) -> bytes:
    return authority().sign(Claims("acme", role, **fields), 3600.0).encode()


def claims(data: bytes) -> object:
    return authority().read(data.decode(errors="surrogateescape"))
