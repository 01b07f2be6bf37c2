"""Makes sessions: new ones, saved ones, and those of which only the world is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.generator.config import GeneratorConfig
from services.generator.engine import Engine
from services.generator.live.rebuilding import Rebuilder
from services.generator.saving import Record
from services.generator.scenes import Scene, scene
from services.generator.session import HeldChunk, Session, SessionConfig, SessionState
from services.generator.tier import Tier, Tiers
from services.generator.world_model import WorldModel
from worldkv.actions import Walker, follow, parse_path
from worldkv.chunk import Lineage
from worldkv.coding import Coding
from worldkv.errors import InvalidInput
from worldkv.memory import Kept, Memory
from worldkv.store import Store

MAX_TOUR = 120
"""Chunks of a tour, at most."""
MAX_TOUR_TEXT = 4096
"""Characters of its path, at most."""


@dataclass(frozen=True)
class Maker:
    """What all sessions of a generator are made with.

    coding  of chunks that are stored
    pictures, height, width  of a chunk
    """

    config: GeneratorConfig
    model: WorldModel
    engine: Engine
    tiers: Tiers
    coding: Coding
    pictures: int
    height: int
    width: int

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

    def memory(self, tenant: str, record: Record, lineage: Lineage, kept: Kept) -> Memory | None:
        """The memory of a session's world, so much of which is kept; None for modes that remember nothing."""
        if record.mode != "worldkv":
            return None
        settings, spec, tier = self.config.memory, self.model.spec, self.tier(tenant)
        config = settings.of_session(self.coding, record.lockstep, self.playing_seconds)
        finder = tier.finder(lineage, settings.selector, spec.digest, kept.end, record.lockstep)
        return Memory(spec, settings.window, config, tier.store, finder, lineage, kept=kept)

    def restored(self, record: Record, state: SessionState, memory: Memory | None) -> Session:
        """A session that goes on as the saved one would have."""
        return Session.restore(
            self.model, self.walking(record), state, memory, self.scene(record.scene).slide, self.engine.run
        )

    async def rebuilt(
        self, record: Record, memory: Memory | None, known: Mapping[int, HeldChunk] | None = None
    ) -> Session:
        """A session that goes on before chunk `record.next`, from what its world holds.

        known  chunks of its window that are at hand

        Raises what `Rebuilder.held` does.
        """
        held: tuple[HeldChunk, ...] = ()
        if record.next:
            assert memory is not None, f"mode {record.mode} has nothing to go on from"
            rebuilder = self.rebuilder(record, memory.store, memory.lineage)
            held = await rebuilder.held(record.next, known or {})
        before = next((each.poses for each in held if each.index == record.next - 1), None)
        state = SessionState(
            spec=self.model.spec.digest,
            seed=record.seed,
            next=record.next,
            walker=record.walker,
            held=held,
            model=self.model.start(record.next * self.model.spec.frames, before).to_bytes(),
        )
        return self.restored(record, state, memory)

    def rebuilder(self, record: Record, store: Store, lineage: Lineage) -> Rebuilder:
        """What makes chunks of a world again."""
        return Rebuilder(self.model, self.engine.run, self.walking(record), self.coding.fitted, store, lineage)
