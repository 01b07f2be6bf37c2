"""One segment of shared memory, reserved and touched at start, and who has which bytes of it."""

from __future__ import annotations

from worldkv.shared import ArenaInfo, Extent


class Arena:
    """Shared memory for parts, writable by this process alone.

    id, name, size, nonce_offset, generations_offset, slots  as in `info`, which is what readers are told
    nonce                                                    the 16 bytes that a reader proves its mapping by

    Raises Unavailable if the host has not so much shared memory.
    """

    info: ArenaInfo
    id: bytes
    name: str
    size: int
    nonce: bytes
    nonce_offset: int
    generations_offset: int
    slots: int

    def __init__(self, capacity: int, prefix: str = "worldkv-arena", huge_pages: bool = True) -> None:
        raise NotImplementedError

    def allocate(self, size: int) -> tuple[Extent, ...] | None:
        """Room for `size` bytes under one slot and its present generation; None if there is not so much."""
        raise NotImplementedError

    def free(self, extents: tuple[Extent, ...]) -> None:
        """Give room back: the generation rises first, so that readers see it before the bytes can change."""
        raise NotImplementedError

    def views(self, extents: tuple[Extent, ...]) -> tuple[memoryview, ...]:
        """Writable views of these bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap and remove the segment. Harmless a second time."""
        raise NotImplementedError
