"""Devices and dtypes of settings, as torch's."""

from __future__ import annotations

import torch

from services.generator.adapters.wan.settings import AUTO, Dtype, WanSettings
from worldkv.errors import InvalidConfig


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


def _device(name: str, text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise InvalidConfig(f"wan.{name} = {text!r}: torch has no such device here") from error
    return device
