"""Codecs of keys and values, by name.

raw                    bit for bit
int8, int4, int3       rounded in groups of 64 channels, or of as many as stand behind a slash: int4/32
hadamard4, hadamard3   centred and rotated first: smaller scales and smaller errors at the same bits
klt...                 fitted to a model by `fit`, and found again by the digest in its name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from worldkv.codec.base import Codec, bits_per_value
from worldkv.codec.integer import Hadamard, Integer
from worldkv.codec.klt import Klt, fit
from worldkv.codec.raw import Raw, bytes_of, tensor_of
from worldkv.errors import UnknownCodec

__all__ = ["CODECS", "Codec", "Klt", "Raw", "bits_per_value", "bytes_of", "codec", "fit", "tensor_of"]

CODECS: Mapping[str, Codec] = MappingProxyType(
    {each.name: each for each in (Raw(), Integer(8), Integer(4), Integer(3), Hadamard(4), Hadamard(3))}
)
"""The codecs that need no fitting."""


def codec(name: str, fitted: Mapping[str, Codec] = MappingProxyType({})) -> Codec:
    """The codec of that name; `fitted` are further ones by name. Raises UnknownCodec, with the names there are."""
    known = {**CODECS, **fitted}
    grouped = re.fullmatch(r"int([843])/(8|16|32|64|128|256)", name)
    if grouped:
        return Integer(int(grouped[1]), int(grouped[2]))
    if name not in known:
        raise UnknownCodec(f"no codec {name!r}; there are {', '.join(known)}, and int4/32 for other groups")
    return known[name]
