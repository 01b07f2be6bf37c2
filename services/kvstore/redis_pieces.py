"""How a run of bytes lies in Redis: as pieces that nobody finds until a manifest names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Manifest:
    """What is known of bytes in Redis without reading them.

    size, checksum  bytes, and xxh3-64 of all of them
    piece_bytes     of every piece but the last, which may be shorter
    token           part of the pieces' names, different for every put
    sums            xxh3-64 of each piece, 8 bytes each, little-endian
    """

    size: int
    checksum: int
    piece_bytes: int
    token: str
    sums: bytes
