"""The modes of a session: which chunks stand in its window, and what slots it has for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from services.generator.drawing import Context
from services.generator.step import Mode
from worldkv.chunk import ModelSpec
from worldkv.errors import InvalidConfig
from worldkv.window import GROWTH, WindowConfig


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


def stays(config: SessionConfig, frames: int, indices: Collection[int]) -> set[int]:
    """Which of these chunks stand in a session's window uncoded: sink and recent ones, or the newest, or all.

    frames  latent frames of a chunk
    """
    if config.mode == "full":
        return {*indices}
    if config.mode == "window":
        newest = sorted(indices)
        return {*newest[max(0, len(newest) - config.window.frames(frames) // frames + 1) :]}
    sinks, recent = config.window.sink // frames, config.window.recent // frames
    others = sorted(i for i in indices if i >= sinks)
    return {*(i for i in indices if i < sinks), *others[max(0, len(others) - recent) :]}


def slot_sizes(spec: ModelSpec, config: SessionConfig, recalled: Sequence[int], held: int = 0) -> tuple[int, ...]:
    """Tokens of each slot of a session's window.

    recalled  tokens of each recalled slot, in mode `worldkv`
    held      chunks that it holds uncoded
    """
    whole, window = spec.frames * spec.frame_tokens, config.window
    if config.mode == "full":
        return (whole,) * (GROWTH * max(1, -(-held // GROWTH)))
    if config.mode == "window":
        return (whole,) * (window.frames(spec.frames) // spec.frames - 1)
    return (whole,) * (window.sink // spec.frames) + tuple(recalled) + (whole,) * (window.recent // spec.frames)
