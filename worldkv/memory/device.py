"""Where keys and values at hand lie: on the model's device, coded and decoded there beside its passes."""

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
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.torch = torch.device(device)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is asked of the device inside runs beside the model's passes, and is done when this ends."""
        if self.torch.type != "cuda":
            yield
            return
        stream = _stream(self.torch)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()

    @contextmanager
    def behind(self) -> Iterator[None]:
        """The same behind all that the model was asked for before: for what it has made."""
        if self.torch.type == "cuda":
            _stream(self.torch).wait_stream(torch.cuda.default_stream(self.torch))
        with self.beside():
            yield

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
