"""What the service costs over the same model and memory in one process: nothing in pictures, little in speed."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.drawer import Drawer
from benchmarks.gen_batch import one_thread
from benchmarks.judged import model
from benchmarks.registry import Case, Skipped, bench
from pocket.rooms import slide
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.config import IndexConfig, LiveConfig, MemorySettings, StoreConfig
from services.generator.processes import service
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.served import served_walk
from services.generator.session import Session, SessionConfig
from services.generator.tier import Shards
from services.generator.walks import DEFAULT, FULL, STORE_BYTES, WINDOW, Variant, run_walk
from services.generator.world_model import WorldModel
from worldkv.chunk import Lineage
from worldkv.client import WalkClient
from worldkv.coding import Coding
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Device, Memory, MemoryConfig
from worldkv.select import make_selector
from worldkv.store import RamStore

SAME = (("pan90", WINDOW), ("pan90", FULL), ("pan90", DEFAULT), ("door", DEFAULT), ("square", DEFAULT))
"""Walks that are compared picture by picture."""
ALONE = {"THREADS": "1", "ENGINE__BATCH": "1", "MEMORY__HOT_BYTES": "0"}
"""Settings of a generator that draws for one session at a time, and fetches all that it recalls."""
WARM, BLOCK, ROUNDS = 12, 12, 7
"""Chunks before anything is measured, chunks that one way walks before it is the other's turn, and turns of each."""


@bench("gen.same", bar="<= 1e-5", about="largest difference of pictures, walked through processes and in one")
def same() -> Iterator[Case]:
    with one_thread(), service(ALONE) as made:
        for name, variant in SAME:
            scenario, here = SCENARIOS[name](0), list[Tensor]()
            there = asyncio.run(_walked(made.address, scenario, variant))
            run_walk(model(), scenario, variant, here.append)
            runs = [float((a - b).abs().max()) for a, b in zip(there, here, strict=True)]
            yield Case(f"{name}, {variant.name}, {len(runs)} chunks", max(runs), "of 1", None, runs)


async def _walked(address: str, scenario: Scenario, variant: Variant) -> list[Tensor]:
    """Pictures of each chunk, walked through a service."""
    pictures = list[Tensor]()
    async with WalkClient(address) as client:
        await served_walk(client, model(), scenario, variant, pictures.append)
    return pictures


class Paces(NamedTuple):
    """Latent frames a second of each turn, with memory in other processes and with a bank on the device."""

    ours: list[float]
    bank: list[float]


@bench("gen.gpu", bar=">= 0.95", about="a GPU in a Ray actor, memory in other processes, FPS over a bank on the device")
def gpu() -> Iterator[Case]:
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device is at hand")
    with service({}, generators=0, gateways=0) as made:
        paces = in_actor(made.shards, made.replica, "cuda", 1)
    runs = [ours / bank for ours, bank in zip(*paces, strict=True)]
    yield Case(torch.cuda.get_device_name(), statistics.median(runs), "ratio", statistics.median(paces.bank), runs)


def in_actor(shards: tuple[str, ...], replica: str, device: str, gpus: int) -> Paces:
    """Both ways in turn, in a Ray actor that so many GPUs are set aside for."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")  # before Ray is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise Skipped("ray is not installed") from error
    remote: Any = ray.remote
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        actor = remote(Walking).options(num_gpus=gpus).remote(device)
        return Paces(*ray.get(actor.in_turn.remote(shards, replica)))
    finally:
        ray.shutdown()


class Walking:
    """Walks of the pocket model on one device, in whatever process this is made in."""

    def __init__(self, device: str) -> None:
        loaded = PocketWorldModel.load()
        self.model = PocketWorldModel(loaded.model.to(device), loaded.spec.weights, loaded.levels, loaded.codecs)

    async def in_turn(self, shards: tuple[str, ...], replica: str) -> Paces:
        """Turns of a session whose memory is there, and of one whose memory is a bank beside the model."""
        paces = Paces([], [])
        async with aclosing(Shards(StoreConfig(shards), IndexConfig((replica,)))) as tiers:
            walks = [Endless(self.model, elsewhere(self.model, tiers)), Endless(self.model, bank(self.model))]
            for walk in walks:
                await walk.go(WARM)
            for _ in range(ROUNDS):
                for walk, pace in zip(walks, paces, strict=True):
                    pace.append(await walk.go(BLOCK))
            for walk in walks:
                await walk.memory.close()
        return paces


class Endless:
    """A session that wanders for ever, as fast as it can."""

    def __init__(self, model: WorldModel, memory: Memory) -> None:
        scenario = SCENARIOS["wander"](0)
        config = SessionConfig(window=DEFAULT.window, context=DEFAULT.context)
        self.memory, self._actions = memory, scenario.actions
        self._session = Session(model, config, scenario.start, memory, partial(slide, scenario.rooms))
        self._drawer = Drawer(self._session)

    async def go(self, chunks: int) -> float:
        """Walk on; latent frames a second. What is kept behind the walk is waited for, and not timed."""
        frames, begin = self._session.frames, perf_counter()
        for _ in range(chunks):
            first = self._session.next * frames
            await self._drawer.step([self._actions[(first + i) % len(self._actions)] for i in range(frames)])
        seconds = perf_counter() - begin
        await self.memory.settle()
        return chunks * frames / seconds


def elsewhere(model: WorldModel, tiers: Shards) -> Memory:
    """As a service's session remembers by default."""
    settings, tier, lineage = MemorySettings(), tiers("bench"), Lineage.begin()
    playing = model.spec.frames / LiveConfig.pictures_per_second
    config = settings.of_session(model, settings.settings(model), lockstep=False, playing_seconds=playing)
    finder = tier.finder(lineage, settings.selector, model.spec.digest, 0, False)
    return Memory(model.spec, settings.window, config, tier.store, finder, lineage, device=Device(model.device))


def bank(model: WorldModel) -> Memory:
    """Every chunk as it came, on the model's device."""
    lineage = Lineage.begin()
    finder = LocalFinder(ScanIndex(), make_selector(DEFAULT.selector), lineage)
    config = MemoryConfig(Coding("raw", "raw"), hot_bytes=STORE_BYTES)
    return Memory(
        model.spec, DEFAULT.window, config, RamStore(STORE_BYTES), finder, lineage, device=Device(model.device)
    )
