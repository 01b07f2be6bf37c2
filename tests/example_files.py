"""Files beside the services that list every setting with its default."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from worldkv.config import load


def complete(file: Path, kind: type[Any], named: Any = None) -> str:
    """The text of such a file; fails unless it gives settings of `kind` their defaults, and names each of `named`."""
    text = file.read_text()
    assert load(kind, "NONE_", file, {}) == kind()
    for name in _names(kind() if named is None else named):
        assert any(form in text for form in (f"{name} = ", f"[{name}]", f".{name}]", f"[{name}.")), name
    return text


def _names(config: Any) -> list[str]:
    found = []
    for each in fields(config):
        value = getattr(config, each.name)
        found += [each.name, *(_names(value) if is_dataclass(value) else [])]
    return found
