"""Keys and values of a chunk that come a layer at a time, as the tensors that all layers together would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldkv.chunk import ModelSpec, Segment
from worldkv.codec import Codec, Klt, codec
from worldkv.coding import DTYPES, KV
from worldkv.errors import BadHeader, SpecMismatch


class LayerCodecs:
    """Codecs for single layers, by name: what is fitted to a model has tables for each of them."""

    def __init__(self, fitted: Mapping[str, Codec]) -> None:
        self._fitted = fitted
        self._made: dict[tuple[str, int], Codec] = {}

    def of(self, name: str, layer: int) -> Codec:
        """Raises UnknownCodec."""
        by = codec(name, self._fitted)
        if not isinstance(by, Klt):
            return by
        if layer >= by.layers:
            raise SpecMismatch(f"codec {name} is for {by.layers} layers, got layer {layer}")
        return self._made.setdefault((name, layer), by.layer(layer))


class Layers:
    """One chunk whose layers are added as they come.

    coded_bytes  of those that were added
    """

    def __init__(self, spec: ModelSpec, codecs: LayerCodecs) -> None:
        self.spec, self.coded_bytes = spec, 0
        self._codecs = codecs
        self._made: dict[str, Tensor] = {}
        self._count = 0

    def add(self, segments: Sequence[Segment]) -> None:
        """Decode the next layer, all its segments at once.

        Raises UnknownCodec, SpecMismatch for a layer of another model, ChunkCorrupt for one that does not fit the
        others or whose bytes are not as many as they should be.
        """
        layer = self._count
        if {each.layer for each in segments} != {layer}:
            raise BadHeader(f"layer {layer} was next, got segments of {sorted({each.layer for each in segments})}")
        if layer >= self._layers:
            raise SpecMismatch(f"{self.spec.model} has {self._layers} layers, got another one")
        for kind in ("k", "v"):
            self._put(kind, layer, [each for each in segments if each.kind == kind])
        self.coded_bytes += sum(each.data.nbytes for each in segments)
        self._count += 1

    @property
    def kv(self) -> KV:
        """All of them. Raises BadHeader if layers are missing."""
        if self._count != self._layers:
            raise BadHeader(f"{self._count} layers came of {self._layers}")
        keys, values = self._made["k"], self._made["v"]
        if keys.shape != values.shape:
            raise BadHeader(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} of one chunk differ in shape")
        return KV(keys, values)

    @property
    def _layers(self) -> int:
        return self.spec.layers * self.spec.kv_sets

    def _put(self, kind: str, layer: int, segments: Sequence[Segment]) -> None:
        groups = sorted(segments, key=lambda each: each.head_group)
        if not groups or [each.head_group for each in groups] != list(range(len(groups))):
            raise BadHeader(f"{kind} of layer {layer} has head groups {[each.head_group for each in groups]}")
        decoded = [
            self._codecs.of(each.codec, layer).decode(each.data, (1, *each.shape), DTYPES[each.dtype], "cpu")[0]
            for each in groups
        ]
        if len({(each.shape[0], each.dtype) for each in decoded}) > 1:
            raise BadHeader("head groups differ in tokens or dtype")
        joined = torch.cat(decoded, 1) if len(decoded) > 1 else decoded[0]
        if tuple(joined.shape[1:]) != (self.spec.heads, self.spec.head_dim):
            raise SpecMismatch(f"KV of {tuple(joined.shape)} is not {self.spec.model}'s: {self.spec.heads} heads")
        whole = self._made.get(kind)
        if whole is None:
            whole = self._made[kind] = torch.empty(self._layers, *joined.shape, dtype=joined.dtype)
        if (whole.shape[1:], whole.dtype) != (joined.shape, joined.dtype):
            raise BadHeader(f"{kind} of layer {layer} differs from other layers in shape or dtype")
        whole[layer] = joined
