"""What a service said it keeps of a walk, and whether it has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldkv.chunk import ChunkKey, Lineage
from worldkv.client.pictures import Pictures
from worldkv.client.walk_events import Drawn, Event, Notice, NoticeKind, Remembered
from worldkv.errors import ChunkCorrupt
from worldkv.format import Frame, decode_part
from worldkv.store import Level, Miss, PartKey, Store

LATENT_ERROR = 2e-3
"""Of pictures in 0..1 that come of latents in half precision."""
TOGETHER = 32
"""Chunks read at a time."""
HEARD = 40
"""Events that are remembered in words."""


class Seen(NamedTuple):
    """A chunk as its user got it: pictures [frames, height, width, 3] in 0..1, and poses [frames, 4, 4]."""

    pictures: Pictures
    poses: NDArray[np.float64]


class Promises:
    """Of one session.

    kept   level of every chunk that it was told is kept
    heard  what it was told last, in words: for who wants to know how a promise came to be broken
    """

    def __init__(self) -> None:
        self.kept: dict[ChunkKey, Level] = {}
        self.heard: deque[str] = deque(maxlen=HEARD)
        self._seen: dict[ChunkKey, Seen] = {}
        self._newest: dict[int, ChunkKey] = {}

    def hear(self, event: Event) -> None:
        """Take note of what a session says, as far as it is about chunks and how they are kept."""
        self.heard.append(_words(event))
        if isinstance(event, Drawn):
            self.drew(event)
        elif isinstance(event, Remembered):
            self.said(event)
        elif isinstance(event, Notice) and event.kind is NoticeKind.MOVED:
            self.moved(event.chunk)

    def drew(self, drawn: Drawn) -> None:
        """A chunk came, with pictures that are exact or none. Its number may have been drawn before, elsewhere."""
        key = drawn.key
        self._newest[key.index] = key
        if len(drawn.pictures):
            self._seen[key] = Seen(drawn.pictures, drawn.poses)

    def said(self, remembered: Remembered) -> None:
        """All chunks before a number are kept, at least at a level."""
        if remembered.level is None:
            return
        for index, key in self._newest.items():
            if index < remembered.end:
                self.kept[key] = max(remembered.level, self.kept.get(key, remembered.level))

    def stands(self, covered: Callable[[ChunkKey], bool]) -> None:
        """The session is joined anew, and these are its chunks: what was drawn elsewhere and not kept is no more, and
        what the session says of its number is said of another chunk."""
        self.heard.append("stands anew")
        self._newest = {index: key for index, key in self._newest.items() if covered(key)}

    def moved(self, chunk: int) -> None:
        """The session's chunks from this number on are other ones: what it says of them is not said of those that
        were drawn before."""
        self._newest = {index: key for index, key in self._newest.items() if index < chunk}

    def forget(self, covered: Callable[[ChunkKey], bool]) -> None:
        """Hold the service no more to chunks that are none of these: their user dropped them."""
        self.kept = {key: level for key, level in self.kept.items() if covered(key)}
        self._seen = {key: seen for key, seen in self._seen.items() if covered(key)}
        self.stands(covered)

    @property
    def end(self) -> int:
        """Number after that of the last chunk that is kept."""
        return 1 + max((key.index for key in self.kept), default=-1)

    def copy(self, covered: Callable[[ChunkKey], bool]) -> Promises:
        """What holds of a fork, whose chunks these are."""
        made = Promises()
        made.kept, made._seen, made._newest = dict(self.kept), dict(self._seen), dict(self._newest)
        made.forget(covered)
        return made

    def at_least(self, level: Level) -> list[ChunkKey]:
        """Chunks that are kept at this level, or a higher one."""
        return [key for key, each in self.kept.items() if each >= level]

    async def broken(self, store: Store, lineage: Lineage, wanted: Sequence[ChunkKey]) -> list[str]:
        """Read these chunks back and compare them; says of each what is wrong.

        lineage  of the session's world, which has to have them all
        """
        found = [f"{key} is not of its world any more" for key in wanted if not lineage.covers(key)]
        for begin in range(0, len(wanted), TOGETHER):
            keys = [PartKey(key, "part") for key in wanted[begin : begin + TOGETHER]]
            for key, frame in (await store.get(keys)).items():
                wrong = self._wrong(key.chunk, frame)
                found += [f"{key} {wrong}, and was kept at {self.kept[key.chunk].name}"] if wrong else []
        return found

    def _wrong(self, key: ChunkKey, frame: Frame | Miss) -> str:
        """What is wrong with a chunk that was read; empty: nothing."""
        if isinstance(frame, Miss):
            return f"is {frame.name}"
        try:
            part = decode_part(frame)
        except ChunkCorrupt as error:
            return f"is damaged ({error})"
        seen = self._seen.get(key)
        if part.meta.key != key:
            return f"says that it is {part.meta.key}"
        if seen is None:
            return ""
        pictures = (part.latents.astype(np.float32).transpose(0, 2, 3, 1) + 1) / 2
        if pictures.shape != seen.pictures.shape or np.abs(pictures - seen.pictures).max() > LATENT_ERROR:
            return "has other pictures"
        return "" if np.allclose(part.meta.poses, seen.poses, atol=1e-6) else "has other poses"


def _words(event: Event) -> str:
    if isinstance(event, Drawn):
        return f"drawn {event.key.branch.hex()[:4]}/{event.key.index}"
    if isinstance(event, Remembered):
        return f"kept {event.end} {event.level.name if event.level else ''}"
    return f"{event.kind.value} {event.chunk}" if isinstance(event, Notice) else type(event).__name__.lower()
