"""Passes on a GPU, asked for once and then played again.

A pass of the small models is some thousand kernels that take longer to ask for than to run: the host asks one by one. A
CUDA graph of them is asked for at once, computes the same, and leaves the host to those who fetch and store.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from services.generator.adapters.wan.actions import ActionPast, Acts
from services.generator.adapters.wan.block import Sight
from services.generator.adapters.wan.config import WanConfig
from services.generator.adapters.wan.layers import Pair
from services.generator.adapters.wan.model import Passed, WanModel
from services.generator.adapters.wan.rotation import Turns

_log = logging.getLogger(__name__)

Pass = Callable[..., Passed]
"""As `WanModel.forward`."""
USED = 8
"""Passes over the same memory, alike in everything else, with which they prove worth recording: that takes as long as
several of them."""
HELD = 4
"""Recordings that are kept: of steps and of clean passes, for two batches."""
WATCHED = 64
"""Kinds of passes whose uses are counted."""


def recorded_bytes(carried: int, chunk: int, sessions: int) -> int:
    """Of a GPU, that recordings hold: a copy of what each session carries (`carried_bytes`), and of clean passes, every
    second one, what it carries afterwards and a chunk's keys and values. What layers need in passing is not in it."""
    return sessions * (HELD * carried + HELD // 2 * (carried + chunk))


def recorded(model: WanModel) -> Pass:
    """A model's passes: recorded where that helps. Not on a processor; nor where the camera is seen in each layer: that
    is as large as a chunk's keys and values, and would be copied for every pass."""
    return Recorded(model, CudaGraphs()) if records(model.config, model.patch_embedding.weight.device) else model


def records(config: WanConfig, device: torch.device) -> bool:
    """Whether passes are recorded."""
    return device.type == "cuda" and config.camera is None


Capture = Callable[[Callable[[], Passed]], tuple[Callable[[], object], Passed]]
"""Takes down what a call asks of a device: answers with what plays that again, and where its results are found then.
Raises RuntimeError if it cannot."""


class CudaGraphs:
    """Takes down what is asked of a GPU. What passes need meanwhile is of the same memory, one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Passed]) -> tuple[Callable[[], object], Passed]:
        graph = torch.cuda.CUDAGraph()
        # Others go on using the device from their own threads meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            passed = run()
        return graph.replay, passed


@dataclass
class _Recording:
    """A kind of pass, taken down.

    given   where what a pass is given is put
    passed  where what it gives is found, until the next pass
    last    when it was played last, counted in passes
    """

    play: Callable[[], object]
    given: list[Tensor]
    passed: Passed
    last: int


class _Uses(NamedTuple):
    """When a kind of pass came first, counted in passes, and how often it has come."""

    first: int
    times: int = 0


class Recorded:
    """A model's passes, for one thread at a time.

    What is small is copied to where the recording reads it. The memory is not: a recording is of one place of it, as
    windows stay where they are.
    """

    def __init__(self, model: WanModel, capture: Capture) -> None:
        self.model, self.capture = model, capture
        self._held: OrderedDict[Hashable, _Recording] = OrderedDict()  # played last, last
        self._uses: OrderedDict[Hashable, _Uses] = OrderedDict()  # of what is not held; came last, last
        self._passes = 0
        self._fails = False

    def __call__(
        self,
        latents: Tensor,
        time: Tensor,
        turns: Turns,
        memory: Pair,
        valid: Tensor | None,
        context: list[Pair],
        camera: list[Sight] | None = None,
        acts: Acts | None = None,
        past: ActionPast | None = None,
        keep: bool = False,
    ) -> Passed:
        """See `WanModel.forward`. The flow is good until the next pass."""
        assert camera is None, "what is seen in each layer is not recorded"
        given, tree = tree_flatten((latents, time, turns, context, acts, past))
        tensors = [each for each in given if isinstance(each, Tensor)]
        places = [each for each in (*memory, valid) if each is not None]
        key = (
            keep,
            tuple((each.shape, each.dtype) for each in tensors),
            tuple((each.data_ptr(), each.shape, each.stride()) for each in places),
        )
        self._passes += 1
        recording = self._held.get(key)
        if recording is None:
            if not self._worth(key):
                return self.model(latents, time, turns, memory, valid, context, None, acts, past, keep)
            own = [each.clone() if isinstance(each, Tensor) else each for each in given]
            run = partial(self._pass, tree_unflatten(own, tree), memory, valid, keep)
            passed = run()  # libraries get ready for this thread and these places, which they must not meanwhile
            self._record(key, own, run)
            return passed
        self._held.move_to_end(key)
        recording.last = self._passes
        torch._foreach_copy_(recording.given, tensors)
        recording.play()
        flow, kv, done = recording.passed
        return Passed(flow, kv and (kv[0].clone(), kv[1].clone()), done and ActionPast(*(x.clone() for x in done)))

    def _pass(
        self,
        given: tuple[Tensor, Tensor, Turns, list[Pair], Acts | None, ActionPast | None],
        memory: Pair,
        valid: Tensor | None,
        keep: bool,
    ) -> Passed:
        latents, time, turns, context, acts, past = given
        return self.model(latents, time, turns, memory, valid, context, None, acts, past, keep)

    def _worth(self, key: Hashable) -> bool:
        """Whether a pass of this kind is to be recorded now: it has come often enough, and there is room, or what was
        recorded first has not come since this kind began to."""
        if self._fails:
            return False
        uses = self._uses.pop(key, _Uses(self._passes))
        uses = uses._replace(times=uses.times + 1)
        if uses.times < USED:
            self._uses[key] = uses
            if len(self._uses) > WATCHED:
                self._uses.popitem(last=False)
            return False
        if len(self._held) == HELD:
            oldest, held = next(iter(self._held.items()))
            if held.last > uses.first:
                return False
            del self._held[oldest]
        return True

    def _record(self, key: Hashable, own: list[Tensor | None], run: Callable[[], Passed]) -> None:
        try:
            play, passed = self.capture(run)
        except RuntimeError as error:
            self._fails = True
            _log.warning("passes are not recorded any more, and take longer: %s", error)
            return
        given = [each for each in own if isinstance(each, Tensor)]
        self._held[key] = _Recording(play, given, passed, self._passes)
