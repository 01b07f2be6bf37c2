"""Drawing chunks: what a session asks for, what it gets, and the passes of the model between, for one or for many.

Drawing changes nothing but the rows of the window that it fills, and those only hold copies: a draft that was not
drawn, or in vain, can be drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from services.generator.world_model import Conditioning, State, WorldModel
from worldkv.actions import Walker
from worldkv.chunk import Part
from worldkv.coding import KV
from worldkv.errors import InvalidInput
from worldkv.memory import Recalled, RecallReport
from worldkv.window import Entry, Placement, View, Window, positions

Context = Literal["window", "alone"]


class Shape(NamedTuple):
    """What drafts that are drawn together have in common.

    sizes    tokens of each slot of the window
    grows    the window gets more slots from time to time (mode `full`): drawn by itself
    shown    pictures from elsewhere are taken in, nothing is generated
    context  what the clean pass attends to besides the chunk itself
    """

    sizes: tuple[int, ...]
    grows: bool
    shown: bool
    context: Context


@dataclass(frozen=True, eq=False)
class Draft:
    """What one chunk of one session is drawn from.

    index         chunk number
    walker        where the session's walker stands after it
    conditioning  poses of its latent frames, and what else the model is told
    shape         which other drafts it can be drawn with
    entries, at   the chunk in each slot of the window (None: empty), and its time position
    position      time position of the chunk itself
    source        its noise [frames, channels, height, width], or pictures from elsewhere
                  [pictures, 3, height, width] in 0..1; float32, on the CPU
    state         of the model before this chunk; drawing leaves it as it is
    recalled      what stands in the recalled slots
    recall        how that went, and
    recall_seconds  how long it took
    """

    index: int
    walker: Walker
    conditioning: Conditioning
    shape: Shape
    entries: tuple[Entry | None, ...]
    at: tuple[int, ...]
    position: int
    source: Tensor
    state: State
    recalled: tuple[Recalled, ...]
    recall: RecallReport
    recall_seconds: float


class Drawn(NamedTuple):
    """What became of a draft; nothing of it shares memory with other sessions'.

    latents   [frames, channels, height, width] float32
    kv        of the clean pass, keys in chunk-local time
    pictures  [pictures, 3, height, width] float32 in 0..1, on the CPU
    state     of the model after this chunk
    window_seconds, model_seconds  wall time of the whole batch
    """

    latents: Tensor
    kv: KV
    pictures: Tensor
    state: State
    window_seconds: float
    model_seconds: float


def draw(model: WorldModel, window: Window, rows: Sequence[int], drafts: Sequence[Draft]) -> list[Drawn]:
    """Draw drafts of one shape together, each in a row of its own. The window's slots are at least theirs.

    Raises InvalidInput for pictures that give no latents, and whatever the model raises.
    """
    began = perf_counter()
    for row, draft in zip(rows, drafts, strict=True):
        window.fill(row, draft.entries, draft.position, draft.at)
    shape = drafts[0].shape
    view = window.view(rows, len(drafts[0].entries) if shape.grows else None)  # what is growing is seen as far as it is
    filled = perf_counter()
    states = [copy(draft.state) for draft in drafts]
    conditions = [draft.conditioning._replace(state=state) for draft, state in zip(drafts, states, strict=True)]
    if shape.shown:
        latents = torch.stack([_see(model, draft.source) for draft in drafts])
    else:
        latents = model.generate(view, conditions, torch.stack([d.source for d in drafts]).to(model.device))
    kvs = model.encode(latents, _behind(model, view, shape.context), conditions)
    if len(drafts) > 1:  # a part of a batch would hold all of it
        kvs = [KV(kv.keys.clone(), kv.values.clone()) for kv in kvs]
    # Whoever reads the clock after this waits for the device, and whoever reads keys and values finds them there.
    pictures = [each.cpu() for each in model.decode(states, latents)]
    own = ([x.clone() for x in both] if len(drafts) > 1 else [*both] for both in (latents, pictures))
    seconds = (filled - began, perf_counter() - filled)
    return [Drawn(a, kv, b, state, *seconds) for a, b, kv, state in zip(*own, kvs, states, strict=True)]


def window_for(model: WorldModel, sizes: Sequence[int], window: Window | None = None) -> Window:
    """A window of one row with these slots: the given one, grown if it has fewer, or a new one."""
    if window is None:
        return Window(model.spec, sizes, device=model.device)
    return window if len(sizes) <= len(window.sizes) else window.grown(sizes)


def encode_again(model: WorldModel, part: Part, before: Sequence[Entry], placement: Placement, context: Context) -> KV:
    """One clean pass over a chunk's latents behind the given chunks, which stand as they stood when it was made."""
    window = Window(model.spec, [e.kv.tokens for e in before], device=model.device)
    at, now = positions(list(before), part.meta.begin, placement)
    window.fill(0, list(before), now, at)
    behind = _behind(model, window.view([0]), context)
    (kv,) = model.encode(_kept(model, part), behind, [Conditioning(part.meta.poses, part.conditioning)])
    if model.device.type == "cuda":
        torch.cuda.current_stream(model.device).synchronize()  # others read it beside the model
    return kv


def decode_again(model: WorldModel, state: State, part: Part) -> Tensor:
    """Pictures of a kept chunk [pictures, 3, height, width] float32 in 0..1, on the CPU.

    They follow on those that the state has seen before, and it moves on.
    """
    (pictures,) = model.decode([state], _kept(model, part))
    return pictures.cpu()


def _behind(model: WorldModel, view: View, context: Context) -> View:
    """What the clean pass attends to, where chunks are drawn or made again behind `view`."""
    batch = len(view.position)
    return view if context == "window" else Window(model.spec, (), batch, model.device).view(range(batch))


def _kept(model: WorldModel, part: Part) -> Tensor:
    """The latents of a chunk, as a batch of one."""
    return torch.from_numpy(part.latents.astype(np.float32))[None].to(model.device)


def _see(model: WorldModel, pictures: Tensor) -> Tensor:
    latents, wanted = model.see(pictures.to(model.device)), (model.spec.frames, *model.spec.latent)
    if tuple(latents.shape) != wanted or not latents.isfinite().all():
        raise InvalidInput(f"pictures must give finite latents {wanted}, got {tuple(latents.shape)}")
    return latents
