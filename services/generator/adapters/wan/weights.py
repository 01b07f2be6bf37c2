"""The published files of a transformer: which model they hold, and its weights.

A model is told by the names and shapes of its weights alone. Names of folders and files say nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from xxhash import xxh3_128

from services.generator.adapters.wan.model import WanModel
from services.generator.adapters.wan.variants import VARIANTS, Variant
from worldkv.errors import WeightsMismatch, WeightsMissing

WRAPPERS = frozenset(
    ["model", "module", "generator", "pipe", "dit", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"]
)
"""Parts of names that come from what a model was wrapped in when it was saved."""
PICKLED = (".pt", ".pth", ".bin")
"""How files of pickled tensors end; all others are safetensors."""
CHECKPOINTS = ("generator_ema", "generator")
"""Which of the models in a pickled training checkpoint is wanted, the best first."""
SHOWN = 3
"""Differences that an error names."""

Shape = tuple[int, ...]


class Stored(NamedTuple):
    """A tensor in a file, not yet read."""

    shape: Shape
    read: Callable[[], Tensor]


class Loaded(NamedTuple):
    """A model with its weights.

    digest  of names and values as they are stored, 32 hex digits: the same however they are spread over files
    """

    variant: Variant
    model: WanModel
    digest: str


def load(
    path: Path,
    variants: Iterable[Variant] = tuple(VARIANTS.values()),
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> Loaded:
    """The model of a file, or of all safetensors files of a folder; the first of `variants` that fits.

    dtype  of the weights in memory, whatever they are stored as

    Raises WeightsMissing if there is no file, WeightsMismatch if the weights are no model's among the variants.
    """
    stored = _stored(path)
    try:
        variant = recognise({name: each.shape for name, each in stored.items()}, variants)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{path}: {error}") from error
    with torch.device("meta"):
        model = WanModel(variant.backbone)
    digest, weights = xxh3_128(), {}
    for name in sorted(stored):
        tensor = stored[name].read().contiguous()
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise WeightsMismatch(f"{path}: {name} holds values that are not finite numbers")
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        weights[name] = tensor.to(device, dtype)
    model.load_state_dict(weights, assign=True)
    return Loaded(variant, model.eval().requires_grad_(False), digest.hexdigest())


def recognise(shapes: Mapping[str, Shape], variants: Iterable[Variant]) -> Variant:
    """The first variant that has exactly these weights. Raises WeightsMismatch, telling how the nearest differs."""
    nearest: tuple[int, str] | None = None
    for variant in variants:
        with torch.device("meta"):
            wanted = {name: tuple(each.shape) for name, each in WanModel(variant.backbone).state_dict().items()}
        wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
        if not wrong:
            return variant
        if nearest is None or len(wrong) < nearest[0]:
            first = ", ".join(f"{n}: {shapes.get(n)} where {wanted.get(n)} is expected" for n in wrong[:SHOWN])
            nearest = len(wrong), f"{variant.name} is nearest, {len(wrong)} weights differ; {first}"
    raise WeightsMismatch(f"these are no known model's weights: {nearest[1] if nearest else 'none is known'}")


def plain(name: str) -> str:
    """A weight's name without what it was wrapped in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _stored(path: Path) -> dict[str, Stored]:
    """All tensors at a path by their plain names."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise WeightsMissing(f"no weights at {path}: a file, or a folder of safetensors files, is expected")
    found: dict[str, Stored] = {}
    for file in files:
        for name, each in (_pickled(file) if file.suffix in PICKLED else _safetensors(file)).items():
            if plain(name) in found:
                raise WeightsMismatch(f"{file}: {plain(name)} is there twice")
            found[plain(name)] = each
    return found


def _safetensors(file: Path) -> dict[str, Stored]:
    try:
        opened: Any = safe_open(file, "pt")
        names = list(opened.keys())
        return {n: Stored(tuple(opened.get_slice(n).get_shape()), partial(opened.get_tensor, n)) for n in names}
    except SafetensorError as error:
        raise WeightsMismatch(f"{file} is not a whole safetensors file: {error}") from error


def _pickled(file: Path) -> dict[str, Stored]:
    """Tensors of a checkpoint, mapped into memory; nothing but tensors is unpickled."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsMismatch(f"{file} is not a whole checkpoint of tensors: {error}") from error
    held = next((held[name] for name in CHECKPOINTS if name in held), held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(each, Tensor) for each in held.values()):
        raise WeightsMismatch(f"{file} holds no table of tensors, nor one called {' or '.join(CHECKPOINTS)}")
    return {name: Stored(tuple(each.shape), each.clone) for name, each in held.items()}
