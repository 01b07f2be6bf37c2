"""How a chunk's keys and values become a KV part and come back: pruned, then coded, all layers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldkv.chunk import KVPart, ModelSpec, Segment
from worldkv.codec import Codec, Klt, Raw, bytes_of, codec, tensor_of
from worldkv.errors import BadHeader, SpecMismatch
from worldkv.prune import Pruning, kept_tokens, select_tokens

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
AT_ONCE = 64 << 20
"""Bytes of keys, or values, that are coded at a time: what that needs in passing is several times as much."""
NONE_FITTED: Mapping[str, Codec] = MappingProxyType({})


class KV(NamedTuple):
    """Keys (chunk-local time) and values of one chunk, each [layers, tokens, heads, head_dim]."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Coding:
    """What is done to the chunks of a world when they are stored.

    keys, values  names of codecs
    pruning       comes first
    raw_first     a branch's first chunk is kept whole and bit for bit: it is the sink of every window
    fitted        codecs made for the model, by name, beside those everybody has

    Raises UnknownCodec when built with a name that is neither here nor there.
    """

    keys: str = "int4"
    values: str = "int4"
    pruning: Pruning = field(default_factory=Pruning)
    raw_first: bool = True
    fitted: Mapping[str, Codec] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in (self.keys, self.values):
            codec(name, self.fitted)


def stored_tokens(coding: Coding, spec: ModelSpec) -> int:
    """Tokens of a chunk that are left after pruning."""
    return kept_tokens(coding.pruning, spec.frames, spec.frame_tokens)


def coded_bytes(coding: Coding, spec: ModelSpec) -> int:
    """Bytes of a chunk's KV part, headers aside; those of a raw first chunk are more."""
    shape = (spec.layers * spec.kv_sets, stored_tokens(coding, spec), spec.heads, spec.head_dim)
    return sum(codec(name, coding.fitted).size(shape, DTYPES[spec.dtype]) for name in (coding.keys, coding.values))


def encode_kv(kv: tuple[Tensor, Tensor], coding: Coding, spec: ModelSpec, first: bool = False) -> KVPart:
    """The KV part of a chunk. What is kept as it is shares its memory with `kv`, which must not change any more.

    kv     keys (chunk-local time) and values, each [layers, tokens, heads, head_dim]
    first  whether this is its branch's first chunk

    Raises SpecMismatch for tensors of another model, NonFinite for NaN or infinity.
    """
    keys, values = kv
    wanted = (spec.layers * spec.kv_sets, spec.frames * spec.frame_tokens, spec.heads, spec.head_dim)
    if keys.shape != wanted or values.shape != wanted:
        raise SpecMismatch(f"a chunk of {spec.model} is {wanted}, got {tuple(keys.shape)} and {tuple(values.shape)}")
    if not len(keys):
        return KVPart(())
    if first and coding.raw_first:
        return KVPart((*_segments("k", keys, codec("raw")), *_segments("v", values, codec("raw"))))
    keys, values = pruned(kv, coding.pruning, spec.frames)
    by_keys, by_values = codec(coding.keys, coding.fitted), codec(coding.values, coding.fitted)
    return KVPart((*_segments("k", keys, by_keys), *_segments("v", values, by_values)))


