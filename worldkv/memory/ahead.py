"""Fetches ahead of the camera: what the prefetcher wants is asked for while a chunk is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from worldkv.chunk import ChunkKey
from worldkv.errors import WorldKVError
from worldkv.finder import Finder
from worldkv.index import Hit
from worldkv.memory.fetching import Fetches, Outcome
from worldkv.memory.hot import HotSet
from worldkv.motion import Held
from worldkv.pose import Matrix
from worldkv.prefetch import Ask, Prefetcher
from worldkv.store import Miss
from worldkv.tasks import tell_defect

GONE = (Miss.NEVER_STORED, Miss.DELETED, Miss.EVICTED, Miss.CORRUPT)
"""Reasons that will not go away by themselves."""


class Ahead:
    """Runs a prefetcher beside the steps of a walk, none of which ever waits for it.

    chunk_bytes  of a decoded chunk
    local    chunks that need no fetch although they are not in the hot set
    changed  is called when there is news
    """

    def __init__(
        self,
        prefetcher: Prefetcher,
        finder: Finder,
        fetches: Fetches,
        hot: HotSet,
        chunk_bytes: int,
        local: Iterable[ChunkKey],
        changed: Callable[[], None],
    ) -> None:
        self.prefetcher, self.finder, self.fetches, self.hot = prefetcher, finder, fetches, hot
        self.chunk_bytes, self.local, self.changed = chunk_bytes, local, changed
        self._task: asyncio.Task[None] | None = None

    def step(
        self,
        index: int,
        poses: Matrix,
        held: Held | None,
        recalled: Collection[ChunkKey],
        visible: Matrix,
        exclude: Collection[int],
    ) -> None:
        """A chunk is being drawn: see `Prefetcher.step`."""
        if self._task:  # the index has not answered what the step before asked
            self._task.cancel()
        at_hand = {*self.hot, *self.local}
        asks = self.prefetcher.step(index, poses, held, recalled, at_hand, visible, exclude)
        self._task = asyncio.create_task(self._go(asks, recalled), name=f"ahead of chunk {index}")
        self._task.add_done_callback(tell_defect)

    async def close(self) -> None:
        """Ask for nothing more."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self, asks: Sequence[Ask], recalled: Collection[ChunkKey]) -> None:
        answers = await asyncio.gather(*map(self._ask, asks))
        chosen = [hit.key for hit in answers[0] if not hit.spare]
        self.hot.need(chosen or recalled)
        plan = self.prefetcher.plan(answers, self._room(chosen, recalled))
        self.fetches.give_up(plan.cancel)
        self.fetches.ahead([wanted.key for wanted in plan.fetch], self._told)

    def _room(self, chosen: Collection[ChunkKey], recalled: Collection[ChunkKey]) -> int:
        """Chunks that may be fetched ahead.

        What was recalled just now stands in the window already: what the coming step needs may push it out of the hot
        set, other guesses may not.
        """
        room = self.hot.beside_needed() // max(self.chunk_bytes, 1)
        needed = sum(key not in self.hot for key in chosen)
        recent = sum(key in self.hot and key not in chosen for key in recalled)
        return min(room, max(needed, room - recent))

    async def _ask(self, ask: Ask) -> Sequence[Hit]:
        try:
            return await self.finder.nearest(*ask)
        except WorldKVError:  # the step that needs it is told
            return ()

    def _told(self, key: ChunkKey, outcome: Outcome | None) -> None:
        if isinstance(outcome, Miss) or outcome is None:
            if outcome in GONE:
                self.prefetcher.ended(gone=[key])
            else:
                self.prefetcher.ended(failed=[key])
        else:
            self.prefetcher.ended(came=[key])
        self.changed()
