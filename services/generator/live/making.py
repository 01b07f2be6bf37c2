"""Makes sessions: new ones, saved ones, and those of which only the world is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from services.generator.config import GeneratorConfig
from services.generator.drawing import decode_again
from services.generator.engine import Engine
from services.generator.live.judging import Judge, Judges
from services.generator.live.rebuilding import Rebuilder
from services.generator.saving import Record
from services.generator.scenes import Scene, scene
from services.generator.session import HeldChunk, Session, SessionConfig, SessionState
from services.generator.settings import Choices, Settings
from services.generator.tier import Tier, Tiers
from services.generator.truth import baseline_gap
from services.generator.world_model import State, Subject, WorldModel
from worldkv.actions import Walker, follow, parse_path
from worldkv.chunk import Lineage, Part
from worldkv.coding import Coding
from worldkv.errors import InvalidInput, NotFound
from worldkv.memory import Kept, Memory, MemoryConfig, Ours
from worldkv.store import Store
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MemoryChange

_log = logging.getLogger(__name__)

MAX_TOUR = 120
"""Chunks of a tour, at most."""
MAX_TOUR_TEXT = 4096
"""Characters of its path, at most."""


@dataclass(frozen=True)
class Maker:
    """What all sessions of a generator are made with.

    coding  of chunks that are stored
    choices  what sessions may choose of how they remember
    judges   compare what they draw with the truth
    pictures, height, width  of a chunk
    hearing  held by whoever hears what a world is about beside the model: it may take much memory, and long
    """

    config: GeneratorConfig
    model: WorldModel
    engine: Engine
    tiers: Tiers
    coding: Coding
    choices: Choices
    judges: Judges
    pictures: int
    height: int
    width: int
    hearing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def playing_seconds(self) -> float:
        """For which a chunk is played."""
        return self.pictures / self.config.live.pictures_per_second

    def tier(self, tenant: str) -> Tier:
        """What a tenant's sessions are remembered by."""
        return self.tiers(tenant)

    def scene(self, words: str | None) -> Scene:
        """A world as it is entered, None: nobody knows. InvalidInput for words that mean nothing to the model."""
        return Scene(Walker(0.0, 0.0)) if words is None else scene(self.model.spec, words)

    def judge(
        self, tenant: str, record: Record, lineage: Lineage, told: Callable[[pb.WalkResponse], None]
    ) -> Judge | None:
        """What judges a session's pictures, if that was asked for and its scene has true ones."""
        render = self.scene(record.scene).pictures if record.judged else None
        if render is None:
            return None
        judge = Judge(self.judges, render, baseline_gap(self.config.memory.window, self.model.spec.frames), told)
        judge.learn(self.rebuilder(record, self.tier(tenant).store, lineage).part, record.next)
        return judge

    def tour(self, record: Record) -> list[tuple[Walker, ...]]:
        """Where the walker is at each latent frame of each chunk of a session's tour, none without one.

        Raises InvalidInput for a path that cannot be read, or is too long, or where there is nothing to show.
        """
        if not record.tour:
            return []
        place, frames = self.scene(record.scene), self.model.spec.frames
        if place.pictures is None:
            raise InvalidInput(f"{self.model.spec.model} has no true pictures to show on tour {record.tour[:80]!r}")
        if len(record.tour) > MAX_TOUR_TEXT:
            raise InvalidInput(f"a tour has at most {MAX_TOUR_TEXT} characters, got {len(record.tour)}")
        actions = parse_path(record.tour)
        if len(actions) > MAX_TOUR * frames:
            raise InvalidInput(f"a tour has at most {MAX_TOUR * frames} latent frames, got {len(actions)}")
        walkers = follow(record.start, actions, place.slide)
        walkers += [walkers[-1]] * (-len(walkers) % frames)
        return [tuple(walkers[n : n + frames]) for n in range(0, len(walkers), frames)]

    def walking(self, record: Record) -> SessionConfig:
        """How a session walks."""
        return self.config.memory.walking(record.mode, record.seed)

    def settings(self, record: Record) -> Settings:
        """How a session remembers: as it has chosen, where the service still has that."""
        plain = self.config.memory.settings(self.model, record.mode)
        try:
            return self.choices.check(plain.changed(record.chosen))
        except InvalidInput as error:
            _log.warning("a session of world %r remembers as by default: %s", record.world, error)
            return plain

    def chosen(self, record: Record, change: MemoryChange) -> Record:
        """The record of a session that changes how it remembers. Raises InvalidInput naming what cannot be."""
        mode, chosen = change.mode or record.mode, replace(change, mode=None)
        told = {name: value for name, value in vars(chosen).items() if value is not None}
        after = replace(record, mode=mode, chosen=replace(record.chosen, **told))
        self.choices.check(self.config.memory.settings(self.model, mode).changed(after.chosen))
        return after

    def remembering(self, record: Record) -> MemoryConfig:
        """How a session's memory is told to work."""
        return self.config.memory.of_session(self.model, self.settings(record), record.lockstep, self.playing_seconds)

    def memory(self, tenant: str, record: Record, lineage: Lineage, kept: Kept, ours: Ours) -> Memory:
        """The memory of a session's world, so much of which is kept. `ours` as in `Memory`."""
        spec, tier, window = self.model.spec, self.tier(tenant), self.config.memory.window
        device = self.config.memory.device(self.model)
        finder = tier.finder(lineage, self.settings(record).selector, spec.digest, kept.end, record.lockstep)
        return Memory(spec, window, self.remembering(record), tier.store, finder, lineage, kept, ours, device)

    def subject(self, record: Record) -> Subject:
        """What a session's world is about. Raises NotFound if that is not known any more."""
        if record.elsewhere is not None and not record.picture:
            raise NotFound(f"the picture that world {record.world!r} begins from is gone: it cannot be made again")
        return Subject(record.scene or "", record.picture)

    async def hear(self, record: Record) -> None:
        """Have the model hear what a session's world is about. Raises InvalidInput for what it cannot be told."""
        async with self.hearing:
            rest = await asyncio.to_thread(self.model.hear, self.subject(record))
        await self.engine.run(rest)

    async def restored(self, record: Record, state: SessionState, memory: Memory) -> Session:
        """A session that goes on as the saved one would have."""
        config, slide = self.walking(record), self.scene(record.scene).slide
        return await self.engine.run(
            partial(Session.restore, self.model, config, state, memory, slide, self.engine.run)
        )

    async def rebuilt(self, record: Record, memory: Memory, known: Mapping[int, HeldChunk] | None = None) -> Session:
        """A session that goes on before chunk `record.next`, from what its world holds.

        known  chunks of its window that are at hand

        Raises what `Rebuilder.held` does.
        """
        rebuilder = self.rebuilder(record, memory.store, memory.lineage)
        last = await rebuilder.part(record.next - 1) if record.next else None
        await self.hear(record)
        # What the world is about, by which chunks are made again, is known as long as somebody holds it.
        begun = await self.engine.run(partial(self._begun, record, last))
        state = SessionState(
            spec=self.model.spec.digest,
            seed=record.seed,
            next=record.next,
            walker=record.walker,
            held=await rebuilder.held(record.next, known or {}),
            model=await self.engine.run(begun.to_bytes),
        )
        return await self.restored(record, state, memory)

    def _begun(self, record: Record, last: Part | None) -> State:
        """The model's state before chunk `record.next`, where nobody saved it; `last`: the chunk before that one."""
        begin, before = record.next * self.model.spec.frames, None if last is None else last.meta.poses
        state = self.model.start(self.subject(record), begin, before)
        if last is not None:  # what a chunk looks like may depend on the one before it
            decode_again(self.model, state, last)
        return state

    def rebuilder(self, record: Record, store: Store, lineage: Lineage) -> Rebuilder:
        """What makes chunks of a world again."""
        return Rebuilder(self.model, self.engine.run, self.walking(record), self.coding.fitted, store, lineage)
