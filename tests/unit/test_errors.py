"""The tree of errors: what the docstring draws is what there is, and each says what it means."""

import inspect

import pytest

from worldkv import errors
from worldkv.errors import ChunkCorrupt, InvalidInput, WorldKVError

ALL = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}


def drawn() -> dict[str, str]:
    """Name of every error in the docstring's drawing, and that of the one above it."""
    above: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        mark = max(line.find("├── "), line.find("└── "))
        if mark >= 0 or line.strip() == "WorldKVError":
            depth = 0 if mark < 0 else mark // 4
            name = line[mark + 4 :].split()[0]
            path = [*path[:depth], name]
            above[name] = path[depth - 1] if depth else "Exception"
    return above


def test_the_tree_in_the_docstring_is_the_tree():
    assert drawn() == {name: cls.__bases__[0].__name__ for name, cls in ALL.items()}


def test_every_error_says_what_it_means():
    for cls in ALL.values():
        assert cls.__doc__
        assert cls.__doc__.endswith(".")
        assert issubclass(cls, WorldKVError)


def test_invalid_input_is_a_value_error_too():
    with pytest.raises(ValueError, match="seven"):
        raise InvalidInput("seven is not a matrix")


def test_what_is_wrong_with_bytes_is_not_the_callers_input():
    assert not issubclass(ChunkCorrupt, InvalidInput)