def pruned(kv: tuple[Tensor, Tensor], pruning: Pruning, frames: int) -> KV:
    """What pruning leaves of a chunk of so many frames, layer by layer; where that is everything, the same tensors.

    kv  keys (chunk-local time) and values, each [layers, tokens, heads, head_dim]
    """
    keys, values = kv
    if kept_tokens(pruning, frames, keys.shape[1] // frames) == keys.shape[1]:
        return KV(keys, values)
    kept = torch.stack([select_tokens(layer, frames, pruning) for layer in keys])
    layer = torch.arange(len(keys), device=keys.device)[:, None]
    return KV(keys[layer, kept], values[layer, kept])


def decode_kv(
    part: KVPart,
    spec: ModelSpec,
    fitted: Mapping[str, Codec] = NONE_FITTED,
    device: torch.device | str = "cpu",
) -> KV:
    """Keys and values of a KV part, of as many tokens as were kept. They may share the part's memory.

    Raises UnknownCodec if the part needs a fitted codec that is not given, SpecMismatch for a part of another
    model, ChunkCorrupt if layers are missing or their bytes are not as many as they should be.
    """
    keys, values = (_join([s for s in part.segments if s.kind == kind], spec, fitted, device) for kind in ("k", "v"))
    if keys.shape != values.shape:
        raise BadHeader(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} of one chunk differ in shape")
    return KV(keys, values)


def _segments(kind: Literal["k", "v"], x: Tensor, by: Codec) -> list[Segment]:
    """One segment for each layer of x, [layers, tokens, heads, head_dim]."""
    shape = (x.shape[1], x.shape[2], x.shape[3])
    if isinstance(by, Raw) and (own := bytes_of(x)) is not None:
        rows = [*own.reshape(len(x), -1)]
    else:
        rows = [
            row for some in x.split(_at_once(by, x.shape, x.dtype)) for row in by.encode(some).reshape(len(some), -1)
        ]
    return [Segment(kind, layer, 0, NAMES[x.dtype], shape, by.name, data) for layer, data in enumerate(rows)]


def _at_once(by: Codec, shape: Sequence[int], dtype: torch.dtype) -> int:
    """How many layers of [layers, tokens, heads, head_dim] are coded at a time: the bytes are the same for any
    number. What is fitted to a model has tables for all of them."""
    return shape[0] if isinstance(by, Klt) else max(1, AT_ONCE // max(1, prod(shape[1:]) * dtype.itemsize))


def _join(
    segments: Sequence[Segment], spec: ModelSpec, fitted: Mapping[str, Codec], device: torch.device | str
) -> Tensor:
    """Keys, or values, of all layers: [layers, tokens, heads, head_dim]; groups of heads side by side."""
    layers = spec.layers * spec.kv_sets
    groups = []
    for group in range(max((s.head_group for s in segments), default=-1) + 1):
        own = sorted((s for s in segments if s.head_group == group), key=lambda s: s.layer)
        if [s.layer for s in own] != list(range(layers)):
            raise BadHeader(f"head group {group} has layers {[s.layer for s in own]}, not 0 to {layers - 1}")
        if len({(s.codec, s.dtype, s.shape) for s in own}) > 1:
            raise BadHeader(f"layers of head group {group} differ in codec, dtype or shape")
        groups.append(_decoded([s.data for s in own], codec(own[0].codec, fitted), own[0], torch.device(device)))
    if not groups:
        groups = [torch.empty(0, spec.frames * spec.frame_tokens, spec.heads, spec.head_dim, device=device)]
    if len({(g.shape[1], g.dtype) for g in groups}) > 1:
        raise BadHeader("head groups differ in tokens or dtype")
    joined = torch.cat(groups, 2) if len(groups) > 1 else groups[0]
    if (len(joined), *joined.shape[2:]) != (layers, spec.heads, spec.head_dim):
        raise SpecMismatch(f"KV of {tuple(joined.shape)} is not {spec.model}'s: {layers} layers, {spec.heads} heads")
    return joined


def _decoded(rows: Sequence[NDArray[np.uint8]], by: Codec, like: Segment, device: torch.device) -> Tensor:
    """A tensor of all layers' bytes; `like`: one of them."""
    shape, dtype = (len(rows), *like.shape), DTYPES[like.dtype]
    if isinstance(by, Raw) and device.type == "cpu":
        return tensor_of(_side_by_side(rows), shape, dtype)
    some = _at_once(by, shape, dtype)
    if some >= len(rows):
        return by.decode(_side_by_side(rows), shape, dtype, device)
    whole = torch.empty(shape, dtype=dtype, device=device)
    for begin in range(0, len(rows), some):
        part = whole[begin : begin + some]
        part.copy_(by.decode(_side_by_side(rows[begin : begin + some]), part.shape, dtype, device))
    return whole


def _side_by_side(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """All these bytes in one array: the memory that they are in if they lie there one after the other, else a copy."""
    begin, owner = parts[0].ctypes.data, _owner(parts[0])
    at = begin
    for part in parts:
        if part.ctypes.data != at or _owner(part) is not owner:
            return np.concatenate(parts)
        at += part.nbytes
    return np.lib.stride_tricks.as_strided(parts[0], (at - begin,), (1,), writeable=False)


def _owner(data: object) -> object:
    """The object whose memory an array of bytes is a view of."""
    while True:
        below = data.obj if isinstance(data, memoryview) else getattr(data, "base", None)
        if below is None:
            return data
        data = below
