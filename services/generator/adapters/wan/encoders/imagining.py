"""From what somebody says that a world is about to the prompt that its model hears."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat

import torch
from torch import Tensor
from torch.nn import functional

from services.generator.adapters.wan.encoders.image import ImageEncoder
from services.generator.adapters.wan.encoders.pictures import GREY, opened, plain
from services.generator.adapters.wan.encoders.text import TextEncoder
from services.generator.adapters.wan.prompts import Prompt
from services.generator.adapters.wan.vae import VAE
from services.generator.adapters.wan.variants import Variant
from services.generator.world_model import Subject
from worldkv.errors import InvalidConfig, InvalidInput

LEAST, MOST = 11, 30
"""Latent frames of the first picture and the grey after it that are encoded: until they have settled, between these.
After 29 nothing that the VAE's encoder sees is of the picture."""
SETTLED = 0.01
"""What the last two of them may differ by, of latents whose spread is about one."""
LONG = 32
"""Characters a token that no language comes near: more are refused uncounted, for cutting millions takes seconds."""


class Imagination:
    """Makes prompts for one model, as an `Imagine`.

    grid   rows and columns of latent cells
    vae    encodes first pictures
    text   encodes words, for models that are told in words
    image  encodes pictures, for models that are told by one
    beside  whether these two run on a device of their own, and so beside the model

    Raises InvalidConfig if an encoder is missing, or is not the one that the model was made with.
    """

    def __init__(
        self,
        variant: Variant,
        grid: tuple[int, int],
        vae: VAE,
        text: TextEncoder | None = None,
        image: ImageEncoder | None = None,
        beside: bool = False,
    ) -> None:
        self.variant, self.grid, self.vae, self.beside = variant, grid, vae, beside
        context, name = variant.backbone.context, variant.name
        self.text = text if context.kind == "text" else None
        self.image = image if context.kind == "image" else None
        if (encoder := self.text or self.image) is None:
            raise InvalidConfig(f"{name} is told by a prompt's {context.kind}, and there is no encoder of it")
        if encoder.width != context.width:
            raise InvalidConfig(f"{name} hears tokens of {context.width} channels, the encoder gives {encoder.width}")
        if self.image and self.image.tokens != context.tokens:
            raise InvalidConfig(f"{name} hears {context.tokens} tokens, the encoder gives {self.image.tokens}")

    def __call__(self, subject: Subject) -> Callable[[], Prompt]:
        """Everything that can be refused is looked at before anything is encoded."""
        self._check(subject)
        picture = self._picture(subject) if self._sees else None
        known = self._tokens(subject, picture) if self.beside else None

        def rest() -> Prompt:
            tokens = self._tokens(subject, picture) if known is None else known
            return Prompt(tokens, None if picture is None or not self._given else self._settled(picture))

        return rest

    @property
    def _given(self) -> bool:
        """Whether the model is given the first picture's latents."""
        return bool(self.variant.backbone.given_channels)

    @property
    def _sees(self) -> bool:
        return self._given or self.image is not None

    def _check(self, subject: Subject) -> None:
        name, most = self.variant.name, self.variant.backbone.context.tokens
        if subject.picture and not self._sees:
            raise InvalidInput(f"{name} is told in words alone, got a picture of {len(subject.picture)} bytes")
        if self.text is None:
            if subject.words:
                raise InvalidInput(f"{name} is told by a picture, not in words, got {subject.words[:80]!r}")
        elif (length := len(subject.words)) > LONG * most:
            raise InvalidInput(f"a prompt of {name} has at most {LONG * most} characters, got {length}")
        elif (count := self.text.count(subject.words)) > most:
            raise InvalidInput(f"a prompt of {name} has at most {most} tokens, got {count}: {subject.words[:80]!r}")

    def _picture(self, subject: Subject) -> Tensor:
        """[3, height, width] in 0..1."""
        height, width = (self.vae.pixels * side for side in self.grid)
        return opened(subject.picture, height, width) if subject.picture else plain(height, width)

    def _tokens(self, subject: Subject, picture: Tensor | None) -> Tensor:
        """As many as the model attends to: words are filled up with zeros, which it attends to as well."""
        if self.text is not None:
            tokens = self.text(subject.words)
            return functional.pad(tokens, (0, 0, 0, self.variant.backbone.context.tokens - len(tokens)))
        assert self.image is not None, "one of the encoders is there"
        assert picture is not None, "a model that is told by a picture sees one"
        return self.image(picture)

    def _settled(self, picture: Tensor) -> Tensor:
        """Latents [n, channels, height, width] of the picture and of grey after it."""
        grey, latents = picture.new_full((self.vae.pictures, *picture.shape), GREY), list[Tensor]()
        for each in self.vae.frames(chain([picture[None]], repeat(grey, MOST - 1))):
            latents.append(each)
            if len(latents) >= LEAST and (latents[-1] - latents[-2]).abs().max() <= SETTLED:
                break
        return torch.stack(latents).float()
