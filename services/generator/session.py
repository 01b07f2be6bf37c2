"""A live walk: actions in, pictures out, and a memory kept on the way.

One code path for three modes: they differ only in which chunks stand in the window.

    window   first in, first out: as many latent frames as worldkv's whole window, no sink
    full     every chunk, never dropped
    worldkv  sink, recalled, recent

A chunk is made in three phases, so that many sessions can be drawn together: `begin` says what it is drawn from,
`drawing.draw` draws it, `end` remembers it. Nothing of the session changes before its chunk is remembered: what fails
on the way, or is given up, leaves it where it stood.

Noise is counter-based on (seed, chunk number): there is no random state to save.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import radians
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from services.generator.drawing import Context as Context
from services.generator.drawing import Draft, Drawn, Shape, draw, encode_again, window_for
from services.generator.modes import SessionConfig as SessionConfig
from services.generator.modes import slot_sizes, stays
from services.generator.step import HeldBytes, Seconds
from services.generator.step import Mode as Mode
from services.generator.step import Step as Step
from services.generator.world_model import Conditioning, State, Subject, WorldModel
from worldkv.actions import Action, Slide, Walker, follow, unhindered
from worldkv.chunk import Lineage, Meta, Part
from worldkv.coding import KV
from worldkv.errors import Conflict, InvalidConfig, InvalidInput
from worldkv.format import Frame
from worldkv.memory import Memory, Recalled, RecallReport
from worldkv.pose import Matrix
from worldkv.select import Query
from worldkv.window import Entry, Window, positions


@dataclass(frozen=True, eq=False)
class HeldChunk:
    """A chunk that stands in the window uncoded.

    poses [frames, 4, 4] camera-to-world
    """

    index: int
    poses: Matrix
    kv: KV


@dataclass(frozen=True, eq=False)
class SessionState:
    """All that a session is besides its model, its configuration and its memory.

    spec    digest of the model spec
    seed    of the noise, whatever the configuration says
    next    number of the next chunk to be drawn
    walker  where the walker stands
    held    chunks that stand in the window uncoded, by number
    model   state of the model, as bytes; may share memory with the state
    """

    spec: str
    seed: int
    next: int
    walker: Walker
    held: tuple[HeldChunk, ...]
    model: Frame


_SERIAL = count()
"""Tells keys and values of one chunk from others of the same chunk, made again or read from a store."""

OnModel = Callable[[Callable[[], KV]], Awaitable[KV]]
"""Runs a clean pass where, and when, the model may run."""


class Session:
    """One walk through one world, written to one branch.

    Nothing random is kept; a session is its model, its memory, its seed and where the walker stands.
    `memory` is required by mode `worldkv`. The others draw the same with one or without: nothing is recalled, but what
    is drawn is kept, so that the session can be configured to recall it.
    `on_model` has a lost chunk made again where the model runs; without it that happens in the caller's thread.
    `state` is the model's, as its `start` gives it; without one the world is about nothing that anybody said.
    """

    def __init__(
        self,
        model: WorldModel,
        config: SessionConfig,
        walker: Walker,
        memory: Memory | None = None,
        slide: Slide = unhindered,
        on_model: OnModel | None = None,
        state: State | None = None,
    ) -> None:
        _require(memory, config)
        self.model, self.config, self.walker, self.memory, self.slide = model, config, walker, memory, slide
        self.on_model = on_model
        self.lineage = memory.lineage if memory else Lineage.begin()
        self.state = model.start(Subject()) if state is None else state
        self.next = 0
        self._raw: dict[int, Entry] = {}
        self._poses: dict[int, Matrix] = {}
        self._window: Window | None = None
        self._draft: Draft | None = None
        self._beginning = False

    @classmethod
    def restore(
        cls,
        model: WorldModel,
        config: SessionConfig,
        state: SessionState,
        memory: Memory | None = None,
        slide: Slide = unhindered,
        on_model: OnModel | None = None,
    ) -> Session:
        """The session that was saved: it draws what the saved one would have drawn. Raises SpecMismatch, or
        ChunkCorrupt for a state of the model that is none."""
        model.spec.require(state.spec)
        of_model = model.start()
        of_model.from_bytes(state.model)
        session = cls(model, replace(config, seed=state.seed), state.walker, memory, slide, on_model, of_model)
        session.next = state.next
        for held in state.held:
            session._hold(held.index, held.poses, held.kv)
        return session

    def save(self) -> SessionState:
        """What the session is between two chunks; shares its memory, which is never changed."""
        seed, digest = self.config.seed, self.model.spec.digest
        return SessionState(digest, seed, self.next, self.walker, self.held, self.state.to_bytes())

    def configure(self, config: SessionConfig, held: Sequence[HeldChunk]) -> None:
        """Walk on like this from the next chunk on, with these chunks in the window; the seed stays.

        held  see `stays`

        Raises Conflict while a chunk is being drawn.
        """
        if self._beginning or self._draft:
            raise Conflict(f"chunk {self.next} is being drawn: it is configured before or after that")
        _require(self.memory, config)
        before = {each.index: each for each in self.held}
        self.config, self._window = replace(config, seed=self.config.seed), None
        for index in self._raw.keys() - {each.index for each in held}:
            del self._raw[index], self._poses[index]
        for each in held:
            if each.index not in before or before[each.index].kv is not each.kv:
                self._hold(each.index, each.poses, each.kv)

    @property
    def held(self) -> tuple[HeldChunk, ...]:
        """The chunks that stand in the window uncoded, by number."""
        return tuple(HeldChunk(i, self._poses[i], self._raw[i].kv) for i in sorted(self._raw))

    @property
    def frames(self) -> int:
        """Latent frames of a chunk."""
        return self.model.spec.frames

    @property
    def raw_bytes(self) -> int:
        """Bytes of keys and values held uncoded for the window."""
        return sum(entry.kv.nbytes for entry in self._raw.values())

    async def step(self, actions: Action | Sequence[Action]) -> Step:
        """Draw the next chunk by itself.

        actions: one a latent frame, or one that is held for the whole chunk. Raises InvalidInput for another number.
        """
        return await self._alone(await self.begin(actions))

    async def show(self, pictures: Tensor, walkers: Sequence[Walker]) -> Step:
        """Take pictures from elsewhere as the next chunk; the walker goes on from the last of them.

        pictures [frames, 3, height, width] float32 in 0..1, walkers: where each was taken.
        """
        return await self._alone(await self.begin_shown(pictures, walkers))

    async def _alone(self, draft: Draft) -> Step:
        try:
            self._window = window_for(self.model, draft.shape.sizes, self._window)
            (drawn,) = draw(self.model, self._window, [0], [draft])
            return await self.end(draft, drawn)
        finally:
            self.abandon(draft)

    async def begin(self, actions: Action | Sequence[Action]) -> Draft:
        """What the next chunk is to be drawn from, recall included; to be ended or abandoned before the next begin.

        actions  as for `step`

        Raises Conflict while another chunk is being drawn.
        """
        given = [actions] * self.frames if isinstance(actions, Action) else list(actions)
        if len(given) != self.frames:
            raise InvalidInput(f"a step takes one action or {self.frames}, got {len(given)}")
        held = [each.only(self.model.axes) for each in given]
        return await self._begin(follow(self.walker, held, self.slide)[1:], None, held[-1])

    async def begin_shown(self, pictures: Tensor, walkers: Sequence[Walker]) -> Draft:
        """The same for pictures from elsewhere; arguments as for `show`."""
        if pictures.shape[0] != self.frames or len(walkers) != self.frames:
            raise InvalidInput(f"show takes {self.frames} pictures and places, got {len(pictures)} and {len(walkers)}")
        return await self._begin(walkers, pictures, None)

    async def end(self, draft: Draft, drawn: Drawn) -> Step:
        """Remember a chunk that was drawn; the session is at the next one.

        Raises what `Memory.remember` raises: the draft can then be ended again, or abandoned.
        """
        if draft is not self._draft:
            raise InvalidInput(f"chunk {draft.index} was ended or abandoned before; the next is {self.next}")
        began, memory = perf_counter(), self.memory
        if memory:
            await memory.remember(self._part(draft, drawn), drawn.kv)
        self.walker, self.state, self.next, self._draft = draft.walker, drawn.state, draft.index + 1, None
        self._hold(draft.index, draft.conditioning.poses, drawn.kv)
        kept = self._kept(self._raw.keys())
        for index in self._raw.keys() - kept:
            del self._raw[index], self._poses[index]
        fetch, decode = draft.recall.fetch_seconds, draft.recall.decode_seconds
        lookup, keep = draft.recall_seconds - fetch - decode, perf_counter() - began
        return Step(
            index=draft.index,
            pictures=drawn.pictures,
            poses=draft.conditioning.poses,
            mode=self.config.mode,
            recalled=draft.recalled,
            missed=draft.recall.missed,
            let_go=memory.let_go() if memory else (),
            held=self._held_bytes(draft.shape.sizes),
            seconds=Seconds(lookup, fetch, decode, drawn.window_seconds, drawn.model_seconds, keep),
        )

    def abandon(self, draft: Draft) -> None:
        """Give up a draft: the session stands where it stood. One that was ended or abandoned before is let be."""
        if draft is self._draft:
            self._draft = None

    def view(self, poses: Matrix, visible: Matrix | None = None) -> Query:
        """What the camera sees from poses [frames, 4, 4], beside frames [n, 4, 4] that stand in the window anyway."""
        spec = self.model.spec
        lens = radians(self.config.fov), spec.latent[1] / spec.latent[2]
        return Query(poses, *lens, spec.view_range, np.empty((0, 4, 4)) if visible is None else visible)

    def noise(self, index: int) -> Tensor:
        """Noise of chunk `index`, [frames, channels, height, width]: the same for the same seed, on every machine."""
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.config.seed, index)).generate_state(1)[0])
        )
        return torch.randn(self.frames, *self.model.spec.latent, generator=generator)

    async def _begin(self, walkers: Sequence[Walker], shown: Tensor | None, held: Action | None) -> Draft:
        if self._beginning or self._draft:
            raise Conflict(f"chunk {self.next} is being drawn already")
        self._beginning = True
        try:
            poses = np.stack([walker.pose for walker in walkers])
            began = perf_counter()
            recalled, report = await self._recall(poses, held)
            recall_seconds = perf_counter() - began
        finally:
            self._beginning = False
        entries = self._arrange([r.entry for r in recalled])
        placement = self.config.window.placement if self.config.mode == "worldkv" else "original"
        at, position = positions(entries, self.next * self.frames, placement)
        self._draft = Draft(
            index=self.next,
            walker=walkers[-1],
            conditioning=Conditioning(poses, self.state.conditioning(poses)),
            shape=Shape(self._sizes(), self.config.mode == "full", shown is not None, self.config.context),
            entries=tuple(entries),
            at=tuple(at),
            position=position,
            source=self.noise(self.next) if shown is None else shown,
            state=self.state,
            recalled=tuple(recalled),
            recall=report,
            recall_seconds=recall_seconds,
        )
        return self._draft

    def _sizes(self) -> tuple[int, ...]:
        """Tokens of each slot of the window."""
        memory = self.memory
        recalled = [memory.slot_tokens] * memory.slots if memory else []
        return slot_sizes(self.model.spec, self.config, recalled, len(self._raw))

    async def _recall(self, poses: Matrix, held: Action | None) -> tuple[list[Recalled], RecallReport]:
        """What is put back for the coming chunk; what the one after it will need is fetched meanwhile."""
        if self.memory is None or self.config.mode != "worldkv" or not self._raw:
            return [], RecallReport()
        query = self.view(poses, np.concatenate([self._poses[i] for i in self._raw]))
        recalled = await self.memory.recall(query, self._raw.keys(), self._reencode)
        report = self.memory.latest
        stay = self._kept({*self._raw, self.next})
        visible = np.concatenate([self._poses.get(i, poses) for i in sorted(stay)])
        await self.memory.ahead(self.next, poses, held, recalled, visible, stay)
        return recalled, report

    def _held_bytes(self, sizes: Sequence[int]) -> HeldBytes:
        spec, memory = self.model.spec, self.memory
        row = sum(sizes) * spec.raw_bytes // (spec.frames * spec.frame_tokens)
        kept = (memory.hot_bytes, memory.queued_bytes, memory.kv_bytes) if memory else (0, 0, 0)
        return HeldBytes(row + self.raw_bytes, *kept)

    def _arrange(self, recalled: list[Entry]) -> list[Entry | None]:
        """The chunk for each slot: [ sink | recalled | recent ], or simply all that is held."""
        held = [self._raw[i] for i in sorted(self._raw)]
        if self.memory is None or self.config.mode != "worldkv":
            return list(held)
        sinks = self.config.window.sink // self.frames
        sink: list[Entry | None] = list(held[:sinks])
        spare = [None] * (self.memory.slots - len(recalled))
        return sink + [None] * (sinks - len(sink)) + recalled + spare + held[sinks:]

    def _part(self, draft: Draft, drawn: Drawn) -> Part:
        """The immutable part of a chunk."""
        spec = self.model.spec
        meta = Meta(
            key=self.lineage.key(draft.index),
            spec=spec.digest,
            begin=draft.index * self.frames,
            poses=draft.conditioning.poses,
            fov=radians(self.config.fov),
            aspect=spec.latent[1] / spec.latent[2],
            recalled=tuple(r.hit.key for r in draft.recalled),
            shown=draft.shape.shown,
        )
        return Part(meta, drawn.latents.to(torch.float16).cpu().numpy(), draft.conditioning.extra)

    def _hold(self, index: int, poses: Matrix, kv: KV) -> None:
        tag = (self.lineage.key(index), next(_SERIAL))  # whatever stood in a row under this key before is not this
        self._raw[index] = Entry(tag, index * self.frames, self.frames, kv)
        self._poses[index] = poses

    def _kept(self, indices: Collection[int]) -> set[int]:
        """Which of these chunks the window holds uncoded."""
        return stays(self.config, self.frames, indices)

    def _reencode(self, part: Part, before: Sequence[Entry]) -> KV | Awaitable[KV]:
        again = partial(encode_again, self.model, part, before, self.config.window.placement, self.config.context)
        return self.on_model(again) if self.on_model else again()


def _require(memory: Memory | None, config: SessionConfig) -> None:
    if memory is None and config.mode == "worldkv":
        raise InvalidConfig("mode 'worldkv' needs a memory, got none")
