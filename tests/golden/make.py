"""Writes the golden files of format version 1: `python -m tests.golden.make`.

Run it for a new format version only. The files of a version that has been released are never written again:
if they no longer match, the format has changed and needs a new number.
"""

from pathlib import Path

import numpy as np

from worldkv.chunk import ChunkKey, KVPart, Meta, Part, Segment
from worldkv.format import encode_kv, encode_part, write_file

FOLDER = Path(__file__).parent
PART = FOLDER / "part-v1.wkv"
KV = FOLDER / "kv-v1.wkv"

BRANCH = bytes(range(16))
SPEC = "00112233445566778899aabbccddeeff"


def part() -> Part:
    """A chunk of two frames: the camera at the origin, then turned right by 90 degrees at (1, 2, 3)."""
    turned = np.array([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], np.float64)
    meta = Meta(
        key=ChunkKey(BRANCH, 7),
        spec=SPEC,
        begin=14,
        poses=np.stack([np.eye(4), turned]),
        fov=1.25,
        aspect=0.75,
        recalled=(ChunkKey(BRANCH, 2), ChunkKey(bytes(16), 300)),
        shown=True,
        descriptor=np.array([0.5, -1, 2], np.float32),
        depth=np.array([[[1, 2]], [[3, np.inf]]], np.float32),
    )
    latents = (np.arange(24) / 8).astype(np.float16).reshape(2, 3, 2, 2)
    return Part(meta, latents, b"turn right")


def kv() -> KVPart:
    """Keys of one layer as float16, values in a code of five bytes, and an empty segment."""
    keys = np.arange(16, dtype=np.uint8)
    values = np.array([255, 0, 1, 2, 3], np.uint8)
    return KVPart(
        (
            Segment("k", 0, 0, "float16", (2, 1, 4), "raw", keys),
            Segment("v", 0, 0, "float16", (2, 1, 4), "int4", values),
            Segment("k", 39, 1, "bfloat16", (0, 1, 4), "raw", np.empty(0, np.uint8)),
        ),
        reencoded=True,
    )


if __name__ == "__main__":
    write_file(PART, encode_part(part()))
    write_file(KV, encode_kv(part().meta.key, SPEC, kv()))
