"""A live walk: actions in, pictures out, and a memory kept on the way.

One code path for three modes: they differ only in which chunks stand in the window.

    window   first in, first out: as many latent frames as worldkv's whole window, no sink
    full     every chunk, never dropped
    worldkv  sink, recalled, recent

Noise is counter-based on (seed, chunk number): there is no random state to save.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import radians
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from services.generator.world_model import Conditioning, WorldModel
from worldkv.actions import Action, Slide, Walker, unhindered
from worldkv.chunk import Lineage, Meta, Part
from worldkv.coding import KV
from worldkv.errors import InvalidConfig, InvalidInput
from worldkv.memory import Memory, Recalled
from worldkv.pose import Matrix
from worldkv.select import Query
from worldkv.window import GROWTH, Entry, Window, WindowConfig, positions

Mode = Literal["window", "full", "worldkv"]
Context = Literal["window", "alone"]


@dataclass(frozen=True)
class SessionConfig:
    """How a session walks.

    mode    which chunks stand in the window
    window  sizes and placement; `window` and `full` always place chunks where they were made
    fov     horizontal field of view of the lens, degrees
    seed    of the noise
    context  what the clean pass attends to besides the chunk itself: the window that it was drawn in, or nothing.
             Alone, keys and values are a function of the chunk, and are made again from its latents as they were
    """

    mode: Mode = "worldkv"
    window: WindowConfig = field(default_factory=WindowConfig)
    fov: float = 65.0
    seed: int = 0
    context: Context = "window"

    def __post_init__(self) -> None:
        if self.mode not in ("window", "full", "worldkv"):
            raise InvalidConfig(f"session.mode is 'window', 'full' or 'worldkv', got {self.mode!r}")
        if self.context not in ("window", "alone"):
            raise InvalidConfig(f"session.context is 'window' or 'alone', got {self.context!r}")
        if not 0 < self.fov < 180:
            raise InvalidConfig(f"session.fov lies between 0 and 180 degrees, got {self.fov}")


class Seconds(NamedTuple):
    """Wall time of a step, by part."""

    recall: float
    window: float
    model: float
    remember: float

    @property
    def memory(self) -> float:
        return self.recall + self.window + self.remember


@dataclass(frozen=True, eq=False)
class Step:
    """What one chunk gave.

    index     chunk number
    pictures  [pictures, 3, height, width] float32 in 0..1
    poses     [frames, 4, 4] camera-to-world
    recalled  what stood in the recalled slots
    seconds   wall time
    """

    index: int
    pictures: Tensor
    poses: Matrix
    recalled: tuple[Recalled, ...]
    seconds: Seconds


class Session:
    """One walk through one world, written to one branch.

    Nothing random is kept; a session is its model, its memory, its seed and where the walker stands.
    `memory` is required by mode `worldkv` and refused by the others, which remember only what their window holds.
    """

    def __init__(
        self,
        model: WorldModel,
        config: SessionConfig,
        walker: Walker,
        memory: Memory | None = None,
        slide: Slide = unhindered,
    ) -> None:
        if (memory is not None) != (config.mode == "worldkv"):
            raise InvalidConfig(f"a memory goes with mode 'worldkv' and no other, got mode {config.mode!r}")
        self.model, self.config, self.walker, self.memory, self.slide = model, config, walker, memory, slide
        self.lineage = memory.lineage if memory else Lineage.begin()
        self.state = model.start()
        self.next = 0
        self._raw: dict[int, Entry] = {}
        self._poses: dict[int, Matrix] = {}
        self._window = Window(model.spec, self._slots())

    @property
    def frames(self) -> int:
        """Latent frames of a chunk."""
        return self.model.spec.frames

    @property
    def raw_bytes(self) -> int:
        """Bytes of keys and values held uncoded for the window."""
        return sum(entry.kv.nbytes for entry in self._raw.values())

    async def step(self, actions: Action | Sequence[Action]) -> Step:
        """Draw the next chunk.

        actions: one a latent frame, or one that is held for the whole chunk. Raises InvalidInput for another number.
        """
        held = [actions] * self.frames if isinstance(actions, Action) else list(actions)
        if len(held) != self.frames:
            raise InvalidInput(f"a step takes one action or {self.frames}, got {len(held)}")
        poses = []
        for action in held:
            self.walker = self.walker.after(action, self.slide)
            poses.append(self.walker.pose)
        return await self._chunk(np.stack(poses), None)

    async def show(self, pictures: Tensor, walkers: Sequence[Walker]) -> Step:
        """Take pictures from elsewhere as the next chunk; the walker goes on from the last of them.

        pictures [frames, 3, height, width] float32 in 0..1, walkers: where each was taken.
        """
        channels, height, width = self.model.spec.latent
        if pictures.shape[0] != self.frames or len(walkers) != self.frames:
            raise InvalidInput(f"show takes {self.frames} pictures and places, got {len(pictures)} and {len(walkers)}")
        latents = self.model.see(pictures)
        if tuple(latents.shape[1:]) != (channels, height, width) or not latents.isfinite().all():
            raise InvalidInput(
                f"pictures must give finite latents {(channels, height, width)}, got {tuple(latents.shape)}"
            )
        self.walker = walkers[-1]
        return await self._chunk(np.stack([w.pose for w in walkers]), latents)

    async def _chunk(self, poses: Matrix, shown: Tensor | None) -> Step:
        index, begin = self.next, self.next * self.frames
        clock = [perf_counter()]
        recalled = await self._recall(poses)
        clock.append(perf_counter())
        entries = self._arrange([r.entry for r in recalled])
        self._fill(entries, begin)
        clock.append(perf_counter())
        condition = [Conditioning(poses)]
        if shown is None:
            latents = self.model.generate(self._window, condition, self.noise(index)[None])
        else:
            latents = shown[None]
        (kv,) = self.model.encode(latents, self._behind(self._window), condition)
        pictures = self.model.decode([self.state], latents)[0]
        clock.append(perf_counter())
        await self._keep(poses, latents[0], kv, recalled, shown is not None)
        clock.append(perf_counter())
        self.next += 1
        seconds = Seconds(*(after - before for before, after in itertools.pairwise(clock)))
        return Step(index, pictures, poses, tuple(recalled), seconds)

    def noise(self, index: int) -> Tensor:
        """Noise of chunk `index`, [frames, channels, height, width]: the same for the same seed, on every machine."""
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.config.seed, index)).generate_state(1)[0])
        )
        return torch.randn(self.frames, *self.model.spec.latent, generator=generator)

    def _slots(self) -> list[int]:
        """Tokens of each slot of the window, by mode."""
        whole = self.frames * self.model.spec.frame_tokens
        window = self.config.window
        if self.config.mode == "full":
            return [whole] * GROWTH
        if self.memory is None:
            return [whole] * (window.frames(self.frames) // self.frames - 1)
        recalled = [self.memory.slot_tokens] * self.memory.slots
        return [whole] * (window.sink // self.frames) + recalled + [whole] * (window.recent // self.frames)

    async def _recall(self, poses: Matrix) -> list[Recalled]:
        if self.memory is None or not self._raw:
            return []
        spec, picture = self.model.spec, self.model.spec.latent
        query = Query(
            poses=poses,
            fov=radians(self.config.fov),
            aspect=picture[1] / picture[2],
            view_range=spec.view_range,
            visible=np.concatenate([self._poses[i] for i in self._raw]),
        )
        return await self.memory.recall(query, self._raw.keys(), self._reencode)

    def _arrange(self, recalled: list[Entry]) -> list[Entry | None]:
        """The chunk for each slot: [ sink | recalled | recent ], or simply all that is held."""
        held = [self._raw[i] for i in sorted(self._raw)]
        if self.memory is None:
            return list(held)
        sinks = self.config.window.sink // self.frames
        sink: list[Entry | None] = list(held[:sinks])
        spare = [None] * (self.memory.slots - len(recalled))
        return sink + [None] * (sinks - len(sink)) + recalled + spare + held[sinks:]

    def _fill(self, entries: list[Entry | None], begin: int) -> None:
        if len(entries) > len(self._window.sizes):
            self._window = self._window.grown(self._window.sizes + self._slots())
        placement = self.config.window.placement if self.memory else "original"
        at, now = positions(entries, begin, placement)
        self._window.fill(0, entries, now, at)

    async def _keep(self, poses: Matrix, latents: Tensor, kv: KV, recalled: list[Recalled], shown: bool) -> None:
        index, height_over_width = self.next, self.model.spec.latent[1] / self.model.spec.latent[2]
        key = self.lineage.key(index)
        self._raw[index] = Entry((key, "raw"), index * self.frames, self.frames, kv)
        self._poses[index] = poses
        self._forget()
        if self.memory is None:
            return
        meta = Meta(
            key=key,
            spec=self.model.spec.digest,
            begin=index * self.frames,
            poses=poses,
            fov=radians(self.config.fov),
            aspect=height_over_width,
            recalled=tuple(r.hit.key for r in recalled),
            shown=shown,
        )
        await self.memory.remember(Part(meta, latents.to(torch.float16).cpu().numpy()), kv)

    def _behind(self, window: Window) -> Window:
        """What the clean pass attends to, where a chunk is drawn or made again behind `window`."""
        return window if self.config.context == "window" else Window(self.model.spec, ())

    def _forget(self) -> None:
        """Let go of what has left the window: sink and recent chunks stay, or the newest, or all."""
        if self.config.mode == "full":
            return
        if self.memory is None:
            keep = set(sorted(self._raw)[-len(self._window.sizes) :])
        else:
            sinks, recent = (n // self.frames for n in (self.config.window.sink, self.config.window.recent))
            others = [i for i in sorted(self._raw) if i >= sinks]
            keep = {*range(sinks), *others[len(others) - recent :]}
        for index in self._raw.keys() - keep:
            del self._raw[index], self._poses[index]

    def _reencode(self, part: Part, before: Sequence[Entry]) -> KV:
        """One clean pass over a chunk's latents behind the given chunks, which stand as they stood when it was made."""
        window = Window(self.model.spec, [e.kv.tokens for e in before])
        begin = part.meta.begin
        at, now = positions(list(before), begin, self.config.window.placement)
        window.fill(0, list(before), now, at)
        latents = torch.from_numpy(part.latents.astype(np.float32))[None]
        (kv,) = self.model.encode(latents, self._behind(window), [Conditioning(part.meta.poses, part.conditioning)])
        return kv
