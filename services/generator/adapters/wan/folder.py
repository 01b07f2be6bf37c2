"""What lies in a folder of a published model, told from the headers of its files alone."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

from services.generator.adapters.wan.files import INDEX, PICKLED, Shape, plain, shapes, stored
from worldkv.errors import WeightsError, WeightsMissing

Kind = Literal["transformer", "vae", "text", "image", "tokenizer", "unknown"]
DEPTH = 3
"""Folders below the one that is named in which files are looked for."""
TOKENIZER = "tokenizer.json"
"""The file that makes a folder one of a tokenizer."""
CONVERTED = ("condition_embedder.", "encoder.block.", "vision_model.")
"""How names of transformers and encoders begin that were converted for Diffusers or Transformers."""
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Part:
    """A part of a model: one file, or a folder of shards or of a tokenizer's files.

    path        of it
    files       that it is read from
    kind        unknown for weights of something else, or that cannot be read
    disk_bytes  of its files
    shapes      of its weights by their names in the file
    trouble     why it cannot be read, empty if it can
    """

    path: Path
    files: tuple[Path, ...]
    kind: Kind
    disk_bytes: int
    shapes: Mapping[str, Shape] = field(default_factory=dict, repr=False)
    trouble: str = ""

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.shapes.values()))


def look(places: Sequence[Path]) -> list[Part]:
    """The parts in some folders, or files: those of an earlier place first, and of one place those less deep.

    A place may lie in another one: what is in both is there once.

    Raises WeightsMissing for a place that is not there. A file that cannot be read is a part with its trouble.
    """
    lost = [str(place) for place in places if not place.exists()]
    if lost:
        raise WeightsMissing(f"no weights at {', '.join(lost)}: a file, or a folder of a published model, is expected")
    found: dict[tuple[Path, Kind], Part] = {}
    for part in (part for place in places for part in _parts(place)):
        found.setdefault((part.path.parent.resolve() / part.path.name, part.kind), part)
    return [*found.values()]


def of_kind(parts: Sequence[Part], kind: Kind) -> list[Part]:
    return [part for part in parts if part.kind == kind]


def alike(one: Part, other: Part) -> bool:
    """Whether two parts are the same, byte by byte; they are read only where their files have the same sizes."""
    pairs = [*zip(one.files, other.files, strict=False)]
    if len(one.files) != len(other.files) or any(a.stat().st_size != b.stat().st_size for a, b in pairs):
        return False
    return all(filecmp.cmp(a, b, shallow=False) for a, b in pairs)


def troubles(parts: Sequence[Part]) -> str:
    """What could not be read, in words that end a sentence; empty if all could."""
    return "".join(f"; {part.trouble}" for part in parts if part.trouble)


def _parts(place: Path) -> Iterator[Part]:
    if place.is_file():
        yield _weights(place, [place])
        return
    for folder, files in _folders(place):
        tensors = [each for each in files if each.suffix == ".safetensors"]
        if len(tensors) > 1 or any(folder.glob(INDEX)):
            yield _weights(folder, tensors)
        else:
            yield from (_weights(each, [each]) for each in tensors)
        yield from (_weights(each, [each]) for each in files if each.suffix in PICKLED)
        if folder / TOKENIZER in files and _reads_words(folder):
            yield Part(folder, (folder / TOKENIZER,), "tokenizer", sum(each.stat().st_size for each in files))


def _folders(place: Path) -> list[tuple[Path, list[Path]]]:
    """A folder and those below it with their files, the less deep ones first; hidden ones are passed over."""
    found = []
    for name, below, files in os.walk(place, followlinks=True):
        folder = Path(name)
        deep = len(folder.parts) - len(place.parts)
        below[:] = [each for each in below if deep < DEPTH and each[0] != "."]
        found.append((deep, folder, sorted(folder / each for each in files if (folder / each).is_file())))
    return [(folder, files) for _, folder, files in sorted(found)]


def _weights(path: Path, files: Sequence[Path]) -> Part:
    size = sum(each.stat().st_size for each in files)
    try:
        found = shapes(stored(path))
    except WeightsError as error:
        return Part(path, (*files,), "unknown", size, trouble=str(error))
    kind = kind_of(found)
    return Part(path, (*files,), kind, size, found, _unlike(path, found) if kind == "unknown" else "")


def kind_of(names: Collection[str]) -> Kind:
    """What weights of these names are part of."""
    known = {plain(name) for name in names}
    if {"patch_embedding.weight", "head.modulation"} <= known:
        return "transformer"
    if {"token_embedding.weight", "blocks.0.attn.q.weight"} <= known:
        return "text"
    if "visual.patch_embedding.weight" in known:
        return "image"
    if {"decoder.conv1.weight", "conv2.weight"} <= known or "decoder.conv_in.weight" in known:
        return "vae"
    return "unknown"


def _unlike(path: Path, names: Collection[str]) -> str:
    """What is wrong with weights that are part of no model here, if they could be."""
    if any(name.startswith(CONVERTED) for name in map(plain, names)):
        return f"{path} has the names of a conversion, where those of the published file are expected"
    return ""


def _reads_words(folder: Path) -> bool:
    """Whether a folder's tokenizer is T5's, as far as it says; one of CLIP's comes along with some models."""
    try:
        table = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
        return "T5" in str(table.get("tokenizer_class", "T5"))
    except (OSError, ValueError, AttributeError):
        return True  # whoever loads it will tell
