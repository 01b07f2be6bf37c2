"""What there is to run a model with: libraries, and devices and dtypes as torch's."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from services.generator.adapters.wan.settings import AUTO, Dtype, WanSettings
from worldkv.errors import InvalidConfig

LIBRARIES = ("diffusers", "tokenizers", "transformers")
"""What VAEs and encoders are computed by, beside torch."""


def missing() -> str:
    """Which libraries are not installed, in words; empty if all are."""
    lost = [name for name in LIBRARIES if find_spec(name) is None]
    return f"{' and '.join(lost)} not installed: published models need worldkv[wan]" if lost else ""


def dtype_of(name: Dtype) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def encoder_dtype(settings: WanSettings) -> torch.dtype:
    """Of the text and image encoders: float32 if all is, else bfloat16, as T5 leaves the range of float16."""
    return torch.float32 if settings.dtype == "float32" else torch.bfloat16


def devices(settings: WanSettings) -> tuple[torch.device, torch.device]:
    """What a model, and its encoders, run on. Raises InvalidConfig for one that is not there."""
    own = settings.device
    if own == AUTO:
        own = "cuda" if torch.cuda.is_available() else "cpu"
    return _device("device", own), _device("encoder_device", settings.encoder_device or own)


def room(device: torch.device) -> int:
    """Bytes of a device's memory, whatever of it is in use."""
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _device(name: str, text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise InvalidConfig(f"wan.{name} = {text!r}: torch has no such device here") from error
    return device
