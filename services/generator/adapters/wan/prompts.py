"""What worlds are about, as a model hears it: a prompt a session, and many sessions may have the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from weakref import WeakSet

import torch
from torch import Tensor

from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.layers import Pair
from services.generator.world_model import Subject
from worldkv.errors import InvalidInput, NotFound

AT_HAND = 16
"""Prompts that are kept when no session has them any more: some MiB each."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a world is about.

    tokens  [T, width] of the text or image encoder, as many as the model attends to
    given   [n, channels, height, width]: latents of the first picture and of grey after it, until they have settled;
            the last of them stands for all later frames. None for a model that takes no picture
    """

    tokens: Tensor
    given: Tensor | None = None

    def same(self, other: Prompt) -> bool:
        """Whether both say the same, bit for bit."""
        if self.given is None or other.given is None:
            return self.given is other.given and torch.equal(self.tokens, other.tokens)
        return torch.equal(self.tokens, other.tokens) and torch.equal(self.given, other.given)


Imagine = Callable[[Subject], Callable[[], Prompt]]
"""Makes a prompt of what somebody says that a world is about; raises InvalidInput for what a model cannot be told.

The call does what needs no model, in any thread; what it answers does the rest, where the model runs."""


def fixed(prompt: Prompt) -> Imagine:
    """Whatever is said, worlds are about this."""
    return lambda subject: lambda: prompt


@dataclass(frozen=True, eq=False)
class Heard:
    """A prompt that the model has heard, on the model's device.

    digest  of the subject that it was made of
    listen  makes keys and values of tokens [B, T, width], for each layer
    """

    digest: bytes
    prompt: Prompt
    listen: Callable[[Tensor], list[Pair]]

    @cached_property
    def context(self) -> list[Pair]:
        """Keys and values of each layer's cross-attention, [1, T, H, K]; the largest part of a prompt, made when it is
        needed first."""
        with torch.inference_mode():
            return self.listen(self.prompt.tokens[None])


class Prompts:
    """The prompts of one model's sessions. One is kept as long as a session has it, and the latest a while longer.

    Threads may use it together.

    imagine  makes them
    listen   see `Heard`
    config   of the model that they have to fit
    grid     rows and columns of latent cells
    device   on which they are kept
    """

    def __init__(
        self,
        imagine: Imagine,
        listen: Callable[[Tensor], list[Pair]],
        config: WanConfig,
        grid: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.imagine, self.listen, self.config, self.grid, self.device = imagine, listen, config, grid, device
        self._held: WeakSet[Heard] = WeakSet()
        self._latest: OrderedDict[bytes, Prompt] = OrderedDict()
        self._lock = RLock()

    def hear(self, subject: Subject) -> Callable[[], Heard]:
        """What a subject comes to, in two calls as `Imagine`. Raises InvalidInput for one that the model cannot be
        told."""
        digest = subject.digest
        heard = self._at_hand(digest)
        if heard is not None:
            return lambda: heard
        imagined = self.imagine(subject)
        return lambda: self._at_hand(digest) or self.take(digest, imagined())

    def find(self, digest: bytes) -> Heard:
        """What the subject of this digest came to. Raises NotFound unless a session has it, or had it lately."""
        heard = self._at_hand(digest)
        if heard is None:
            raise NotFound(f"what the world {digest.hex()} is about was not heard here: nobody has said it")
        return heard

    def take(self, digest: bytes, prompt: Prompt) -> Heard:
        """A prompt that was made before, here or elsewhere: elsewhere the same subject may have come to a prompt that
        differs in its last digits, and a session keeps its own. Raises InvalidInput for one that does not fit."""
        self._check(prompt)
        given = None if prompt.given is None else prompt.given.float().to(self.device)
        own = Heard(digest, Prompt(prompt.tokens.to(self.device), given), self.listen)
        with self._lock:
            heard = next((each for each in self._held if each.digest == digest and each.prompt.same(own.prompt)), own)
            self._held.add(heard)
            self._latest[digest] = heard.prompt
            self._latest.move_to_end(digest)
            while len(self._latest) > AT_HAND:
                self._latest.popitem(last=False)
            return heard

    def _at_hand(self, digest: bytes) -> Heard | None:
        with self._lock:
            for heard in self._held:
                if heard.digest == digest:
                    return heard
            prompt = self._latest.get(digest)
            return None if prompt is None else self.take(digest, prompt)

    def _check(self, prompt: Prompt) -> None:
        c = self.config
        if tuple(prompt.tokens.shape) != (c.context.tokens, c.context.width):
            wanted = (c.context.tokens, c.context.width)
            raise InvalidInput(f"a prompt's tokens are {wanted}, got {tuple(prompt.tokens.shape)}")
        if not all(each is None or each.is_floating_point() for each in (prompt.tokens, prompt.given)):
            raise InvalidInput(f"a prompt is made of numbers, got tokens of {prompt.tokens.dtype}")
        if (prompt.given is not None) != bool(c.given_channels):
            raise InvalidInput(f"a prompt of this model has {'a' if c.given_channels else 'no'} given picture")
        cell = (c.out_channels, *self.grid)
        if prompt.given is not None and (not len(prompt.given) or tuple(prompt.given.shape[1:]) != cell):
            raise InvalidInput(f"a given picture is at least one latent {cell}, got {tuple(prompt.given.shape)}")


def contexts(heard: Sequence[Heard]) -> list[Pair]:
    """Keys and values of a batch's cross-attention, a row each; where all have heard the same nothing is copied."""
    first = heard[0]
    if all(each is first for each in heard):
        return [(k.expand(len(heard), -1, -1, -1), v.expand(len(heard), -1, -1, -1)) for k, v in first.context]
    layers = zip(*(each.context for each in heard), strict=True)
    return [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
