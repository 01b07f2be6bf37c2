"""Files of weights as they are published: safetensors, whole or in shards, and pickled tables of tensors.

What lies in a file is told from its header; a tensor is read when it is asked for.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from xxhash import xxh3_128

from worldkv.errors import WeightsMismatch, WeightsMissing

PICKLED = (".pt", ".pth", ".bin")
"""How files of pickled tensors end."""
INDEX = "*.safetensors.index.json"
CHECKPOINTS = ("generator_ema", "generator")
"""Which of the models in a pickled training checkpoint is wanted, the best first."""
WRAPPERS = frozenset(
    ["model", "module", "generator", "pipe", "dit", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"]
)
"""Parts of names that come from what a model was wrapped in when it was saved."""
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What torch raises of a pickle that is cut off, changed, or carries code."""
FOREIGN = re.compile(r"Unsupported (?:global|operand|class): (?:GLOBAL )?(\S+)")
"""What torch says of something in a pickle that is no tensor."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored as."""
SHOWN = 3
"""Differences that an error names."""

Shape = tuple[int, ...]
Module = TypeVar("Module", bound=nn.Module)


class Stored(NamedTuple):
    """A tensor in a file, not yet read."""

    shape: Shape
    read: Callable[[], Tensor]


def stored(path: Path) -> dict[str, Stored]:
    """All tensors of a file, or of the safetensors files of a folder, by their names.

    Nothing but tensors is ever unpickled.

    Raises WeightsMissing if there is no file, or not all that the folder's index names, WeightsMismatch for files that
    are not whole, or no tables of tensors.
    """
    found: dict[str, Stored] = {}
    for file in _files(path):
        for name, each in (_pickled(file) if file.suffix in PICKLED else _safetensors(file)).items():
            if name in found:
                raise WeightsMismatch(f"{file}: {name} is there twice")
            found[name] = each
    return found


def unwrapped(tensors: Mapping[str, Stored], path: Path) -> dict[str, Stored]:
    """The same by their `plain` names. Raises WeightsMismatch for two that have the same; `path` is for its words."""
    found: dict[str, Stored] = {}
    for name, each in tensors.items():
        if plain(name) in found:
            raise WeightsMismatch(f"{path}: {plain(name)} is there twice")
        found[plain(name)] = each
    return found


def plain(name: str) -> str:
    """A weight's name without what it was wrapped in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def shapes(tensors: Mapping[str, Stored]) -> dict[str, Shape]:
    return {name: each.shape for name, each in tensors.items()}


def differences(wanted: Mapping[str, Shape], got: Mapping[str, Shape]) -> list[str]:
    """Names whose shapes differ, or that only one of the two has."""
    return sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))


def told(names: list[str], wanted: Mapping[str, Shape], got: Mapping[str, Shape]) -> str:
    """The first of the differences, in words."""
    first = ", ".join(f"{name}: {got.get(name)} where {wanted.get(name)} is expected" for name in names[:SHOWN])
    return f"{len(names)} weights differ; {first}"


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Whatever weights are refused for in here names the file that they are in."""
    try:
        yield
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{path}: {error}") from error


def finite(tensor: Tensor) -> bool:
    """Whether all its numbers are; nothing of its size is made to see that."""
    return not tensor.numel() or all(bool(each.isfinite()) for each in tensor.aminmax())  # which pass on what is none


def fill(
    module: nn.Module, tensors: Mapping[str, Stored], path: Path, dtype: torch.dtype, device: torch.device | str
) -> str:
    """Give a module that was made on the meta device its weights, by the module's own names.

    They are read one at a time, each brought to dtype and device before the next: beside the module's own memory
    there is one tensor. Answers a digest of names and values as they are stored, 32 hex digits: the same however they
    are spread over files.

    Raises WeightsMismatch for other names, shapes or kinds of values than the module's; `path` is for its words.
    """
    wanted = {name: tuple(each.shape) for name, each in module.state_dict().items()}
    if wrong := differences(wanted, shapes(tensors)):
        raise WeightsMismatch(f"{path}: {told(wrong, wanted, shapes(tensors))}")
    digest, weights = xxh3_128(), {}
    for name in sorted(tensors):
        weights[name] = _placed(name, tensors[name], path, digest, dtype, device)
    module.load_state_dict(weights, assign=True)
    return digest.hexdigest()


def made(
    make: Callable[[], Module],
    tensors: Mapping[str, Stored],
    path: Path,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Module, str]:
    """A module with weights that it never had others than, and their digest; see `fill`."""
    with torch.device("meta"):
        module = make()
    return module, fill(module, tensors, path, dtype, device)


def _placed(
    name: str, each: Stored, path: Path, digest: xxh3_128, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    tensor = each.read().contiguous()
    if tensor.dtype not in FLOATS:
        wanted = ", ".join(str(each).removeprefix("torch.") for each in FLOATS)
        raise WeightsMismatch(f"{path}: {name} holds {tensor.dtype} values, expected numbers of {wanted}")
    digest.update(f"{name} {tensor.dtype}".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    placed = tensor.to(device, dtype)
    if not finite(placed):
        raise WeightsMismatch(f"{path}: {name} holds {tensor.dtype} values that are not finite as {dtype}")
    return placed


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = _indexed(path) or sorted(path.glob("*.safetensors"))
    if not found:
        raise WeightsMissing(f"no weights at {path}: a file, or a folder of safetensors files, is expected")
    return found


def _indexed(folder: Path) -> list[Path]:
    """The shards that a folder's index names; none where it has no index."""
    named: set[Path] = set()
    for index in folder.glob(INDEX):
        try:
            where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            named |= {folder / name for name in where.values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsMismatch(f"{index} is no index of shards: {error!r}") from error
    lost = sorted(each.name for each in named if not each.is_file())
    if lost:
        raise WeightsMissing(
            f"{folder} has not all that its index names: {', '.join(lost[:SHOWN])}, {len(lost)} in all"
        )
    return sorted(named)


def _safetensors(file: Path) -> dict[str, Stored]:
    try:
        opened: Any = safe_open(file, "pt")
        names = list(opened.keys())
        return {n: Stored(tuple(opened.get_slice(n).get_shape()), partial(opened.get_tensor, n)) for n in names}
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"{file} is not a whole safetensors file: {error}") from error


def _pickled(file: Path) -> dict[str, Stored]:
    """Tensors of a checkpoint, mapped into memory."""
    if not is_zipfile(file):
        raise WeightsMismatch(
            f"{file} is not a whole checkpoint of tensors: it is cut off, or as torch saved before 1.6"
        )
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except DAMAGED as error:
        raise WeightsMismatch(f"{file} is not a whole checkpoint of tensors: {_why(error)}") from error
    held = next((held[name] for name in CHECKPOINTS if name in held), held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(n, str) and isinstance(x, Tensor) for n, x in held.items()):
        raise WeightsMismatch(f"{file} holds no table of tensors, nor one called {' or '.join(CHECKPOINTS)}")
    return {name: Stored(tuple(each.shape), each.detach().clone) for name, each in held.items()}


def _why(error: Exception) -> str:
    """What is wrong with a pickle, in a line; torch's own words go on to say how to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        foreign = FOREIGN.search(str(error))
        return f"it carries {foreign[1]}, which might run code" if foreign else "it is no pickle of tensors"
    return str(error).partition("\n")[0]
