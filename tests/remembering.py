"""A memory whose index names what a test says, over a store that a test holds up: no model, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tests.toys import toy_spec
from worldkv.chunk import ChunkKey, Lineage, Meta, Part, Segment
from worldkv.coding import KV, Coding
from worldkv.errors import Unavailable
from worldkv.format import Frame, Header, decode_header
from worldkv.format import decode_kv as read_kv
from worldkv.index import Hit
from worldkv.memory import Memory, MemoryConfig, Recalled
from worldkv.pose import camera
from worldkv.select import Query
from worldkv.store import Level, Miss, PartKey, RamStore
from worldkv.window import Entry, WindowConfig

SPEC = toy_spec()
RAW = Coding("raw", "raw")
RETRY = 1e-4
"""Seconds to the first new attempt."""


def part_of(lineage: Lineage, index: int) -> Part:
    poses = np.stack([camera(0, 0, 0, 9 * index + 3 * i) for i in range(SPEC.frames)])
    meta = Meta(lineage.key(index), SPEC.digest, index * SPEC.frames, poses, 1.1, 0.75)
    return Part(meta, np.zeros((SPEC.frames, *SPEC.latent), np.float16))


def kv_of(index: int) -> KV:
    """Keys and values that no other chunk has."""
    shape = (SPEC.layers, SPEC.frames * SPEC.frame_tokens, SPEC.heads, SPEC.head_dim)
    drawn = torch.Generator().manual_seed(index)
    return KV(torch.randn(shape, generator=drawn), torch.randn(shape, generator=drawn))


def query(yaw: float = 0.0) -> Query:
    return Query(camera(0, 0, 0, yaw)[None], 1.1, 0.75, SPEC.view_range)


class Named:
    """A finder that names the chunks of a list, and notes what it is told; it waits while `answers` is not set."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage, self.names, self.spares = lineage, list[int](), list[int]()
        self.told: list[tuple[int, bool]] = []
        self.removed: list[ChunkKey] = []
        self.useless: list[int] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def add(self, meta: Meta, kept: bool = True) -> None:
        self.told.append((meta.key.index, kept))

    async def nearest(self, query: Query, k: int, exclude: Collection[int] = (), spares: int = 0) -> list[Hit]:
        await self.answers.wait()
        named = [(i, False) for i in self.names if i not in exclude][:k]
        named += [(i, True) for i in self.spares if i not in exclude][:spares]
        return [Hit(self.lineage.key(i), 1.0, 1.0, {}, spare) for i, spare in named]

    async def least_useful(
        self, count: int, view_range: float, protect: Collection[int] = (), exclude: Collection[int] = ()
    ) -> list[ChunkKey]:
        return [self.lineage.key(i) for i in self.useless if i not in {*protect, *exclude}][:count]

    async def remove(self, keys: Collection[ChunkKey]) -> None:
        self.removed += keys

    def choose_by(self, selector: str) -> None:
        raise NotImplementedError(f"what is chosen is said by the test, not by {selector}")


class Held(RamStore):
    """A store whose calls a test holds up and refuses, by kind of part; `asked` and `put_keys` are what it was asked.

    gates   calls for these kinds wait while their event is not set: "get kv", "put part" and so on
    errors  what such calls raise instead of doing anything
    level   that puts of immutable parts are answered with
    """

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.asked: list[PartKey] = []
        self.put_keys: list[PartKey] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.level = Level.ONE

    def hold(self, what: str) -> asyncio.Event:
        self.gates[what] = asyncio.Event()
        return self.gates[what]

    async def get(self, keys: Collection[PartKey]) -> dict[PartKey, Frame | Miss]:
        self.asked += keys
        await self._pass("get", keys)
        return await super().get(keys)

    async def put(self, items: Mapping[PartKey, Frame]) -> dict[PartKey, Level]:
        await self._pass("put", items)
        self.put_keys += items
        kept = await super().put(items)
        return {key: self.level if key.kind == "part" else level for key, level in kept.items()}

    async def _pass(self, method: str, keys: Collection[PartKey]) -> None:
        for kind in {key.kind for key in keys}:
            if (gate := self.gates.get(f"{method} {kind}")) is not None:
                await gate.wait()
            if (error := self.errors.get(f"{method} {kind}")) is not None:
                raise error

    def asked_kv(self) -> list[int]:
        """Numbers of the chunks whose keys and values were asked for, since this was asked last."""
        asked = [key.chunk.index for key in self.asked if key.kind == "kv"]
        self.asked.clear()
        return asked


class Layers(Held):
    """Such a store that also gives KV parts layer by layer; `spoil` may change a segment on its way, or drop it."""

    spoil: Callable[[Segment], Segment | Miss | None] = staticmethod(lambda segment: segment)
    before_layer: Callable[[int], Any] | None = None

    async def segments(
        self, keys: Collection[PartKey], *, opened: Callable[[PartKey, Header], None] | None = None
    ) -> AsyncGenerator[tuple[PartKey, Segment | Miss], None]:
        for key, frame in (await self.get(keys)).items():
            if isinstance(frame, Miss):
                yield key, frame
                return
            if opened:
                opened(key, decode_header(frame))
            for segment in sorted(read_kv(frame)[2].segments, key=lambda each: (each.layer, each.kind)):
                if self.before_layer and segment.kind == "k":
                    await self.before_layer(segment.layer)
                made = self.spoil(segment)
                if made is not None:
                    yield key, made


class Toy(Memory):
    """A memory over such a store and such a finder."""

    store: Any
    finder: Any


def memory_of(store: RamStore | None = None, **config: Any) -> Toy:
    """A memory of two recalled chunks; what it wants is what `memory.finder.names` says."""
    lineage = Lineage.begin()
    settings = MemoryConfig(**{"coding": RAW, "retry_seconds": RETRY, **config})
    return Toy(SPEC, WindowConfig(), settings, store or Held(), Named(lineage), lineage)


async def remember(memory: Toy, *indices: int) -> None:
    """Remember chunks as if they had been drawn long ago: nothing of them is at hand."""
    for index in indices:
        await memory.remember(part_of(memory.lineage, index), kv_of(index))
    memory._hot.clear()


async def recall(memory: Toy, *names: int, spares: Sequence[int] = ()) -> list[Recalled]:
    memory.finder.names, memory.finder.spares = list(names), list(spares)
    return await memory.recall(query(), (), again)


def again(part: Part, before: Sequence[Entry]) -> KV:
    """Makes keys and values again that are not quite what they were."""
    kv = kv_of(part.meta.key.index)
    return KV(kv.keys + 1, kv.values)


def numbers(found: Sequence[Recalled]) -> list[int]:
    return [each.hit.key.index for each in found]


def same(entry: Entry, kv: KV) -> bool:
    return torch.equal(entry.kv.keys, kv.keys) and torch.equal(entry.kv.values, kv.values)


async def until(true: Callable[[], bool]) -> None:
    """Let everything else go on until something is so, and what follows from it has been done."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)


def down() -> Unavailable:
    return Unavailable("down, on purpose")


def tasks() -> set[str]:
    """Names of the tasks that go on beside the test itself."""
    return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
