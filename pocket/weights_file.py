"""The pocket model's weights, and the codecs fitted to them, as files.

Weights are fp16 safetensors with the model's config in their metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pocket.model import PocketConfig, PocketModel
from worldkv.codec import Klt
from worldkv.errors import InvalidInput, WeightsMismatch, WeightsMissing
from worldkv.rope import Rope

SHIPPED = Path(__file__).parent / "weights" / "pocket.safetensors"
"""Where the shipped weights lie."""
CODECS = SHIPPED.with_name("codecs.safetensors")
"""Where the codecs fitted to them lie."""


def save(path: Path, model: PocketModel, about: Mapping[str, str]) -> None:
    """Write a model's weights as fp16; the file appears whole, by rename.

    about  what else stands in the metadata: steps, time, seed
    """
    halves = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(halves, temporary, metadata={**about, "config": json.dumps(asdict(model.config))})
    temporary.rename(path)


def load(path: Path = SHIPPED) -> tuple[PocketModel, str]:
    """The float32 model of a file, and the file's digest (32 hex digits).

    Raises WeightsMissing if there is no file and WeightsMismatch if it does not hold a pocket model's weights.
    """
    if not path.is_file():
        raise WeightsMissing(f"no weights at {path}: train them with `python -m pocket.train`")
    config, tensors = _read(path)
    model = PocketModel(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        first = ", ".join(f"{name}: {found.get(name)} where {wanted.get(name)} is expected" for name in wrong[:3])
        raise WeightsMismatch(f"{path} has {len(wrong)} wrong tensors; {first}")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise WeightsMismatch(f"{path}: {name} holds values that are not finite")
    model.load_state_dict(tensors)
    return model, hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _read(path: Path) -> tuple[PocketConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsMismatch(f"{path} is not a whole safetensors file: {error}") from error
    try:
        fields = json.loads(about["config"])
        fields["rope"] = Rope(**fields["rope"])
        fields["ray_centre"] = tuple(fields["ray_centre"])
        return PocketConfig(**fields), tensors
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsMismatch(f"the metadata of {path} hold no pocket config: {error!r}") from error


def save_codecs(path: Path, pairs: Mapping[str, tuple[Klt, Klt]]) -> None:
    """Write codecs of keys and of values, by name; the file appears whole, by rename."""
    tables = {
        f"{name}/{kind}/{table}": tensor.contiguous()
        for name, pair in pairs.items()
        for kind, codec in zip("kv", pair, strict=True)
        for table, tensor in codec.tensors().items()
    }
    temporary = path.with_suffix(".tmp")
    save_file(tables, temporary)
    temporary.rename(path)


def load_codecs(path: Path = CODECS) -> dict[str, tuple[Klt, Klt]]:
    """Codecs of keys and of values, by name; none where there is no file. Raises WeightsMismatch for any other file."""
    if not path.is_file():
        return {}
    tables: dict[str, dict[str, dict[str, Tensor]]] = {}
    try:
        for full_name, tensor in load_file(path).items():
            name, kind, table = full_name.split("/")
            tables.setdefault(name, {}).setdefault(kind, {})[table] = tensor
        return {name: (Klt.from_tensors(pair["k"]), Klt.from_tensors(pair["v"])) for name, pair in tables.items()}
    except (SafetensorError, InvalidInput, KeyError, ValueError) as error:
        raise WeightsMismatch(f"{path} does not hold fitted codecs: {error!r}") from error
