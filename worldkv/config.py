"""Configuration: a TOML file and the environment, read into frozen dataclasses.

Every part of the project keeps its settings in a frozen dataclass beside it; `load` fills one. Only process entry
points call it: nothing else reads files or the environment. The environment wins over the file, the file over the
defaults. A key that no field has, or a value of another type, stops the process with InvalidConfig.

    [tls]                          WORLDKV_KVSTORE_TLS__KEY=/run/key.pem
    key = "/run/key.pem"           WORLDKV_KVSTORE_RAM_BYTES=17_179_869_184

Fields may be bool, int, float, str, Path, Literal, `X | None`, `tuple[X, ...]` and dataclasses of these. In the
environment a tuple is written with commas, and an empty value is None where None is allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from worldkv.errors import InvalidConfig

C = TypeVar("C")

SECRET = ("password", "secret", "token", "url")
"""What names of settings contain whose values are not to be shown."""
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def load(kind: type[C], prefix: str, file: Path | None, environment: Mapping[str, str]) -> C:
    """The settings of dataclass `kind`.

    prefix       begin of the names of its variables, for example `WORLDKV_KVSTORE_`
    file         TOML; None for none
    environment  usually `os.environ`

    Raises InvalidConfig naming the key, its value and what was expected.
    """
    values = _read(file) if file else {}
    for name, text in environment.items():
        if name.startswith(prefix):
            _set(values, name.removeprefix(prefix).lower().split("__"), _Text(name, text))
    return cast(C, _build(kind, values, ""))


def table(settings: Any) -> dict[str, Any]:
    """The settings as a table that `of_table` reads: texts, numbers, lists and tables of these; None is left out."""
    values = {each.name: getattr(settings, each.name) for each in fields(settings) if each.init}
    return {name: _written(value) for name, value in values.items() if value is not None}


def of_table(kind: type[C], values: Mapping[str, Any]) -> C:
    """The settings of dataclass `kind` from a table. Raises InvalidConfig as `load` does."""
    return cast(C, _build(kind, values, ""))


def _written(value: Any) -> Any:
    if is_dataclass(value):
        return table(value)
    if isinstance(value, tuple):
        return [_written(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def origins(prefix: str, file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Where settings that are not left at their defaults are set, as `load` reads them: the file or the variable, by
    the setting's name with dots. Raises InvalidConfig for a file that cannot be read."""
    found = dict.fromkeys(_leaves(_read(file) if file else {}), str(file))
    names = [name for name in environment if name.startswith(prefix)]
    return found | {name.removeprefix(prefix).lower().replace("__", "."): name for name in names}


def leaves(settings: Any, where: str = "") -> dict[str, Any]:
    """Every setting by its name with dots; a table that is not there is None."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value, name = getattr(settings, each.name), where + each.name
        found |= leaves(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def secret(name: str) -> bool:
    """Whether a setting of this name may hold a secret."""
    return any(word in name.lower() for word in SECRET)


def _leaves(values: Mapping[str, Any], where: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _leaves(value, f"{where}{key}.") if isinstance(value, dict) else [where + key]
    return found


class _Text(str):
    """A value from the environment: has no type of its own yet, and remembers its variable."""

    variable: str

    def __new__(cls, variable: str, text: str) -> _Text:
        self = super().__new__(cls, text)
        self.variable = variable
        return self


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"configuration file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InvalidConfig(f"configuration file {file} is not TOML: {error}") from error


def _set(values: dict[str, Any], path: list[str], text: _Text) -> None:
    """Put a variable where its name says, over what the file said."""
    *tables, key = path
    for table in tables:
        below = values.setdefault(table, {})
        if not isinstance(below, dict):
            raise InvalidConfig(
                f"{text.variable} looks for a table {table!r}, but that is set to {_shown(table, repr(below))}"
            )
        values = below
    values[key] = text


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """The dataclass `kind` from a table of values; `where` is the table's name with a dot, or empty."""
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.init}
    for key, value in values.items():
        if key not in known:
            name = value.variable if isinstance(value, _Text) else where + key
            shown = _shown(name, repr(value))
            raise InvalidConfig(f"unknown setting {name} = {shown}; known here: {', '.join(sorted(known))}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidConfig(f"setting {where}{name} is missing: expected {_words(hints[name])}")
    return kind(**{key: _value(hints[key], value, where + key) for key, value in values.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type `hint` asks for."""
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _build(hint, value, f"{key}.")
        raise _malformed(hint, value, key)
    if get_origin(hint) in (Union, UnionType):
        return _optional(hint, value, key)
    if get_origin(hint) is tuple:
        items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, _Text) else value
        if not isinstance(items, list):
            raise _malformed(hint, value, key)
        texts = [_Text(value.variable, item) for item in items] if isinstance(value, _Text) else items
        return tuple(_value(get_args(hint)[0], item, key) for item in texts)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return str(value) if isinstance(value, _Text) else value
        raise _malformed(hint, value, key)
    return _plain(hint, value, key)


def _optional(hint: Any, value: Any, key: str) -> Any:
    (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
    return None if isinstance(value, _Text) and not value else _value(inner, value, key)


def _plain(hint: Any, value: Any, key: str) -> Any:
    """A bool, number, text or path; text from the environment is parsed, other values must have the type already."""
    try:
        if isinstance(value, _Text):
            return _TRUTH[value.lower()] if hint is bool else hint(str(value))
        if hint is Path and isinstance(value, str):
            return Path(value)
        if hint is float and type(value) is int:
            return float(value)
    except (KeyError, ValueError) as error:
        raise _malformed(hint, value, key) from error
    if type(value) is not hint:
        raise _malformed(hint, value, key)
    return value


def _malformed(hint: Any, value: Any, key: str) -> InvalidConfig:
    name = value.variable if isinstance(value, _Text) else key
    return InvalidConfig(f"setting {name} = {_shown(name, repr(str(value)))}: expected {_words(hint)}")


def _shown(name: str, text: str) -> str:
    """A value in an error's words: not if its setting may be a secret."""
    return "..." if secret(name) else text


def _words(hint: Any) -> str:
    """A type, for people."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {_words(get_args(hint)[0])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("nothing" if arg is NoneType else _words(arg) for arg in get_args(hint))
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint, f"a table of {getattr(hint, '__name__', hint)}")
