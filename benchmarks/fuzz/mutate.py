"""Bytes made from good ones: a little other, cut, doubled, mixed, or full of numbers that are too large."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = tuple(
    value.to_bytes(size, "little")
    for size in (1, 2, 4, 8)
    for value in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
)
WORDS = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b'"NaN"', b"[]", b"{}", b'""', b'"\\ud800"', b"\xff\xfe"),
    b"9" * 400,
    b"[" * 5_000,
    b'{"open":' * 200,
    b"\x80" * 12,
)
"""Of JSON, and of nobody."""

Way = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of these seeds with one to four changes; never just a seed."""
    data = rng.choice(seeds)
    while True:
        for _ in range(rng.randint(1, 4)):
            data = rng.choice(_WAYS)(rng, data, seeds)
        if data not in seeds:
            return data


def _run(rng: random.Random, data: bytes) -> tuple[int, int]:
    """A run of bytes, short ones more often."""
    begin = rng.randint(0, len(data))
    return begin, min(len(data), begin + int(rng.expovariate(0.1)))


def _flip(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(1)
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _set(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    begin, end = _run(rng, data)
    return data[:begin] + rng.randbytes(end - begin) + data[end:]


def _number(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at, number = rng.randint(0, len(data)), rng.choice(NUMBERS)
    return data[:at] + number + data[at + len(number) :]


def _word(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    begin, end = _run(rng, data)
    return data[:begin] + rng.choice(WORDS) + data[end:]


def _insert(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]


def _delete(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    begin, end = _run(rng, data)
    return data[:begin] + data[end:]


def _double(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    begin, end = _run(rng, data)
    return data[:end] + data[begin:]


def _cut(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


_WAYS: Sequence[Way] = (_flip, _set, _number, _word, _insert, _delete, _double, _cut, _splice)
