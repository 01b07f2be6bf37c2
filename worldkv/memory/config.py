"""How a world is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from worldkv.coding import Coding
from worldkv.errors import InvalidConfig
from worldkv.motion import LONGEST

Order = Literal["time", "nearest"]


@dataclass(frozen=True)
class MemoryConfig:
    """How a world is remembered.

    As it stands nothing is left out and nothing is put off, in lockstep: a walk can be repeated exactly.

    coding        how keys and values are pruned and coded when a chunk is stored
    order         of recalled chunks in the window: by time, or best hit first (the paper's released code)
    slot_tokens   of each recalled slot, at least those of a chunk that is stored as `coding` says; None: as many
    recalled      chunks recalled at most; None: as many as there are slots
    budget_bytes  coded bytes of keys and values a world may keep, 0 for no limit; the least useful chunks beyond
                  it are demoted to their latents
    budget_chunks  the same in chunks
    hot_bytes     decoded bytes kept at hand for the steps to come
    reencode      make a lost chunk's keys and values again from its latents, at most one a step
    recall_seconds  that a step waits for its memory, index and store together; what is late is left out. None: until
                  everything has come
    keep_seconds  that `remember` waits for the immutable part to be kept, which goes on behind its back after that.
                  None: until it is, and what the store raises is raised
    queue_bytes   of keys and values that may wait to be coded and put behind the caller's back; what finds no room is
                  dropped. 0: they are put before `remember` returns
    retry_seconds  after which what the store did not take is put again; longer each time it does not
    most_unkept   immutable parts that may wait before `paused` does
    prefetch      fetch chunks ahead of the camera
    ahead         chunks that are looked ahead then, 1 to 3
    least         chance to be recalled that a chunk must have to be fetched ahead, 0..1. At 0.05 instead of 0.2, 0.95
                  instead of 0.92 of the chunks that are wanted anew were asked for, and half of them in vain
    layered_bytes  coded bytes of a chunk from which on its layers are fetched and decoded one by one, where the store
                  can; smaller ones come in one call, and so do all that a GPU decodes
    """

    coding: Coding = field(default_factory=Coding)
    order: Order = "time"
    slot_tokens: int | None = None
    recalled: int | None = None
    budget_bytes: int = 0
    budget_chunks: int = 0
    hot_bytes: int = 64 << 20
    reencode: bool = True
    recall_seconds: float | None = None
    keep_seconds: float | None = None
    queue_bytes: int = 0
    retry_seconds: float = 0.25
    most_unkept: int = 8
    prefetch: bool = False
    ahead: int = 2
    least: float = 0.2
    layered_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("budget_bytes", "budget_chunks", "hot_bytes", "queue_bytes", "layered_bytes"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"memory.{name} must not be negative, got {getattr(self, name)}")
        if self.recalled is not None and self.recalled < 0:
            raise InvalidConfig(f"memory.recalled must not be negative, got {self.recalled}")
        for name in ("recall_seconds", "keep_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 <= seconds < inf:
                raise InvalidConfig(f"memory.{name} is seconds from 0, or None, got {seconds}")
        if not 0 < self.retry_seconds < inf:
            raise InvalidConfig(f"memory.retry_seconds is seconds above 0, got {self.retry_seconds}")
        if self.order not in ("time", "nearest"):
            raise InvalidConfig(f"memory.order is 'time' or 'nearest', got {self.order!r}")
        if self.most_unkept < 1:
            raise InvalidConfig(f"memory.most_unkept must be at least 1, got {self.most_unkept}")
        if not 1 <= self.ahead <= LONGEST:
            raise InvalidConfig(f"memory.ahead lies between 1 and {LONGEST}, got {self.ahead}")
        if not 0 <= self.least <= 1:
            raise InvalidConfig(f"memory.least is a share between 0 and 1, got {self.least}")
