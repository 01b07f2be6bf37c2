"""Where keys and values at hand lie, and how a memory works there: beside the passes of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from worldkv.coding import KV


class Device:
    """The device that a model runs on, as its memory works on it.

    On a processor that is nothing in particular. A GPU does the memory's work on a stream of its own, which all
    memories share: copies to and from the host run while the model computes, and no pass stands behind one.

    at_hand  where chunks at hand lie: there too, unless it is said to be elsewhere
    """

    def __init__(self, model: torch.device | str = "cpu", at_hand: torch.device | str | None = None) -> None:
        device = torch.device(model)
        if device == torch.device("cuda"):
            device = torch.device("cuda", torch.cuda.current_device())
        self.at_hand = device if at_hand is None else torch.device(at_hand)
        self._stream = _stream(device) if device.type == "cuda" else None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is asked of the device inside runs beside the model's passes, and is done when this ends.

        What is read must be there: nothing is waited for that the model was asked for before.
        """
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        self._stream.record_event().synchronize()

    def lend(self, kv: KV) -> KV:
        """Keys and values that were made beside the model, for its passes to read: their memory is not used again
        before those that were asked for have read it."""
        if kv.keys.device.type == "cuda":
            for each in kv:
                each.record_stream(torch.cuda.default_stream(each.device))
        return kv


CPU = Device()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Goes first where both could run: its kernels are short, and somebody waits for them."""
    return torch.cuda.Stream(device, priority=-1)
