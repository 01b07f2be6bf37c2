"""Which chunks to fetch ahead of the camera, and which of the fetches on their way to give up.

It does no I/O, and holds no bytes: it is told what happened, says what it wants to know of the pose index, and with the
answers names keys. So one class serves an index in the same process and one behind a wire:

    asks = prefetcher.step(index, poses, held, recalled, at_hand, visible, exclude)
    plan = prefetcher.plan([await finder.nearest(*ask) for ask in asks])

The caller starts the fetches that the plan names, gives up those that it cancels, and tells `ended` what has come.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from worldkv.chunk import ChunkKey
from worldkv.errors import InvalidConfig, InvalidInput
from worldkv.index import Hit
from worldkv.motion import LATEST, LONGEST, Forecast, Held, predict
from worldkv.pose import Matrix, check
from worldkv.select import Query
from worldkv.select.seam import TIE

LATER = 0.7
"""By how much a choice is less likely to be recalled for each chunk ahead after the first, beside confidence. With it,
and the weights of forecasts, 0.9 of the chunks chosen for the next one are expected to be recalled; measured 0.90."""
SPARE = 0.1
"""Chance of a spare, as a share of a choice's."""


@dataclass(frozen=True)
class PrefetchConfig:
    """How chunks are fetched ahead.

    slots       chunks that a step recalls at most; twice as many are under way at most
    fov         horizontal field of view, radians
    aspect      height of the picture over its width
    view_range  how far a view is taken to reach, units
    ahead       chunks that are looked ahead, 1 to 3
    least       a chunk is fetched if its chance to be recalled is at least this, 0..1. At 0.2 only what a camera that
                goes on will need is fetched: fewer bytes are moved in vain, and more chunks come late
    """

    slots: int
    fov: float
    aspect: float
    view_range: float
    ahead: int = 2
    least: float = 0.05

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InvalidConfig(f"prefetch.slots must be at least 1, got {self.slots}")
        if not 1 <= self.ahead <= LONGEST:
            raise InvalidConfig(f"prefetch.ahead lies between 1 and {LONGEST}, got {self.ahead}")
        if not 0 <= self.least <= 1:
            raise InvalidConfig(f"prefetch.least is a share between 0 and 1, got {self.least}")


@dataclass
class PrefetchStats:
    """Counts since the prefetcher was made. Each request ends as one of those from used to failed.

    requested  fetches begun
    used       came, and was recalled when it was expected or sooner
    early      came, and was recalled later than expected: it took room for nothing meanwhile
    late       was recalled while it was still on its way
    wasted     came, and was let go of without being recalled
    cancelled  given up on its way
    gone       there was nothing to fetch
    failed     did not come, this time
    unforeseen recalled, without being at hand or on its way: not a request
    """

    requested: int = 0
    used: int = 0
    early: int = 0
    late: int = 0
    wasted: int = 0
    cancelled: int = 0
    gone: int = 0
    failed: int = 0
    unforeseen: int = 0


class Ask(NamedTuple):
    """What to ask the index, as it is asked: the arguments of `Finder.nearest`, in order."""

    query: Query
    k: int
    exclude: Collection[int]
    spares: int


class Wanted(NamedTuple):
    """A chunk to fetch.

    chunk       number of the chunk that is expected to recall it
    confidence  0..1: the chance that it is recalled by then
    """

    key: ChunkKey
    chunk: int
    confidence: float


class Plan(NamedTuple):
    """What to do now.

    fetch   chunks to fetch, the most urgent first: by the chunk that needs them, then by confidence
    cancel  fetches on their way that no forecast calls for any more, or that better ones leave no room for
    """

    fetch: tuple[Wanted, ...]
    cancel: tuple[ChunkKey, ...]


@dataclass
class _Request:
    expected: int
    came: bool = False


