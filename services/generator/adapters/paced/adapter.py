"""A model behind the `WorldModel` seam that sleeps for as long as a real one draws, and makes chunks of its size.

What stands in its window is checked at every step: recalled bytes that are not those of a chunk fail the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import xxhash
from torch import Tensor

from services.generator.adapters.paced.shapes import CLEAN, PICTURES, Shape
from services.generator.adapters.paced.well import Well
from services.generator.world_model import Conditioning, State, Subject
from worldkv.actions import AXES
from worldkv.codec import Codec
from worldkv.coding import KV
from worldkv.errors import ChunkCorrupt, InvalidInput
from worldkv.format import Frame
from worldkv.pose import Matrix
from worldkv.window import View


class NoState:
    """A paced model carries nothing from chunk to chunk."""

    def conditioning(self, poses: Matrix) -> bytes:
        return b""

    def to_bytes(self) -> Frame:
        return Frame(())

    def from_bytes(self, data: Frame) -> None:
        if data.nbytes:
            raise ChunkCorrupt(f"a paced model keeps no state, got {data.nbytes} bytes")


class PacedWorldModel:
    """Draws at the pace of `shape`; see `WorldModel` for the methods.

    sleep  waits so many seconds, as `time.sleep` does

    A batch takes as long as its chunks one after the other: one session fills the device. Latents are the noise, and
    keys and values follow from latents alone, so that a chunk made again is the same bit for bit.
    """

    state_bytes = 0

    def __init__(self, shape: Shape, sleep: Callable[[float], None] = time.sleep) -> None:
        self.shape, self.spec, self.device = shape, shape.spec, torch.device("cpu")
        self.codecs: Mapping[str, tuple[Codec, Codec]] = MappingProxyType({})
        self.axes = AXES
        self.well = Well(shape.spec)
        self._sleep = sleep

    def drawing_bytes(self, sessions: int) -> int:
        return 0  # its chunks lie in memory that it has anyway

    def hear(self, subject: Subject) -> Callable[[], object]:
        state = self.start(subject)
        return lambda: state

    def start(self, subject: Subject | None = None, begin: int = 0, before: Matrix | None = None) -> State:
        if subject and subject != Subject():
            got = f"{subject.words[:80]!r}" if subject.words else f"a picture of {len(subject.picture)} bytes"
            raise InvalidInput(f"{self.spec.model} has no worlds but one, got {got}")
        return NoState()

    def generate(self, window: View, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        self._until(time.monotonic() + (1 - CLEAN) * self.shape.step_seconds * len(noise), lambda: self._check(window))
        return noise

    def see(self, pictures: Tensor) -> Tensor:
        channels, height, width = self.spec.latent
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, (height, width))
        return small.mean(1, keepdim=True).expand(-1, channels, -1, -1) * 2 - 1

    def encode(self, latents: Tensor, window: View, conditions: Sequence[Conditioning]) -> list[KV]:
        made: list[KV] = []
        due = time.monotonic() + CLEAN * self.shape.step_seconds * len(latents)
        self._until(due, lambda: made.extend(self.well.draw(place_of(each)) for each in latents))
        return made

    def decode(self, states: Sequence[State], latents: Tensor) -> list[Tensor]:
        return list(latents[:, :, :3].sigmoid().repeat_interleave(PICTURES, 1))

    def _until(self, due: float, work: Callable[[], None]) -> None:
        """Do something on the side, and be done at `due`, or with it."""
        work()
        self._sleep(max(due - time.monotonic(), 0))

    def _check(self, window: View) -> None:
        """Every slot of the window that is used holds a chunk; raises ChunkCorrupt."""
        tokens = self.spec.frames * self.spec.frame_tokens
        for row, valid in enumerate(window.valid[:, ::tokens].tolist()):
            for slot in (n for n, used in enumerate(valid) if used):
                at = slice(slot * tokens, (slot + 1) * tokens)
                self.well.check(window.keys[:, row, at], window.values[:, row, at])


def place_of(latents: Tensor) -> int:
    """Where the chunk of these latents [frames, channels, height, width] begins in the well: told from what is kept
    of them, which is float16."""
    return xxhash.xxh3_64_intdigest(latents.to(torch.float16).contiguous().numpy().data)
