"""Bytes and bytes a second, one formula a function.

Constants that were measured say by what (`worldkv bench ID`); those that are assumed say so.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, gcd, prod

from worldkv.errors import InvalidInput, UnknownCodec
from worldkv.plan.shapes import Shape

POSE_BYTES = 128
"""Of one latent frame: a matrix of 4 x 4 float64."""
HEAD_BYTES = 2048
"""Of an immutable part besides latents and poses: header, alignment and conditioning, at most."""
INDEX_CHUNK_BYTES = 529
"""`idx.bytes`, 2,000 worlds of 500 chunks."""
ARENA_USABLE = 0.99
"""`kv.usable`: of a shard's budget, after 100,000 random puts and deletes."""
REDIS_PART, REDIS_KV = 1.17, 1.04
"""Redis' used_memory over the bytes written, parts of 24 kB to 0.8 MB and of a MB and more; the worst of each."""
JPEG_PIXEL_BYTES = 0.3
"""Assumed, at quality 92: it depends on what is seen."""
GPU_WORKING = 0.1
"""Assumed: share of a GPU for activations of a pass and for what its allocator cannot use."""

_INTEGER = re.compile(r"int([843])(?:/(8|16|32|64|128|256))?")
_HADAMARD = re.compile(r"hadamard([43])")
_KLT = re.compile(r"klt(1|1\.5|2|3)")


def raw_bytes(model: Shape) -> int:
    """Keys and values of one chunk, uncoded."""
    return 2 * model.layers * model.frames * model.frame_tokens * model.width * model.value_bytes


def stored_tokens(model: Shape, keep: float) -> int:
    """Tokens of a chunk that are kept: the first frame, and the share `keep` of each other one, rounded up."""
    if not 0 <= keep <= 1:
        raise InvalidInput(f"keep is a share between 0 and 1, got {keep}")
    return model.frame_tokens + (model.frames - 1) * ceil(Fraction(str(keep)) * model.frame_tokens)


def stored_bytes(model: Shape, keep: float, codec: str) -> int:
    """Keys and values of one chunk as they are stored, headers aside. Raises UnknownCodec."""
    tokens = stored_tokens(model, keep)
    if codec == "raw":
        return 2 * model.layers * tokens * model.width * model.value_bytes
    if found := _INTEGER.fullmatch(codec):
        return 2 * model.layers * tokens * _grouped(model.width, int(found[2] or 64), int(found[1]))
    if found := _HADAMARD.fullmatch(codec):  # and the mean over all tokens, half precision
        return 2 * model.layers * (2 * model.width + tokens * _grouped(model.width, 256, int(found[1])))
    if (found := _KLT.fullmatch(codec)) and model.name == "pocket":
        return int(2 * model.layers * tokens * model.width * float(found[1]) / 8)
    fitted = ", klt1, klt1.5, klt2, klt3" if model.name == "pocket" else "; klt is fitted to the pocket model alone"
    raise UnknownCodec(
        f"no codec {codec!r} for {model.name}; there are raw, int8, int4, int3, int4/32 for other groups, "
        f"hadamard4, hadamard3{fitted}"
    )


def _grouped(width: int, most: int, bits: int) -> int:
    """Bytes of a token whose channels are rounded in groups, each with 4 bytes of scale."""
    group = gcd(width, most)
    return width // group * (4 + group * bits // 8)


def part_bytes(model: Shape) -> int:
    """The immutable part of one chunk: poses, half-precision latents and what is around them."""
    return model.frames * (2 * prod(model.latent) + POSE_BYTES) + HEAD_BYTES


def chunk_count(model: Shape, seconds: float) -> int:
    """Chunks of so long a walk."""
    return ceil(seconds / model.chunk_seconds)


def world_kv_bytes(model: Shape, chunks: int, keep: float, codec: str, budget: int = 0) -> int:
    """Stored keys and values of a world: its first chunk is raw; `budget` bounds it, 0: no limit."""
    total = raw_bytes(model) + (chunks - 1) * stored_bytes(model, keep, codec) if chunks else 0
    return min(total, budget) if budget else total


def recalled_chunks(model: Shape, keep: float) -> int:
    """Chunks that the recalled part of the window holds."""
    return model.window[1] * model.frame_tokens // stored_tokens(model, keep)


def fetched_rate(model: Shape, keep: float, codec: str, delta: float, waste: float) -> float:
    """Bytes a second that one session fetches while it is played.

    delta  recalled over fetched chunks: `gen.delta`, what being at hand already saves
    waste  share of what is fetched that is never used: `gen.prefetch.waste`
    """
    if delta < 1:
        raise InvalidInput(f"delta is at least 1, every recalled chunk fetched; got {delta}")
    if not 0 <= waste < 1:
        raise InvalidInput(f"waste is a share from 0 to below 1, got {waste}")
    fetched = recalled_chunks(model, keep) / delta / (1 - waste)
    return fetched * stored_bytes(model, keep, codec) / model.chunk_seconds


def kept_rate(model: Shape, keep: float, codec: str) -> float:
    """Bytes a second that one session stores while it is played."""
    return (stored_bytes(model, keep, codec) + part_bytes(model)) / model.chunk_seconds


def weights_bytes(model: Shape) -> int:
    """The transformer on each GPU."""
    return model.parameters * model.weight_bytes


def session_gpu_bytes(model: Shape, keep: float) -> int:
    """What one session that is awake takes on the GPU.

    Its row of the window; the uncoded chunks that stand in sink and recent; the chunk that is drawn, and one that waits
    to be coded; action caches and the picture decoder's features.
    """
    sink, _, recent = model.window
    frame = raw_bytes(model) // model.frames
    recalled = recalled_chunks(model, keep) * stored_tokens(model, keep) * frame // model.frame_tokens
    row, held = (sink + recent) * frame + recalled, (sink + recent) * frame
    return row + held + 2 * raw_bytes(model) + model.actions_bytes + model.decoder_bytes


def hot_bytes(model: Shape, keep: float, chunks: int) -> int:
    """Decoded chunks at hand, where the model runs."""
    return chunks * raw_bytes(model) * stored_tokens(model, keep) // (model.frames * model.frame_tokens)


def index_bytes(chunks: int) -> int:
    """What a replica of the retriever holds of so many chunks."""
    return chunks * INDEX_CHUNK_BYTES


def picture_rate(model: Shape) -> float:
    """Bytes a second of one session's JPEG pictures."""
    return model.rate * model.pixels * JPEG_PIXEL_BYTES
