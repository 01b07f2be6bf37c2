"""Opens what a generator is made of, in order, and closes it again: model, tier, engine, sessions, servicers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial

import torch

from services.generator.config import GeneratorConfig
from services.generator.engine import Engine
from services.generator.engine.admission import needs
from services.generator.live.judging import Judges
from services.generator.live.making import Maker
from services.generator.live.metrics import Metrics
from services.generator.live.table import Live
from services.generator.models import load_model
from services.generator.saving import MAX_HEADER
from services.generator.servicer import Generator, add
from services.generator.tier import Inside, Shards, Tiers
from services.generator.world_model import WorldModel
from worldkv.coding import Coding, coded_bytes
from worldkv.errors import InvalidConfig, UnknownCodec, WeightsError
from worldkv.heap import give_back
from worldkv.service import Host, Servicers
from worldkv.tasks import kept_up

TICK_SECONDS = 1.0
"""Between looks at what only time brings."""
GIVE_BACK_TICKS = 5
"""Looks after each of which memory is given back while nobody walks."""

_log = logging.getLogger(__name__)


def servicers(config: GeneratorConfig) -> Servicers:
    """What `worldkv.service` serves for a generator of this configuration."""
    return partial(generator, config)


@asynccontextmanager
async def generator(config: GeneratorConfig, host: Host) -> AsyncIterator[Sequence[str]]:
    """A generator on this host; its model is loaded, and has drawn once, before it serves.

    Raises InvalidConfig for a model, weights, a codec or members that cannot be.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        model = await asyncio.to_thread(load_model, config.model, config.weights, config.wan)
        config.memory.check(model)
    except (WeightsError, UnknownCodec) as error:
        raise InvalidConfig(str(error)) from error
    async with assembled(config, model, host) as made:
        yield add(made, host.server)


@asynccontextmanager
async def assembled(
    config: GeneratorConfig, model: WorldModel, host: Host, tiers: Tiers | None = None
) -> AsyncIterator[Generator]:
    """A generator of this model; `tiers` in place of those that are configured, which are left open."""
    async with AsyncExitStack() as stack:
        if tiers is None:
            tiers = await stack.enter_async_context(aclosing(_tiers(config, model)))
        engine = await stack.enter_async_context(Engine(model, config.engine, at_hand=_at_hand(config, model)))
        pictures, height, width = await engine.run(partial(_picture_shape, model))
        coding = config.memory.coding(model)
        choices = config.memory.choices(model)
        _tell_of_states(config, model, coding)
        judges = Judges()
        stack.callback(judges.close)
        maker = Maker(config, model, engine, tiers, coding, choices, judges, pictures, height, width)
        metrics = Metrics(host.registry)
        live = await stack.enter_async_context(aclosing(Live(maker, metrics)))
        for chore in (partial(_tick, live), partial(tiers.keep_few, live.tenants), partial(_drain, host, live)):
            stack.callback(asyncio.create_task(kept_up(chore)).cancel)
        yield Generator(config.name or config.service.address, live, metrics)
        await live.drain()


def _tiers(config: GeneratorConfig, model: WorldModel) -> Tiers:
    if config.store is None or config.index is None:
        _log.warning("no store is configured: worlds are kept in this process' memory, and gone with it")
        return Inside(config.inside.store_bytes, config.inside.snapshot_bytes)
    chunk_bytes = coded_bytes(config.memory.coding(model), model.spec)
    return Shards(config.store, config.index, config.service.auth.secret, chunk_bytes)


def _tell_of_states(config: GeneratorConfig, model: WorldModel, coding: Coding) -> None:
    """Say how large the state of a suspended session can be: what keeps it may have room for less."""
    held = needs(model.spec, config.memory.walking("worldkv", 0), coding).held
    most, room = model.state_bytes + held + MAX_HEADER, config.inside.snapshot_bytes
    if config.store is not None:
        _log.info(
            "the state of a suspended session of %s has up to %d bytes: shards with a smaller serving.snapshot_bytes "
            "keep its record alone",
            model.spec.model,
            most,
        )
    elif most > room:
        _log.warning(
            "inside.snapshot_bytes = %d: suspended sessions of %s are kept without their states of up to %d bytes",
            room,
            model.spec.model,
            most,
        )


def _at_hand(config: GeneratorConfig, model: WorldModel) -> int:
    """Bytes of the model's device for chunks at hand, a session. A processor has no memory of its own."""
    return 0 if config.memory.device(model).at_hand.type == "cpu" else config.memory.hot(model)


def _picture_shape(model: WorldModel) -> tuple[int, int, int]:
    """Pictures of a chunk in the middle of a walk, their height and their width."""
    state, latents = model.start(), torch.zeros(1, model.spec.frames, *model.spec.latent, device=model.device)
    model.decode([state], latents)  # the first chunk of a film may have fewer pictures than those after it
    pictures, _, height, width = model.decode([state], latents)[0].shape
    return pictures, height, width


async def _tick(live: Live) -> None:
    releases, idle = 0, 0
    while True:
        live.tidy()
        idle = 0 if live.tenants() else idle + 1
        if live.metrics.releases > releases or (idle and idle % GIVE_BACK_TICKS == 0):
            releases = live.metrics.releases
            await asyncio.to_thread(give_back, garbage=True)  # what sessions leave holds itself
        await asyncio.sleep(TICK_SECONDS)


async def _drain(host: Host, live: Live) -> None:
    await host.ending.wait()
    await live.drain()
