"""How one session remembers, as its client may choose it, and what there is to choose from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from services.generator.step import Mode
from worldkv.errors import InvalidInput
from worldkv.wire_sessions import MODES, MemoryChange


@dataclass(frozen=True)
class Settings:
    """How a session remembers.

    mode      what stands in the window
    selector  how chunks are chosen for recall
    recalled  chunks recalled at most
    keep      share of tokens kept of every frame but a chunk's first
    codec     in which chunks are kept
    budget_chunks  of those drawn here, how many keep their keys and values; 0: no limit but the service's
    """

    mode: Mode
    selector: str
    recalled: int
    keep: float
    codec: str
    budget_chunks: int = 0

    def changed(self, change: MemoryChange) -> Settings:
        """These settings with some of them changed."""
        told: dict[str, Any] = {
            each.name: value for each in fields(change) if (value := getattr(change, each.name)) is not None
        }
        return replace(self, **told)

    @property
    def change(self) -> MemoryChange:
        """What makes any settings these."""
        return MemoryChange(**vars(self))


@dataclass(frozen=True)
class Choices:
    """What sessions of a service may choose.

    selectors, codecs  by name
    slots  of the window for recalled chunks, each with room for
    keep   that share of a chunk's tokens
    """

    selectors: tuple[str, ...]
    codecs: tuple[str, ...]
    slots: int
    keep: float

    def check(self, settings: Settings) -> Settings:
        """The settings, or InvalidInput naming the one that cannot be."""
        if settings.mode not in MODES:
            raise InvalidInput(f"mode is one of {', '.join(MODES)}, got {settings.mode!r}")
        for name, known in (("selector", self.selectors), ("codec", self.codecs)):
            if (value := getattr(settings, name)) not in known:
                raise InvalidInput(f"no {name} is named {value[:80]!r}; there are {', '.join(known)}")
        if not 0 <= settings.recalled <= self.slots:
            raise InvalidInput(f"recalled = {settings.recalled}: the window has {self.slots} slots for recalled chunks")
        if not 0 <= settings.keep <= self.keep:
            raise InvalidInput(f"keep = {settings.keep:g}: slots have room for {self.keep:g} of a chunk's tokens")
        if settings.budget_chunks < 0 or settings.budget_chunks == 1:
            raise InvalidInput(
                f"budget_chunks = {settings.budget_chunks}: expected 0 (no limit), or 2 and more, as the first stays"
            )
        return settings