class Prefetcher:
    """Fetches ahead for one session.

    A chunk is wanted if the index chooses it for a forecast, or names it as a spare for the next chunk. The chance that
    it is recalled follows from how sure the forecast is, and what several forecasts call for is the surer. Of wanted
    chunks that are not at hand the surest are under way, never more than twice the slots.
    """

    def __init__(self, config: PrefetchConfig) -> None:
        self.config, self.stats = config, PrefetchStats()
        self._past: Matrix = np.empty((0, 4, 4))
        self._poses: Matrix = self._past
        self._index = -1
        self._requests: dict[ChunkKey, _Request] = {}
        self._at_hand: set[ChunkKey] = set()
        self._gone: set[ChunkKey] = set()
        self._forecasts: list[Forecast] = []

    @property
    def under_way(self) -> list[ChunkKey]:
        """Fetches that have neither ended nor been given up."""
        return [key for key, request in self._requests.items() if not request.came]

    def step(
        self,
        index: int,
        poses: Matrix,
        held: Held | None,
        recalled: Collection[ChunkKey],
        at_hand: Collection[ChunkKey],
        visible: Matrix,
        exclude: Collection[int],
    ) -> list[Ask]:
        """Take in a step that was made, and say what to ask the index for the steps to come.

        index     number of the chunk that was drawn. If it is not the next one, earlier poses are forgotten; the last
                  one again stands in its place: it was not drawn in the end
        poses     [frames, 4, 4]: where it was drawn from
        held      the action that was held during its last frame; None: not known
        recalled  chunks that it recalled
        at_hand   chunks that need no fetch now
        visible   [n, 4, 4]: frames that will stand in the window anyway (sink and recent)
        exclude   chunk numbers that will not be recalled, because they do

        Raises InvalidPose or InvalidInput for values that cannot be.
        """
        new = check(poses)
        if new.ndim != 3 or not len(new):
            raise InvalidInput(f"a chunk has poses [frames, 4, 4], at least one, got {new.shape}")
        if index != self._index:
            self._past = self._poses if index == self._index + 1 else new[:0]
        c = self.config
        latest = np.concatenate([self._past, new])[-LATEST:]
        forecasts = predict(latest, held, c.ahead, len(new), c.view_range)
        queries = [Query(f.poses, c.fov, c.aspect, c.view_range, visible) for f in forecasts]
        self._poses, self._index, self._forecasts = latest, index, forecasts
        self._settle(recalled, set(at_hand))
        # The first forecast is the next chunk's, should the camera go on.
        return [Ask(query, c.slots, exclude, 0 if place else 2 * c.slots) for place, query in enumerate(queries)]

    def plan(self, answers: Sequence[Sequence[Hit]], most: int | None = None) -> Plan:
        """What to fetch and what to give up, by the answers to what the last step asked, in order.

        most  chunks that there is room for; None: as many as may be under way

        An empty answer may stand for one that did not come. Raises InvalidInput for another number of answers.
        """
        if len(answers) != len(self._forecasts):
            raise InvalidInput(f"the last step asked {len(self._forecasts)} things, got {len(answers)} answers")
        wanted = self._wanted(answers, 2 * self.config.slots if most is None else min(most, 2 * self.config.slots))
        fetch = [each for each in wanted.values() if each.key not in self._requests]
        cancel = [key for key in self.under_way if key not in wanted]
        for key in cancel:
            del self._requests[key]
        self._requests |= {each.key: _Request(each.chunk) for each in fetch}
        self.stats.requested += len(fetch)
        self.stats.cancelled += len(cancel)
        return Plan(tuple(sorted(fetch, key=lambda w: w.chunk)), tuple(cancel))

    def ended(
        self,
        came: Collection[ChunkKey] = (),
        gone: Collection[ChunkKey] = (),
        failed: Collection[ChunkKey] = (),
    ) -> None:
        """Tell which fetches brought their chunk, for which there was none: those are not wanted again; and which
        failed, and may be tried again."""
        for key in came:
            if key in self._requests:
                self._requests[key].came = True
        for key in gone:
            if self._requests.pop(key, None):
                self.stats.gone += 1
        self._gone.update(gone)
        for key in failed:
            if self._requests.pop(key, None):
                self.stats.failed += 1

    def _settle(self, recalled: Collection[ChunkKey], at_hand: set[ChunkKey]) -> None:
        """Count what became of the requests by the step that was made."""
        self._gone.difference_update(recalled)  # made again meanwhile
        for key in recalled:
            request = self._requests.pop(key, None)
            if request is None:
                self.stats.unforeseen += key not in self._at_hand
            elif not request.came:
                self.stats.late += 1
            elif self._index > request.expected:
                self.stats.early += 1
            else:
                self.stats.used += 1
        for key in [key for key, request in self._requests.items() if request.came and key not in at_hand]:
            del self._requests[key]
            self.stats.wasted += 1
        self._at_hand = at_hand

    def _wanted(self, answers: Sequence[Sequence[Hit]], most: int) -> dict[ChunkKey, Wanted]:
        """The surest chunks that are not at hand, at most so many."""
        unused: dict[ChunkKey, float] = {}
        expected: dict[ChunkKey, int] = {}
        for forecast, hits in zip(self._forecasts, answers, strict=True):
            chance = forecast.confidence * forecast.weight * LATER ** (forecast.chunk - 1)
            for hit in hits:
                if hit.key in self._at_hand or hit.key in self._gone:
                    continue
                unused[hit.key] = unused.get(hit.key, 1.0) * (1 - chance * (SPARE if hit.spare else 1))
                if not hit.spare:
                    expected[hit.key] = min(expected.get(hit.key, LONGEST), forecast.chunk)
        found = [Wanted(key, self._index + expected.get(key, 1), 1 - rest) for key, rest in unused.items()]
        found = sorted((w for w in found if w.confidence >= self.config.least), key=lambda w: -round(w.confidence, TIE))
        return {w.key: w for w in found[:most]}
