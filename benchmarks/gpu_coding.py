"""What it takes to bring chunks of real size from a GPU and back: coded, decoded and placed there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.registry import Case, Skipped, bench
from services.generator.adapters.wan.variants import LINGBOT_CAM, MATRIX_UNIVERSAL, Variant
from worldkv.chunk import ModelSpec
from worldkv.coding import KV, Coding, decode_kv, encode_kv
from worldkv.memory import Device
from worldkv.prune import Pruning
from worldkv.rope import Rope, place_into

MODELS = (MATRIX_UNIVERSAL, LINGBOT_CAM)
KEEPS = (1.0, 0.25)
WARM, RUNS = 2, 7
LATER = 9
"""Latent frames by which keys are moved in time."""


@bench("gpu.code", bar="", about="coding a chunk on a GPU, bytes on the host, over a pinned copy of these")
def code() -> Iterator[Case]:
    yield from coded(device(), MODELS)


@bench("gpu.decode", bar="", about="bytes of a chunk to a GPU and decoded there, over a pinned copy of these")
def decode() -> Iterator[Case]:
    yield from decoded(device(), MODELS)


@bench("gpu.place", bar="", about="keys at hand on a GPU written anew at another time, over a copy there")
def place() -> Iterator[Case]:
    yield from placed(device(), MODELS)


def device() -> torch.device:
    """Raises Skipped where there is none."""
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device is at hand")
    return torch.device("cuda")


def coded(device: torch.device, models: tuple[Variant, ...]) -> Iterator[Case]:
    """See `code`."""
    for model, keep in ((model, keep) for model in models for keep in KEEPS):
        spec, coding = spec_of(model), int4(keep)
        kv = chunk(spec, device)
        size = sum(each.data.nbytes for each in encode_kv(kv, coding, spec).segments)
        there, here = pair(size, device)
        yield compared(
            f"{model.name}, int4, keep {keep:g}",
            device,
            partial(encode_kv, kv, coding, spec),
            partial(here.copy_, there),
        )


def decoded(device: torch.device, models: tuple[Variant, ...]) -> Iterator[Case]:
    """See `decode`."""
    for model, keep in ((model, keep) for model in models for keep in KEEPS):
        spec, coding = spec_of(model), int4(keep)
        part = encode_kv(chunk(spec, device), coding, spec)
        there, here = pair(sum(each.data.nbytes for each in part.segments), device)
        yield compared(
            f"{model.name}, int4, keep {keep:g}",
            device,
            partial(decode_kv, part, spec, device=device),
            partial(there.copy_, here),
        )


def placed(device: torch.device, models: tuple[Variant, ...]) -> Iterator[Case]:
    """See `place`."""
    for model in models:
        spec = spec_of(model)
        keys, rope = chunk(spec, device).keys, Rope(*spec.rope, theta=spec.theta)
        target = torch.empty_like(keys)
        yield compared(
            model.name,
            device,
            partial(place_into, target, keys, rope, LATER),
            partial(target.copy_, keys),
        )


def compared(case: str, device: torch.device, ours: Callable[[], object], bare: Callable[[], object]) -> Case:
    """How many times as long one takes as the other, in turns, beside the model's stream as a memory works."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what is copied was made by the model's stream
    beside = Device(device)
    times: tuple[list[float], list[float]] = [], []
    for run in range(WARM + RUNS):
        for call, spent in zip((ours, bare), times, strict=True):
            began = perf_counter()
            with beside.beside():
                call()
            if run >= WARM:
                spent.append(perf_counter() - began)
    baseline = statistics.median(times[1])
    return Case(case, statistics.median(times[0]) / baseline, "ratio", baseline, [each / baseline for each in times[0]])


def spec_of(model: Variant) -> ModelSpec:
    return model.spec("", "", model.grid, "bfloat16")


def int4(keep: float) -> Coding:
    return Coding("int4", "int4", Pruning(keep), raw_first=False)


def chunk(spec: ModelSpec, device: torch.device) -> KV:
    """Of random numbers."""
    shape = (spec.layers, spec.frames * spec.frame_tokens, spec.heads, spec.head_dim)
    return KV(*(torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2)))


def pair(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """So many bytes on the device, and pinned on the host."""
    there = torch.zeros(size, dtype=torch.uint8, device=device)
    return there, torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
