"""What a session of a Wan model carries from chunk to chunk besides KV, and what is kept with each chunk."""

from __future__ import annotations

import copy
import operator
from typing import NamedTuple

import msgpack
import numpy as np
import torch
from torch import Tensor

from services.generator.adapters.wan.actions import ActionPast
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.packed import pack, unpack
from services.generator.adapters.wan.prompts import Heard, Prompt, Prompts
from services.generator.adapters.wan.vae import Features
from worldkv.errors import InvalidInput
from worldkv.format import Frame
from worldkv.pose import Matrix

SUBJECT, TOKENS, GIVEN = "subject", "prompt.tokens", "prompt.given"
"""Names of a prompt's parts in a saved state."""


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


class WanState:
    """Moved on by the clean pass of each chunk, and by its decoding; tensors are replaced, never written into.

    history   poses that the model looks back
    prompts   where saved prompts go when they come back
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
        heard: Heard | None = None,
        begin: int = 0,
        before: Matrix | None = None,
    ) -> None:
        self.history, self.past, self.known, self.begin = history, past, 0, begin
        self.prompts, self.heard = prompts, heard
        self.before = self._newest(np.zeros((0, 4, 4)) if before is None else before)
        self.features: Features = {}

    def __copy__(self) -> WanState:
        other = WanState(self.history, self.past, self.prompts, self.heard, self.begin, self.before)
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
        tensors = {f"features.{name}": each for name, each in self.features.items()}
        tensors |= {"mouse": self.past.mouse, "keyboard": self.past.keyboard}
        tensors |= {"counts": torch.tensor([self.begin, self.known]), "before": torch.tensor(self.before)}
        if self.heard is not None:
            prompt = self.heard.prompt
            tensors |= {SUBJECT: torch.frombuffer(bytearray(self.heard.digest), dtype=torch.uint8)}
            tensors |= {TOKENS: prompt.tokens} | ({} if prompt.given is None else {GIVEN: prompt.given})
        return pack(tensors)

    def from_bytes(self, data: Frame) -> None:
        """Raises InvalidInput for bytes that are not a state of this model."""
        try:
            tensors = unpack(data)
            (begin, known), before = tensors.pop("counts").tolist(), tensors.pop("before").numpy()
            past = ActionPast(tensors.pop("mouse"), tensors.pop("keyboard"))
            subject = tensors.pop(SUBJECT).numpy().tobytes() if SUBJECT in tensors else None
            prompt = None if subject is None else Prompt(tensors.pop(TOKENS), tensors.pop(GIVEN, None))
        except (InvalidInput, KeyError, ValueError, TypeError) as error:
            raise InvalidInput(f"expected the state of a walk, got {data.nbytes} bytes: {error}") from error
        for mine, given in zip(self.past, past, strict=True):
            if given.shape != mine.shape or given.dtype != mine.dtype:
                raise InvalidInput(f"a state of this model has caches {tuple(mine.shape)}, got {tuple(given.shape)}")
        self.heard = self.prompts.take(subject, prompt) if subject is not None and prompt is not None else None
        device = self.past.keyboard.device
        self.begin, self.known, self.before = begin, known, before
        self.past = ActionPast(*(each.to(device) for each in past))
        self.features = {name.removeprefix("features."): each.to(device) for name, each in tensors.items()}

    def _newest(self, poses: Matrix) -> Matrix:
        return poses[max(0, len(poses) - self.history) :]


def _rolled(past: Tensor, own: Tensor) -> Tensor:
    """The newest frames of both, as many as `past` has; frames are the third axis from the end."""
    room, new = past.shape[-3], own.shape[-3]
    return torch.cat([past[..., new:, :, :], own[..., max(0, new - room) :, :, :]], -3)
