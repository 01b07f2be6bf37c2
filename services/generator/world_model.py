"""The seam to a world model: what the session loop needs of it, and nothing about memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from xxhash import xxh3_128

from worldkv.actions import Axis
from worldkv.chunk import ModelSpec
from worldkv.codec import Codec
from worldkv.coding import KV
from worldkv.format import Frame
from worldkv.pose import Matrix
from worldkv.window import View


@dataclass(frozen=True)
class Subject:
    """What whoever opens a world says that it is about; which of it a model takes is the model's own.

    words    in the model's own words: a prompt, a scene; empty: none
    picture  an image file, of what is seen at first; empty: none
    """

    words: str = ""
    picture: bytes = b""

    @property
    def digest(self) -> bytes:
        """The same for the same subject on every machine, 16 bytes."""
        words = self.words.encode()
        return xxh3_128(len(words).to_bytes(8, "little") + words + self.picture).digest()


class Conditioning(NamedTuple):
    """What a chunk is drawn from besides the window.

    poses [frames, 4, 4] float64, camera-to-world of each latent frame
    extra opaque bytes of the adapter (`State.conditioning`), kept with the chunk
    state of the session before the chunk; None where a chunk is made again from its latents, outside a walk
    """

    poses: Matrix
    extra: bytes = b""
    state: State | None = None


class State(Protocol):
    """What an adapter carries from chunk to chunk besides KV (prompt, VAE cache, action history).

    It moves on when its chunk is encoded, and when it is decoded. `copy.copy` of a state is a state of its own: what is
    done to one is not seen in the other.
    """

    def conditioning(self, poses: Matrix) -> bytes:
        """What the coming chunk, at these poses, is drawn from besides them: enough to encode it again."""

    def to_bytes(self) -> Frame:
        """What it is, and may share its memory with: what a state holds is replaced as it moves on, never changed."""

    def from_bytes(self, data: Frame) -> None:
        """Become what was saved. Raises ChunkCorrupt for bytes that are no state of this model."""


class WorldModel(Protocol):
    """A causal video world model that draws a chunk at a time against a window of remembered KV.

    All calls are batched over sessions: row b of the window belongs to entry b of the other arguments.
    A latent chunk is [frames, channels, height, width] float32. Windows and latents that are given lie on `device`.
    """

    spec: ModelSpec
    device: torch.device
    codecs: Mapping[str, tuple[Codec, Codec]]
    """Codecs fitted to this model, by name: of keys, and of values."""
    state_bytes: int
    """Of the device, that a session's state takes at most."""
    axes: tuple[Axis, ...]
    """Of an action, what the model can be told: the rest moves nobody, so that poses are those of what is seen."""

    def drawing_bytes(self, sessions: int) -> int:
        """Of the device, that a pass for so many sessions takes besides, until what it drew is remembered."""

    def hear(self, subject: Subject) -> Callable[[], object]:
        """Hear what a world is about, so that a `start` with it takes no time.

        The call does what needs no model, and may be made in any thread; what it answers does the rest, and is to be
        called where the model runs. Raises InvalidInput for a subject that the model cannot be told.
        """

    def start(self, subject: Subject | None = None, begin: int = 0, before: Matrix | None = None) -> State:
        """Fresh state of a session; of one that goes on from what is kept, where nobody saved its state.

        subject  what its world is about: unless it was heard before (`hear`) that may take seconds. None: nothing is
                 heard, which is enough to decode with, and to become a saved state (`from_bytes`)
        begin    first latent frame of its coming chunk
        before   [n, 4, 4]: poses of the frames just before that one, those that are known

        Raises InvalidInput for a subject that the model cannot be told, before anything that takes long.
        """

    def generate(self, window: View, conditions: Sequence[Conditioning], noise: Tensor) -> Tensor:
        """Denoise the coming chunks: noise and result [batch, frames, channels, height, width] float32."""

    def see(self, pictures: Tensor) -> Tensor:
        """Latents [frames, channels, height, width] of as many pictures from elsewhere, in 0..1: what each latent frame
        shows [frames, 3, height, width]."""

    def encode(self, latents: Tensor, window: View, conditions: Sequence[Conditioning]) -> list[KV]:
        """The clean pass (t = 0) over given latents: each chunk's own keys, in chunk-local time, and values."""

    def decode(self, states: Sequence[State], latents: Tensor) -> list[Tensor]:
        """Pictures [pictures, 3, height, width] float32 in 0..1 of each of the latent chunks.

        A session's first chunk may have fewer of them than those after it.
        """
