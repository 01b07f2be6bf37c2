"""What a session of a Wan model carries from chunk to chunk besides KV, and what is kept with each chunk."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import NamedTuple

import msgpack
import numpy as np
import torch
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.files import finite
from services.generator.adapters.wan.packed import pack, unpack
from services.generator.adapters.wan.prompts import Heard, Prompt, Prompts
from services.generator.adapters.wan.vae import Features
from worldkv.chunk import ModelSpec
from worldkv.coding import DTYPES
from worldkv.errors import ChunkCorrupt, InvalidInput
from worldkv.format import Frame
from worldkv.pose import Matrix, check

SUBJECT, TOKENS, GIVEN = "subject", "prompt.tokens", "prompt.given"
"""Names of a prompt's parts in a saved state."""
FEATURES = "features."
"""Begins the names of features in a saved state."""
DIGEST = 16
"""Bytes of a subject's digest."""


class Lead(NamedTuple):
    """What led to a chunk: kept with it, so that it can be told the same when it is made again.

    begin    its first latent frame since the world began
    before   [n, 4, 4] float64: poses of the frames just before it, as many as the model looks back, or as there are
    subject  digest of what the world is about
    """

    begin: int
    before: Matrix
    subject: bytes

    def to_bytes(self) -> bytes:
        before = self.before.astype("<f8").tobytes()
        packed: bytes = msgpack.packb({"begin": self.begin, "before": before, "subject": self.subject})
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Lead:
        """Raises InvalidInput for bytes that are not a lead."""
        try:
            fields = msgpack.unpackb(data)
            before = np.frombuffer(fields["before"], "<f8").reshape(-1, 4, 4).astype(np.float64)
            lead = cls(operator.index(fields["begin"]), before, bytes(memoryview(fields["subject"])))
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise InvalidInput(f"expected what led to a chunk, got {len(data)} bytes: {error!r}") from error
        if lead.begin < len(before) or not np.isfinite(before).all():
            raise InvalidInput(f"expected what led to a chunk, got {len(before)} poses before frame {lead.begin}")
        return lead


def no_past(config: WanConfig, places: int, device: torch.device | str, dtype: torch.dtype) -> ActionPast:
    """Empty caches of all action modules: mouse [layers, 2, S, P, H, K], keyboard [layers, 2, P, H, K]."""
    c = config.actions
    if c is None:
        return ActionPast(torch.empty(0), torch.empty(0))
    tail = (c.window - config.frames, c.heads, c.head_dim)
    mouse = torch.zeros(c.layers, 2, places if c.mouse else 0, *tail, device=device, dtype=dtype)
    return ActionPast(mouse, torch.zeros(c.layers, 2, *tail, device=device, dtype=dtype))


def carried_bytes(config: WanConfig, places: int, dtype: torch.dtype) -> int:
    """Of a session's state but the VAE's features: caches of action modules, and a prompt's keys and values."""
    context = 2 * config.layers * config.context.tokens * config.dim * dtype.itemsize
    return context + sum(each.nbytes for each in no_past(config, places, "meta", dtype))


def drawing_bytes(config: WanConfig, spec: ModelSpec, features: int, pictures: int, pixels: int, sessions: int) -> int:
    """Of what is there of each chunk while it is drawn: the session's state after it, beside the one before; its keys
    and values, and pictures; where the camera is seen, what it does in each layer. What a layer needs in passing is not
    in it.

    features  bytes that the VAE's decoder carries
    pictures  of a latent frame, pixels: a side of a latent cell
    """
    dtype, places, (_, rows, columns) = DTYPES[spec.dtype], spec.frame_tokens, spec.latent
    shown = spec.frames * pictures * 3 * rows * columns * pixels**2 * torch.float32.itemsize
    caches = sum(each.nbytes for each in no_past(config, places, "meta", dtype))
    own = features + caches + spec.raw_bytes + shown
    seen = 2 * config.layers * spec.frames * places * config.dim * dtype.itemsize if config.camera else 0
    copies = 2 if sessions > 1 else 1  # what belongs to one session is copied out of what was drawn for all
    return sessions * (copies * own + seen)


