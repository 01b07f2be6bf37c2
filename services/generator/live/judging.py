"""Drawn pictures beside the true ones, in a thread that gives way to everything else."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from torch import Tensor

from services.generator.truth import psnr, seen_again, to_bytes
from worldkv import wire
from worldkv.actions import Walker
from worldkv.chunk import ChunkKey, Part
from worldkv.errors import WorldKVError
from worldkv.pose import Matrix
from worldkv.tasks import tell_defect
from worldkv.v1 import sessions_pb2 as pb

MOST = 4
"""Chunks that wait to be judged, of all sessions; what comes when so many wait is not judged."""
NICE = 10
"""How much the thread gives way, of 19."""

_log = logging.getLogger(__name__)

Render = Callable[[Sequence[Walker]], Tensor]
"""True views of walkers, one each: [pictures, 3, height, width] float32 in 0..1."""


class Judges:
    """The thread that all sessions of a generator are judged in."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "judge", _give_way)
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether as many chunks wait as may."""
        return self._waiting >= MOST

    async def judge(self, render: Render, chunk: _Chunk, shown: Sequence[_Shown], gap: int) -> _Verdict | None:
        """What is to be said of a chunk; None if its pictures are not those of its latent frames."""
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _judged, render, chunk, shown, gap)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Judge nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Judge:
    """Judges one session's chunks as they are drawn, and leaves out those that would have to wait for long.

    render  true views of the session's scene
    gap     latent frames after which a view counts as out of the window, see `seen_again`
    told    is given what is to be told
    """

    def __init__(self, judges: Judges, render: Render, gap: int, told: Callable[[pb.WalkResponse], None]) -> None:
        self.judges, self.render, self.gap, self.told = judges, render, gap, told
        self._shown: list[_Shown] = []
        self._found: list[_Found] = []
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._earliest = sys.maxsize  # that the session was taken back to

    def learn(self, part: Callable[[int], Awaitable[Part]], count: int) -> None:
        """Find out behind the caller's back which of a world's first `count` chunks were shown; until then, none is
        judged. `part` gives their immutable parts."""
        if count:
            self._learning = asyncio.create_task(self._learn(part, count), name="what was shown")
            self._learning.add_done_callback(tell_defect)

    def drawn(self, key: ChunkKey, poses: Matrix, pictures: Tensor, shown: bool) -> None:
        """A chunk was drawn, or taken from elsewhere.

        poses [frames, 4, 4], pictures [pictures, 3, height, width] float32 in 0..1
        """
        self.taken_back(key.index)
        begin = key.index * len(poses)
        if shown:
            self._shown.append(_Shown(key.index, begin, poses))
        elif not self.judges.busy and (self._learning is None or self._learning.done()):
            chunk = _Chunk(key, begin, poses, pictures)
            task = asyncio.create_task(self._judge(chunk, [*self._shown]), name=f"judge {key}")
            self._under_way[key.index] = task
            task.add_done_callback(tell_defect)

    def taken_back(self, at: int) -> None:
        """The session stands before chunk `at`: what came after is not of its world any more."""
        self._earliest = min(self._earliest, at)
        for each in (self._shown, self._found):
            while each and each[-1].index >= at:
                each.pop()
        for index in [index for index in self._under_way if index >= at]:
            self._under_way.pop(index).cancel()

    def close(self) -> None:
        """Judge nothing more, and find out nothing more."""
        self.taken_back(0)
        if self._learning is not None:
            self._learning.cancel()

    async def _learn(self, part: Callable[[int], Awaitable[Part]], count: int) -> None:
        before = list[_Shown]()
        try:
            for index in range(count):
                meta = (await part(index)).meta
                before += [_Shown(index, meta.begin, meta.poses)] if meta.shown else []
        except WorldKVError as error:
            _log.warning("what was shown is not known from chunk %d on: %s", index, error)
        self._shown = [each for each in before if each.index < self._earliest] + self._shown

    async def _judge(self, chunk: _Chunk, shown: Sequence[_Shown]) -> None:
        try:
            verdict = await self.judges.judge(self.render, chunk, shown, self.gap)
        finally:
            if self._under_way.get(chunk.key.index) is asyncio.current_task():
                del self._under_way[chunk.key.index]
        if verdict is None:
            return
        _, revisits, total = self._found[-1] if self._found else _Found(0, 0, 0.0)
        so_far = _Found(chunk.key.index, revisits + len(verdict.again), total + sum(verdict.again))
        self._found.append(so_far)
        judged = pb.Judged(
            key=wire.chunk_message(chunk.key),
            psnr=verdict.psnr,
            revisit_psnr=float(np.mean(verdict.again)) if verdict.again else 0.0,
            revisits=len(verdict.again),
            mean_revisit_psnr=so_far.total / so_far.revisits if so_far.revisits else 0.0,
        )
        self.told(pb.WalkResponse(judged=judged))


class _Shown(NamedTuple):
    """A chunk whose pictures came from elsewhere: time and poses of its latent frames."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of it
    begin: int
    poses: Matrix


class _Chunk(NamedTuple):
    """A chunk that is to be judged."""

    key: ChunkKey
    begin: int
    poses: Matrix
    pictures: Tensor


class _Verdict(NamedTuple):
    """What was found: the mean of all its pictures, and each of those that show a place again, dB."""

    psnr: float
    again: tuple[float, ...]


class _Found(NamedTuple):
    """What was found up to a chunk: pictures that show a place again, and the sum of their dB."""

    index: int  # type: ignore[assignment]  # as above
    revisits: int
    total: float


def _judged(render: Render, chunk: _Chunk, shown: Sequence[_Shown], gap: int) -> _Verdict | None:
    if len(chunk.pictures) != len(chunk.poses):
        return None
    found = psnr(to_bytes(chunk.pictures), to_bytes(render([Walker.of(pose) for pose in chunk.poses])))
    again: tuple[float, ...] = ()
    if shown:
        poses = np.concatenate([each.poses for each in shown])
        times = np.concatenate([np.arange(each.begin, each.begin + len(each.poses)) for each in shown])
        seen = (seen_again(pose, chunk.begin + n, poses, times, gap) for n, pose in enumerate(chunk.poses))
        again = tuple(float(each) for each, row in zip(found, seen, strict=True) if row is not None)
    return _Verdict(float(found.mean()), again)


def _give_way() -> None:
    """Let this thread, and those that it begins, run when nobody else wants to, where threads have priorities."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
