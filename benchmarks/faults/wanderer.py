"""A walk to and fro before a service that is being hurt, and all that its user sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.faults.promises import Promises
from pocket.rooms import FIELD_OF_VIEW, Renderer
from services.generator.metrics import psnr
from services.generator.recording import revisits
from services.generator.scenarios import Scenario, spins
from services.generator.walks import BASELINE_GAP
from worldkv.actions import Walker
from worldkv.client import WalkClient
from worldkv.client.listening import Events
from worldkv.client.pictures import Pictures
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Drawn, Notice
from worldkv.errors import NotFound, WorldKVError

ROUNDS = 60
"""Full turns of a walk, to and fro: more than anybody has the time for."""
FRAMES = 3
"""Latent frames of a chunk, each a picture."""


@dataclass(frozen=True)
class Step:
    """A chunk that was drawn.

    index            its number
    asked, answered  when, by the clock of this process
    recalled         chunks that were put back into its window; reencoded: of these, made again from latents
    left_out         chunks that did not come in time
    looks_again      whether all its frames show what was shown, and not lately
    psnr             of its pictures against the truth, dB
    """

    index: int
    asked: float
    answered: float
    recalled: int
    reencoded: int
    left_out: int
    looks_again: bool
    psnr: float

    @property
    def recalls(self) -> bool:
        """Whether all that was to be recalled for it came."""
        return self.recalled > 0 and not self.left_out

    @property
    def seconds(self) -> float:
        """That it was waited for."""
        return self.answered - self.asked


class Wanderer:
    """Looks round in a world by its true pictures, then turns to and fro at the speed at which it is played.

    steps     chunks that were drawn, the shown ones not among them
    notices   that were given
    promises  what the service said it keeps
    ended     what ended the walk, if anything did

    lockstep  wait for memory
    paced     draw a chunk only when the one before it has been played
    most      chunks; None: until it is told to stop
    """

    def __init__(
        self, client: WalkClient, seed: int, lockstep: bool = False, paced: bool = True, most: int | None = None
    ) -> None:
        self.steps: list[Step] = []
        self.notices: list[Notice] = []
        self.promises = Promises()
        self.ended: WorldKVError | None = None
        self.walk: Walk | None = None
        self._client, self._scenario, self._lockstep = client, wandering(seed), lockstep
        self._paced, self._most = paced, most
        self._stopped = asyncio.Event()
        self._went_on = asyncio.Event()

    def stop(self) -> None:
        """Walk no further, once what is asked for has come."""
        self._stopped.set()

    async def drawn(self, chunks: int) -> None:
        """Wait until so many chunks were drawn, or the walk has ended."""
        while len(self.steps) < chunks and self.ended is None:
            await self._went_on.wait()

    async def run(self) -> None:
        """Walk until it is told to stop, then close the session; what ends it before is taken note of."""
        walk = self._scenario
        opening = self._client.open(
            f"rooms:{walk.rooms.seed}", start=walk.start, seed=walk.seed, lockstep=self._lockstep, pictures="rgb32f"
        )
        try:
            async with opening as self.walk:
                listening = asyncio.create_task(self._listen(self.walk.events()))
                try:
                    await self._go(self.walk)
                    self.promises.said(await self.walk.close())
                finally:
                    await self.walk.leave()  # with it events end
                    await asyncio.gather(listening, return_exceptions=True)  # what ended the walk ends both
        except WorldKVError as error:
            self.ended = error
        self._tell()

    async def _go(self, walk: Walk) -> None:
        scenario = self._scenario
        for begin in range(0, scenario.shown, FRAMES):
            await walk.show(truth(scenario.seed, begin), walkers(scenario.seed)[begin : begin + FRAMES])
        begin = scenario.shown
        while not self._stopped.is_set() and len(self.steps) != self._most:
            asked = monotonic()
            self._see(await walk.move(scenario.actions[begin - 1 : begin - 1 + FRAMES]), begin, asked)
            begin += FRAMES
            playing = FRAMES / walk.opened.pictures_per_second if self._paced else 0.0
            await asyncio.sleep(max(asked + playing - monotonic(), 0))

    def _see(self, drawn: Drawn, begin: int, asked: float) -> None:
        self.steps.append(
            Step(
                drawn.key.index,
                asked,
                monotonic(),
                len(drawn.recalled),
                sum(each.reencoded for each in drawn.recalled),
                drawn.left_out,
                all(frame in again(self._scenario.seed) for frame in range(begin, begin + FRAMES)),
                float(psnr(_bytes(drawn.pictures), _bytes(truth(self._scenario.seed, begin))).mean()),
            )
        )
        self._tell()

    def _tell(self) -> None:
        went_on, self._went_on = self._went_on, asyncio.Event()
        went_on.set()

    async def _listen(self, events: Events) -> None:
        async for event in events:
            self.promises.hear(event)
            if isinstance(event, Notice):
                self.notices.append(event)


async def home_of(session: str, generators: Iterable[str]) -> str:
    """The address of the generator that draws a session that is joined. Raises NotFound if none of these does."""
    for address in generators:
        async with WalkClient(address) as client:
            if any(each.session == session and each.joined for each in await client.sessions()):
                return address
    raise NotFound(f"no generator draws session {session}")


@cache
def wandering(seed: int) -> Scenario:
    """The walk of this seed."""
    return spins(seed, rounds=ROUNDS)


@cache
def walkers(seed: int) -> Sequence[Walker]:
    """Where a walk leads, by latent frame."""
    return wandering(seed).walkers


@cache
def again(seed: int) -> frozenset[int]:
    """Frames of a walk that show what was shown before, longer ago than a window holds."""
    poses = np.stack([walker.pose for walker in walkers(seed)])
    return frozenset(generated for generated, _ in revisits(poses, wandering(seed).shown, BASELINE_GAP))


@cache
def truth(seed: int, begin: int) -> NDArray[np.float32]:
    """The true pictures [frames, height, width, 3] of a chunk that begins with this frame, in 0..1."""
    poses = torch.from_numpy(np.stack([walker.pose for walker in walkers(seed)[begin : begin + FRAMES]]))
    pictures, _ = _renderer(seed)(torch.zeros(FRAMES, dtype=torch.int64), poses)
    return np.ascontiguousarray(pictures.clamp(0, 1).permute(0, 2, 3, 1).numpy())


@cache
def _renderer(seed: int) -> Renderer:
    from benchmarks.judged import model

    _, height, width = model().spec.latent
    return Renderer([wandering(seed).rooms], height, width, FIELD_OF_VIEW)


def _bytes(pictures: Pictures) -> NDArray[np.uint8]:
    return np.asarray((pictures * 255).round().astype(np.uint8))


def mean_psnr(steps: Sequence[Step]) -> float:
    """Of the chunks that look again; NaN if none does."""
    found = [step.psnr for step in steps if step.looks_again]
    return float(np.mean(found)) if found else float("nan")
