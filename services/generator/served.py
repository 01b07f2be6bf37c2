"""Walk a scenario through a running service, and record it as `run_walk` does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pocket.rooms import Rooms, build
from services.generator.recording import ChunkLog, Recording
from services.generator.scenarios import Scenario
from services.generator.walks import DEFAULT, FULL, WINDOW, Variant, kept_bytes, recorded, render
from services.generator.world_model import WorldModel
from worldkv.client import WalkClient
from worldkv.client.walk_events import Drawn
from worldkv.errors import InvalidInput, SpecMismatch

SERVED = (WINDOW, FULL, DEFAULT)
"""Ways of remembering that a service has by default."""


async def served_walk(
    client: WalkClient,
    model: WorldModel,
    scenario: Scenario,
    variant: Variant,
    progress: Callable[[Tensor], object] = lambda pictures: None,
) -> Recording:
    """Walk a scenario from end to end in lockstep, with pictures as exact as they were drawn.

    model     that the service draws with: its spec and its codecs are looked at, and nothing is computed
    progress  is called after each chunk with its pictures [pictures, 3, height, width] float32 in 0..1

    Keys and values are counted as what a service keeps by default. Raises InvalidInput for a scenario in no plain
    world or a variant that the service does not have, SpecMismatch if it draws with another model.
    """
    if variant not in SERVED:
        raise InvalidInput(f"a service walks as {', '.join(v.name for v in SERVED)} says, not as {variant}")
    if not same_rooms(scenario.rooms, build(scenario.rooms.seed)):
        raise InvalidInput(f"scenario {scenario.name!r} is set in rooms that no seed gives")
    walkers, frames = scenario.walkers, model.spec.frames
    truth = render(model, scenario, walkers)
    exact = truth.clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
    drawn: list[Tensor] = []
    log: list[ChunkLog] = []
    opening = client.open(
        f"rooms:{scenario.rooms.seed}",
        start=scenario.start,
        seed=scenario.seed,
        mode=variant.mode,
        lockstep=True,
        pictures="rgb32f",
    )
    async with opening as walk:
        if (walk.opened.model, walk.frames) != (model.spec.model, frames):
            raise SpecMismatch(f"the service draws with {walk.opened.model}, and the walk is {model.spec.model}'s")
        fetched = 0
        for begin in range(0, len(walkers), frames):
            if begin < scenario.shown:
                chunk = await walk.show(exact[begin : begin + frames], walkers[begin : begin + frames])
            else:
                chunk = await walk.move(scenario.actions[begin - 1 : begin - 1 + frames])
            drawn.append(torch.from_numpy(chunk.pictures.copy()).permute(0, 3, 1, 2))
            log.append(_logged(chunk, fetched, kept_bytes(model, variant, chunk.key.index + 1)))
            fetched = chunk.counts.fetched_bytes
            progress(drawn[-1])
    return recorded(scenario, variant, truth, torch.cat(drawn), log)


def same_rooms(rooms: Rooms, others: Rooms) -> bool:
    """Whether two worlds are built alike."""
    return all(np.array_equal(mine, getattr(others, name)) for name, mine in vars(rooms).items())


def _logged(chunk: Drawn, fetched: int, kept: int) -> ChunkLog:
    return ChunkLog(
        index=chunk.key.index,
        recalled=tuple(each.key.index for each in chunk.recalled),
        seconds=chunk.seconds,
        memory_seconds=chunk.recall_seconds,
        recalled_bytes=chunk.counts.fetched_bytes - fetched,
        kv_bytes=kept,
    )
