"""Bytes of a chunk: how its immutable part and its KV part are written and read.

docs/format.md is the specification. Encoding copies nothing that is large: a `Frame` is a list of buffers, most
of them the segments' own memory. Decoding copies nothing either: segments are read-only views of what was given.
Whatever bytes are given, a decoder returns what was written or raises one of the six errors under ChunkCorrupt.
"""

from worldkv.format.frame import Frame, join, write_file
from worldkv.format.header import (
    ALIGN,
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_KV_BYTES,
    MAX_PART_BYTES,
    MAX_RECALLED,
    MAX_SEGMENT_BYTES,
    MAX_SEGMENTS,
    PREFIX_BYTES,
    VERSION,
    Header,
    Kind,
    Row,
    decode_header,
    header_bytes,
)
from worldkv.format.parts import About, decode_about, decode_kv, decode_part, decode_segment, encode_kv, encode_part

__all__ = [
    "ALIGN",
    "MAGIC",
    "MAX_HEADER_BYTES",
    "MAX_KV_BYTES",
    "MAX_PART_BYTES",
    "MAX_RECALLED",
    "MAX_SEGMENTS",
    "MAX_SEGMENT_BYTES",
    "PREFIX_BYTES",
    "VERSION",
    "About",
    "Frame",
    "Header",
    "Kind",
    "Row",
    "decode_about",
    "decode_header",
    "decode_kv",
    "decode_part",
    "decode_segment",
    "encode_kv",
    "encode_part",
    "header_bytes",
    "join",
    "write_file",
]
