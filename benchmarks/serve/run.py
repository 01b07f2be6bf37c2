"""Load at several rates, one after the other, on a service that runs or on one that is started for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serve import report
from benchmarks.serve.arrivals import MIX, check_mix
from benchmarks.serve.tally import Summary
from benchmarks.serve.visiting import Plan, loaded, playing_seconds, probe
from services.generator.adapters.paced.shapes import PICTURES, SHAPES
from services.generator.processes import SHARD_BYTES, service
from worldkv.client import WalkClient
from worldkv.errors import InvalidInput

PACED_SLOTS, PACED_HOT = 6, 8
"""Chunks that a paced model's step recalls, and that each of its sessions keeps at hand."""
PACED_SHARD_BYTES = 8 << 30


@dataclass(frozen=True)
class Started:
    """A service that is started for the load.

    model  of its generators
    generators, shards  how many there are
    """

    model: str = "pocket"
    generators: int = 1
    shards: int = 2


@contextmanager
def served(started: Started) -> Iterator[str]:
    """The address of a service of its own."""
    settings, shard_bytes = settings_for(started.model)
    with service(settings, started.shards, started.generators, shard_bytes=shard_bytes) as made:
        yield made.address


def settings_for(model: str) -> tuple[dict[str, str], int]:
    """Settings of a generator with this model, and bytes of a shard."""
    settings = {"MODEL": model}
    if model not in SHAPES:
        return settings, SHARD_BYTES
    shape = SHAPES[model]
    size, rate = shape.spec.raw_bytes, PICTURES * shape.spec.frames / shape.step_seconds
    memory = {"MEMORY__HOT_BYTES": PACED_HOT * size, "MEMORY__WINDOW__RECALLED": PACED_SLOTS * shape.spec.frames}
    numbers = {**memory, "LIVE__PICTURES_PER_SECOND": rate, "ENGINE__BATCH": 1, "ENGINE__ROWS": 2}
    settings |= {"MEMORY__CODEC": "raw", **{name: str(value) for name, value in numbers.items()}}
    return settings, PACED_SHARD_BYTES


def run(
    rates: Sequence[float],
    plan: Plan,
    out: Path | None,
    connect: Callable[[str], WalkClient],
    address: str | None = None,
    started: Started | None = None,
    told: Callable[[Summary], None] = lambda _: None,
) -> list[Summary]:
    """Put load on a service, rate after rate.

    connect  makes a client of an address
    address  of a running service; None: one is `started`
    told     is told of each rate as it is done
    out      folder for what was measured
    """
    if not rates or min(rates) <= 0:
        raise InvalidInput(f"rates are sessions a second above 0, got {', '.join(map(str, rates)) or 'none'}")
    if address is not None:
        return _measured(rates, plan, out, partial(connect, address), {"address": address}, told)
    made = started or Started()
    with served(made) as own:
        return _measured(rates, plan, out, partial(connect, own), asdict(made), told)


def _measured(
    rates: Sequence[float],
    plan: Plan,
    out: Path | None,
    connected: Callable[[], WalkClient],
    where: dict[str, Any],
    told: Callable[[Summary], None],
) -> list[Summary]:
    found = list[Summary]()

    async def measure() -> float:
        async with connected() as client:
            opened = await probe(client)
            for rate in rates:
                found.append(await loaded(client, rate, plan, playing_seconds(opened)))
                told(found[-1])
            where["model"] = opened.model
            return playing_seconds(opened)

    playing = asyncio.run(measure())
    if out is not None:
        about = {**where, "rates": [*rates], "plan": asdict(plan), "playing_seconds": playing, "cores": os.cpu_count()}
        report.write(found, playing, about, out)
    return found


def mix_for(model: str | None) -> dict[str, float]:
    """What walks there are by default; only the pocket model has something to show on tours."""
    mix = {**MIX, **({"tours": 1.0} if model == "pocket" else {})}
    check_mix(mix)
    return mix
