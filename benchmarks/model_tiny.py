"""The real models as whoever installs them has them: folders as published, at a tiny size, in the real service."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.registry import Case, bench
from benchmarks.wan_tiny import GRID, LAYOUTS, write
from services.generator.adapters.wan.variants import VARIANTS, Variant
from services.generator.processes import Service, service
from services.generator.world_model import Subject
from worldkv import rpc
from worldkv.actions import Action
from worldkv.client import Walk, WalkClient
from worldkv.client.walk_events import Drawn
from worldkv.errors import WorldKVError
from worldkv.v1 import generator_pb2 as pb
from worldkv.v1.generator_pb2_grpc import GeneratorStub

CHUNKS, CUT = 7, 4
"""Of a walk, and before which the session is suspended: by then something has left the window, and was recalled."""
PIXELS = 8
"""A side of a latent cell."""


@bench("model.tiny", bar="== 0", about="adapters whose published folder, tiny, does not load, walk, suspend and resume")
def tiny() -> Iterator[Case]:
    """The baseline is how many adapters draw something else when their world is about something else."""
    failed, differ = [], []
    for name in LAYOUTS:
        with TemporaryDirectory() as folder:
            try:
                seen = walked(name, Path(folder))
            except WorldKVError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed.append(True)
            else:
                failed.append(seen.resumed != 0 or not seen.recalled)
                differ.append(seen.elsewhere != 0)
    yield Case("all", sum(failed), "adapters", sum(differ), failed)


class Seen(NamedTuple):
    """A walk that nobody interrupted, and the largest differences from its pictures, in 0..1.

    recalled   chunks, by all of its chunks
    resumed    of one that was suspended in the middle, and resumed in another process
    elsewhere  of one whose world is about something else
    """

    recalled: int
    resumed: float
    elsewhere: float


def walked(name: str, folder: Path) -> Seen:
    """A variant's walks through a service of its own: two generators over a shard and an index."""
    with service(settings_of(name, write(name, folder)), shards=1, generators=2, gateways=0) as made:
        return asyncio.run(_walks(made, VARIANTS[name]))


def settings_of(name: str, folder: Path) -> dict[str, str]:
    """Of a generator, by the names of their variables."""
    frames = str(VARIANTS[name].backbone.frames)
    return {
        "MODEL": name,
        "WEIGHTS": str(folder),
        "THREADS": "1",
        "WAN__DEVICE": "cpu",
        "WAN__DTYPE": "float32",
        "WAN__VAE_DTYPE": "float32",
        "WAN__GRID": ",".join(map(str, GRID)),
        "MEMORY__CODEC": "int8",
        "MEMORY__WINDOW__SINK": frames,
        "MEMORY__WINDOW__RECALLED": frames,
        "MEMORY__WINDOW__RECENT": frames,
    }


async def _walks(made: Service, variant: Variant) -> Seen:
    first, second = made.generators
    here, there = _subject(variant, 0), _subject(variant, 1)
    async with WalkClient(second) as client:
        whole = await _drawn(client, here, range(CHUNKS), variant)
        other = await _drawn(client, there, range(1), variant)
    again = await _interrupted(first, second, here, variant)
    return Seen(sum(len(each.recalled) for each in whole), _difference(again, whole), _difference(other, whole[:1]))


async def _interrupted(first: str, second: str, subject: Subject, variant: Variant) -> list[Drawn]:
    """A walk that is suspended by one generator and resumed by another."""
    async with WalkClient(first) as client, rpc.channel(first) as channel:
        async with client.open(subject.words, picture=subject.picture, lockstep=True, pictures="rgb32f") as walk:
            before = await _moved(walk, range(CUT), variant)
            session = walk.session
            await walk.leave()
        with rpc.translated():
            await GeneratorStub(channel).Suspend(pb.SuspendRequest(session=session))
    async with WalkClient(second) as client, rpc.channel(second) as channel:
        with rpc.translated():
            await GeneratorStub(channel).Resume(pb.ResumeRequest(session=session))
        async with client.join(session) as walk:
            return before + await _moved(walk, range(CUT, CHUNKS), variant)


async def _drawn(client: WalkClient, subject: Subject, chunks: range, variant: Variant) -> list[Drawn]:
    async with client.open(subject.words, picture=subject.picture, lockstep=True, pictures="rgb32f") as walk:
        return await _moved(walk, chunks, variant)


async def _moved(walk: Walk, chunks: range, variant: Variant) -> list[Drawn]:
    """Chunks, with another action in each."""
    step = variant.step
    actions = [Action(forward=step * (-1) ** chunk, turn=9.0 - 4 * chunk) for chunk in chunks]
    return [await walk.move(action) for action in actions]


def _subject(variant: Variant, number: int) -> Subject:
    """What a world is about, in as much as the model is told: words, and a picture of its own size."""
    words = ("a harbour at dawn", "a stone desert")[number] if variant.backbone.context.kind == "text" else ""
    if not variant.backbone.given_channels:
        return Subject(words)
    rows, columns = GRID
    noise = np.random.default_rng(number).integers(0, 256, (rows * PIXELS, columns * PIXELS, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return Subject(words, file.getvalue())


def _difference(got: list[Drawn], wanted: list[Drawn]) -> float:
    return max(float(np.abs(a.pictures - b.pictures).max()) for a, b in zip(got, wanted, strict=True))
