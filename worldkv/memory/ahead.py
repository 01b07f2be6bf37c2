"""Fetches ahead of the camera: what the prefetcher wants is asked for while a chunk is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from worldkv.chunk import ChunkKey
from worldkv.errors import WorldKVError
from worldkv.finder import Finder
from worldkv.index import Hit
from worldkv.memory.fetching import Fetches, Outcome
from worldkv.memory.hot import HotSet
from worldkv.motion import Held
from worldkv.pose import Matrix
from worldkv.prefetch import Ask, Prefetcher
from worldkv.select import Query
from worldkv.store import Miss
from worldkv.tasks import tell_defect

EXACT = 1e-9
"""What two views may differ by, as a forecast that came true and the view itself do, and be one question."""
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
        self._answered: list[tuple[Ask, Sequence[Hit] | None]] = []
        self._holds: object = object()  # as long as it is this one, what was asked would be asked again

    def answer(self, query: Query, k: int, exclude: Collection[int], spares: int) -> list[Hit] | None:
        """What the index has named for just this while the chunk before was drawn; None: nothing, or not yet.

        It would name the same now: what has come to the world since stands in the window, and is excluded.
        """
        for ask, hits in self._answered:
            if hits is not None and ask.spares >= spares and ask.k == k and _same(ask, query, exclude):
                chosen = [hit for hit in hits if not hit.spare]
                return chosen + [hit for hit in hits if hit.spare][:spares]
        return None

    def forget(self) -> None:
        """What was asked is not what would be asked now."""
        self._answered, self._holds = [], object()

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
        self.forget()
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
        holds = self._holds
        told = await asyncio.gather(*map(self._ask, asks))
        if holds is self._holds:
            self._answered = [*zip(asks, told, strict=True)]
        answers = [hits or () for hits in told]
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

    async def _ask(self, ask: Ask) -> Sequence[Hit] | None:
        try:
            return await self.finder.nearest(*ask)
        except WorldKVError:  # the step that needs it is told
            return None

    def _told(self, key: ChunkKey, outcome: Outcome | None) -> None:
        if isinstance(outcome, Miss) or outcome is None:
            if outcome in GONE:
                self.prefetcher.ended(gone=[key])
            else:
                self.prefetcher.ended(failed=[key])
        else:
            self.prefetcher.ended(came=[key])
        self.changed()


async def nearest(
    finder: Finder, ahead: Ahead | None, query: Query, k: int, exclude: Collection[int], spares: int
) -> list[Hit]:
    """What a finder names, or has named for just this while the chunk before was drawn. Raises what the finder does."""
    foreseen = ahead.answer(query, k, exclude, spares) if ahead else None
    return await finder.nearest(query, k, exclude, spares) if foreseen is None else foreseen


def _same(ask: Ask, query: Query, exclude: Collection[int]) -> bool:
    """Whether a question was asked before."""
    there = ask.query
    return (
        (there.fov, there.aspect, there.view_range) == (query.fov, query.aspect, query.view_range)
        and set(ask.exclude) == set(exclude)
        and not query.descriptor.size
        and _close(there.poses, query.poses)
        and _close(there.visible, query.visible)
    )


def _close(one: Matrix, other: Matrix) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0.0) <= EXACT)