class WanState:
    """Moved on by the clean pass of each chunk, and by its decoding; tensors are replaced, never written into.

    history   poses that the model looks back
    prompts   where saved prompts go when they come back
    fits      raises InvalidInput for features that are none of this model's VAE
    heard     what the world is about; None: nothing was heard
    past      rolling caches of the action modules, see `no_past`
    known     latent frames that they have seen, however many they still hold
    begin     first latent frame of the coming chunk
    before    [n, 4, 4]: poses just before it, at most `history`
    features  of the VAE's decoder
    """

    def __init__(
        self,
        history: int,
        past: ActionPast,
        prompts: Prompts,
        fits: Callable[[Features], None],
        heard: Heard | None = None,
        begin: int = 0,
        before: Matrix | None = None,
    ) -> None:
        self.history, self.past, self.known, self.begin = history, past, 0, begin
        self.prompts, self.fits, self.heard = prompts, fits, heard
        self.before = self._newest(np.zeros((0, 4, 4)) if before is None else before)
        self.features: Features = {}

    def __copy__(self) -> WanState:
        other = WanState(self.history, self.past, self.prompts, self.fits, self.heard, self.begin, self.before)
        other.known, other.features = self.known, copy.copy(self.features)
        return other

    def conditioning(self, poses: Matrix) -> bytes:
        if self.heard is None:
            raise InvalidInput("a chunk is drawn of what its world is about, and this state has heard of nothing")
        return Lead(self.begin, self.before, self.heard.digest).to_bytes()

    def advance(self, poses: Matrix, own: ActionPast | None) -> None:
        """After a chunk at these poses, whose frames left `own` in the action modules, where there are any."""
        self.begin += len(poses)
        self.before = self._newest(np.concatenate([self.before, poses]))
        if own:
            self.known += len(poses)
            self.past = ActionPast(_rolled(self.past.mouse, own.mouse), _rolled(self.past.keyboard, own.keyboard))

    def to_bytes(self) -> Frame:
        tensors = {f"{FEATURES}{name}": each for name, each in self.features.items()}
        tensors |= {"mouse": self.past.mouse, "keyboard": self.past.keyboard}
        tensors |= {"counts": torch.tensor([self.begin, self.known]), "before": torch.tensor(self.before)}
        if self.heard is not None:
            prompt = self.heard.prompt
            tensors |= {SUBJECT: torch.frombuffer(bytearray(self.heard.digest), dtype=torch.uint8)}
            tensors |= {TOKENS: prompt.tokens} | ({} if prompt.given is None else {GIVEN: prompt.given})
        return pack(tensors)

    def from_bytes(self, data: Frame) -> None:
        """Raises ChunkCorrupt for bytes that are not a state of this model: then nothing has changed."""
        try:
            self._become(unpack(data))
        except (InvalidInput, KeyError, ValueError, TypeError) as error:
            raise ChunkCorrupt(f"{data.nbytes} bytes are not the state of a walk of this model: {error}") from error

    def _become(self, tensors: dict[str, Tensor]) -> None:
        """Raises InvalidInput, KeyError, ValueError or TypeError for tensors that make no state."""
        if wrong := [name for name, each in tensors.items() if not finite(each)]:
            raise InvalidInput(f"{wrong[0]} is not finite")
        begin, known = map(operator.index, tensors.pop("counts").tolist())
        before = tensors.pop("before").numpy()
        if not 0 <= known <= begin or before.dtype != np.float64 or before.ndim != 3:
            raise InvalidInput(f"caches have seen {known} frames of {begin}, and poses are {before.shape}")
        if len(check(before)) > min(self.history, begin):
            raise InvalidInput(f"this model looks back {self.history} poses, got {len(before)} before frame {begin}")
        past = ActionPast(tensors.pop("mouse"), tensors.pop("keyboard"))
        for mine, given in zip(self.past, past, strict=True):
            if given.shape != mine.shape or given.dtype != mine.dtype:
                raise InvalidInput(f"caches of this model are {tuple(mine.shape)}, got {tuple(given.shape)}")
        subject, tokens, picture = (tensors.pop(name, None) for name in (SUBJECT, TOKENS, GIVEN))
        if others := [name for name in tensors if not name.startswith(FEATURES)]:
            raise InvalidInput(f"{others[0]} is no part of it")
        features = {name.removeprefix(FEATURES): each for name, each in tensors.items()}
        self.fits(features)
        self.heard = None if subject is None else self._heard(subject, tokens, picture)
        device = self.past.keyboard.device
        self.begin, self.known, self.before = begin, known, before
        self.past = ActionPast(*(each.to(device) for each in past))
        self.features = {name: each.to(device) for name, each in features.items()}

    def _heard(self, subject: Tensor, tokens: Tensor | None, picture: Tensor | None) -> Heard:
        if tokens is None or subject.dtype != torch.uint8 or subject.shape != (DIGEST,):
            raise InvalidInput(f"a prompt has tokens, and a digest of {DIGEST} bytes; got {tuple(subject.shape)}")
        return self.prompts.take(subject.numpy().tobytes(), Prompt(tokens, picture))

    def _newest(self, poses: Matrix) -> Matrix:
        return poses[max(0, len(poses) - self.history) :]


def _rolled(past: Tensor, own: Tensor) -> Tensor:
    """The newest frames of both, as many as `past` has; frames are the third axis from the end."""
    room, new = past.shape[-3], own.shape[-3]
    return torch.cat([past[..., new:, :, :], own[..., max(0, new - room) :, :, :]], -3)
