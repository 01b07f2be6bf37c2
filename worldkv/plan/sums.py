"""All that a workload takes, figure by figure."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Literal

from worldkv.errors import InvalidInput
from worldkv.plan.formulas import (
    ARENA_USABLE,
    GPU_WORKING,
    REDIS_KV,
    REDIS_PART,
    chunk_count,
    fetched_rate,
    hot_bytes,
    index_bytes,
    kept_rate,
    part_bytes,
    picture_rate,
    raw_bytes,
    recalled_chunks,
    session_gpu_bytes,
    stored_bytes,
    weights_bytes,
    world_kv_bytes,
)
from worldkv.plan.shapes import Shape

Unit = Literal["bytes", "bytes/s", "chunks", "calls/s", "sessions", "shards", "GPUs"]


@dataclass(frozen=True)
class Workload:
    """What is to be served.

    model         which
    sessions      that walk at the same time
    minutes       of each, all of which are kept
    keep, codec   how keys and values are stored; codec empty: the model's own
    budget_bytes  coded keys and values that a world may keep, 0: no limit
    redis         whether there is one; without it every immutable part is in two shards
    in_ram        share of the keys and values that shards hold in RAM, and so of fetches that need no Redis
    delta         recalled over fetched chunks: `gen.delta`, the worse of two cases
    waste         of what is fetched: `gen.prefetch.waste`
    hot_chunks    decoded chunks that a session keeps at hand; None: twice the recalled ones
    at_hand       where these are: `device`, the GPU, or `host`
    gpu_bytes     memory of one
    step_seconds  that a GPU takes to draw a chunk of one session; 0: not known, memory alone counts
    shard_bytes   RAM of one

    Raises InvalidInput naming the value that is out of range.
    """

    model: Shape
    sessions: int
    minutes: float
    keep: float = 1.0
    codec: str = ""
    budget_bytes: int = 0
    redis: bool = True
    in_ram: float = 1.0
    delta: float = 2.7
    waste: float = 0.23
    hot_chunks: int | None = None
    at_hand: str = "device"
    gpu_bytes: int = 80 << 30
    step_seconds: float = 0.0
    shard_bytes: int = 256 << 30

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise InvalidInput(f"sessions must be at least 1, got {self.sessions}")
        if not 0 < self.minutes < inf:
            raise InvalidInput(f"minutes = {self.minutes}: expected a number above 0")
        if not 0 <= self.in_ram <= 1:
            raise InvalidInput(f"in_ram is a share between 0 and 1, got {self.in_ram}")
        if self.in_ram < 1 and not self.redis:
            raise InvalidInput(f"in_ram = {self.in_ram}: without Redis there is nothing else to be in")
        for name in ("gpu_bytes", "shard_bytes"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.at_hand not in ("device", "host"):
            raise InvalidInput(f"chunks are at hand on a device or a host, got {self.at_hand!r}")
        if self.budget_bytes < 0 or (self.hot_chunks or 0) < 0:
            raise InvalidInput("budget_bytes and hot_chunks must not be negative")
        if not (isfinite(self.step_seconds) and self.step_seconds >= 0):
            raise InvalidInput(f"step_seconds = {self.step_seconds}: expected seconds from 0")

    @property
    def coding(self) -> tuple[float, str]:
        """Keep and codec."""
        return self.keep, self.codec or self.model.codec


@dataclass(frozen=True)
class Figure:
    """One thing that it takes.

    part   of the service
    what   of it
    each   for one session, None where that says nothing
    total  for all; None: it cannot be, and `how` says why
    how    the sum, in words
    """

    part: str
    what: str
    each: float | None
    total: float | None
    unit: Unit
    how: str


def plan(load: Workload) -> list[Figure]:
    """Everything that a workload takes. Raises UnknownCodec, InvalidInput for what cannot be."""
    return [*_store(load), *_network(load), *_generator(load), *_rest(load)]


def _store(load: Workload) -> list[Figure]:
    model, n = load.model, load.sessions
    chunks = chunk_count(model, load.minutes * 60)
    stored, part = stored_bytes(model, *load.coding), part_bytes(model)
    kv = world_kv_bytes(model, chunks, *load.coding, load.budget_bytes)
    ram = ceil((load.in_ram * kv + chunks * part * (1 if load.redis else 2)) / ARENA_USABLE)
    bound = "the budget of a world" if load.budget_bytes and kv == load.budget_bytes else "stored chunks, the first raw"
    redis_parts, redis_kv = ceil(REDIS_PART * chunks * part), ceil(REDIS_KV * kv)
    found = [
        Figure("model", "chunk, raw", raw_bytes(model), None, "bytes", "2 x layers x tokens x width x bytes of each"),
        Figure("model", "chunk, stored", stored, None, "bytes", f"keep {load.keep:g}, {load.coding[1]}"),
        Figure("model", "chunk, immutable part", part, None, "bytes", "latents, poses, header"),
        Figure("worlds", "chunks", chunks, n * chunks, "chunks", f"one every {model.chunk_seconds:g} s"),
        Figure("worlds", "keys and values", kv, n * kv, "bytes", bound),
        Figure("worlds", "immutable parts", chunks * part, n * chunks * part, "bytes", "kept for ever"),
        Figure("kvstore", "RAM", ram, n * ram, "bytes", _ram_words(load)),
        Figure("kvstore", "shards", None, ceil(n * ram / load.shard_bytes), "shards", "RAM over that of a shard"),
    ]
    if load.redis:
        how = f"immutable parts x {REDIS_PART}"
        found += [
            Figure("redis", "memory, at least", redis_parts, n * redis_parts, "bytes", how),
            Figure(
                "redis",
                "memory, with all keys and values",
                redis_parts + redis_kv,
                n * (redis_parts + redis_kv),
                "bytes",
                f"and keys and values x {REDIS_KV}",
            ),
        ]
    return found


def _ram_words(load: Workload) -> str:
    parts = "immutable parts" if load.redis else "immutable parts twice"
    return f"(keys and values x {load.in_ram:g} + {parts}) / {ARENA_USABLE}, all of it in /dev/shm"


def _network(load: Workload) -> list[Figure]:
    model, n = load.model, load.sessions
    fetched, kept = fetched_rate(model, *load.coding, load.delta, load.waste), kept_rate(model, *load.coding)
    k = recalled_chunks(model, load.keep)
    how = f"{k} recalled / delta {load.delta:g} / (1 - waste {load.waste:g}) chunks a step"
    found = [
        Figure("network", "shards to generators", fetched, n * fetched, "bytes/s", how),
        Figure("network", "generators to shards", kept, n * kept, "bytes/s", "a stored chunk and its part a step"),
    ]
    if load.redis:
        missed = (1 - load.in_ram) * fetched
        found += [
            Figure("network", "shards to Redis", kept, n * kept, "bytes/s", "the same, behind"),
            Figure("network", "Redis to shards", missed, n * missed, "bytes/s", "fetched and not in RAM"),
        ]
    pictures = picture_rate(model)
    how = f"{model.rate:g} pictures/s of {model.pixels} pixels, assumed JPEG"
    return [*found, Figure("network", "gateways to people", pictures, n * pictures, "bytes/s", how)]


def _generator(load: Workload) -> list[Figure]:
    model, n = load.model, load.sessions
    chunks = 2 * recalled_chunks(model, load.keep) if load.hot_chunks is None else load.hot_chunks
    hot = hot_bytes(model, load.keep, chunks)
    weights, session = weights_bytes(model), session_gpu_bytes(model, load.keep)
    words = "window row, uncoded sink and recent, two chunks under way, decoder, actions"
    where = "main memory, hot sets"
    if load.at_hand == "device":
        session, where, words = session + hot, "GPU memory, of that hot sets", f"{words}, hot set"
    usable = int(load.gpu_bytes * (1 - GPU_WORKING))
    fit = max(usable - weights, 0) // session
    how = f"({1 - GPU_WORKING:g} of a GPU - weights) / session"
    if load.step_seconds:
        fit = min(fit, int(model.chunk_seconds / load.step_seconds))
        how += f", and {model.chunk_seconds:g} s of a chunk / {load.step_seconds:g} s of a step"
    else:
        how += ", by memory alone"
    needed = ceil(n / fit) if fit else None
    if not fit:
        late = load.step_seconds > model.chunk_seconds
        how = (
            f"a step of {load.step_seconds:g} s is longer than a chunk plays, {model.chunk_seconds:g} s"
            if late
            else f"weights and one session take {weights + session} bytes, more than {usable} of a GPU's"
        )
    return [
        Figure("generator", "GPU memory, weights", None, weights, "bytes", "of each GPU: parameters x bytes of each"),
        Figure("generator", "GPU memory, sessions", session, n * session, "bytes", words),
        Figure("generator", where, hot, n * hot, "bytes", f"{chunks} decoded chunks at hand"),
        Figure("generator", "sessions of a GPU", None, fit, "sessions", how),
        Figure("generator", "GPUs", None, needed, "GPUs", "sessions / sessions of a GPU" if fit else how),
    ]


def _rest(load: Workload) -> list[Figure]:
    n, chunks = load.sessions, chunk_count(load.model, load.minutes * 60)
    asked = 1 / load.model.chunk_seconds
    how = f"{index_bytes(1)} bytes a chunk, of each replica's share"
    return [
        Figure("retriever", "memory", index_bytes(chunks), index_bytes(n * chunks), "bytes", how),
        Figure("retriever", "lookups", asked, n * asked, "calls/s", "one a step; forecasts for prefetch come on top"),
    ]
