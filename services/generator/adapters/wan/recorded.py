"""Passes on a GPU, asked for once and then played again.

A pass of the small models is some thousand kernels that take longer to ask for than to run: the host asks one by one. A
CUDA graph of them is asked for at once, computes the same, and leaves the host to those who fetch and store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from services.generator.adapters.wan.actions import ActionPast, Acts
from services.generator.adapters.wan.block import Sight
from services.generator.adapters.wan.layers import Pair
from services.generator.adapters.wan.model import Passed, WanModel
from services.generator.adapters.wan.rotation import Turns

Pass = Callable[..., Passed]
"""As `WanModel.forward`."""
USED = 8
"""Passes over the same memory, alike in everything else, with which they prove worth recording: that takes as long as
several of them."""
HELD = 4
"""Recordings that are kept, the ones used last: of steps and of clean passes, for two batches."""
WATCHED = 64
"""Kinds of passes whose uses are counted."""


def recorded_bytes(carried: int, chunk: int, sessions: int) -> int:
    """Of a GPU, that recordings hold: two copies of what each session carries (`carried_bytes`), and of clean passes a
    chunk's keys and values."""
    return sessions * (HELD * 2 * carried + HELD // 2 * chunk)


def recorded(model: WanModel) -> Pass:
    """A model's passes: recorded where that helps. Not on a processor; nor where the camera is seen in each layer: that
    is as large as a chunk's keys and values, and would be copied for every pass."""
    on_gpu = model.patch_embedding.weight.device.type == "cuda"
    return Recorded(model) if on_gpu and model.config.camera is None else model


class _Recording(NamedTuple):
    """given: where what a pass is given is put; passed: where what it gives is found, until the next pass."""

    graph: torch.cuda.CUDAGraph
    given: list[Tensor]
    passed: Passed


class Recorded:
    """A model's passes, for one thread at a time.

    What is small is copied to where the recording reads it. The memory is not: a recording is of one place of it, as
    windows stay where they are.
    """

    def __init__(self, model: WanModel) -> None:
        self.model = model
        self._pool = torch.cuda.graph_pool_handle()
        self._held: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._uses: OrderedDict[Hashable, int] = OrderedDict()

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
        given, tree = tree_flatten((latents, time, turns, context, acts, past))
        tensors = [each for each in given if isinstance(each, Tensor)]
        places = [each for each in (*memory, valid) if each is not None]
        key = (
            keep,
            tuple((each.shape, each.dtype) for each in tensors),
            tuple((each.data_ptr(), each.shape, each.stride()) for each in places),
        )
        recording = self._held.get(key)
        if recording is None:
            self._uses[key] = self._uses.pop(key, 0) + 1
            if self._uses[key] < USED:
                if len(self._uses) > WATCHED:
                    self._uses.popitem(last=False)
                return self.model(latents, time, turns, memory, valid, context, camera, acts, past, keep)
            del self._uses[key]
            if len(self._held) == HELD:
                self._held.popitem(last=False)
            own = [each.clone() if isinstance(each, Tensor) else each for each in given]
            run = partial(self._pass, tree_unflatten(own, tree), memory, valid, keep)
            passed = run()  # libraries get ready for this thread and these places, which they must not meanwhile
            self._held[key] = self._record(own, run)
            return passed
        self._held.move_to_end(key)
        torch._foreach_copy_(recording.given, tensors)
        recording.graph.replay()
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

    def _record(self, own: list[Tensor | None], run: Callable[[], Passed]) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        # Others go on using the device from their own threads meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            passed = run()
        return _Recording(graph, [each for each in own if isinstance(each, Tensor)], passed)
