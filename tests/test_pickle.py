"""Nothing that travels or is kept is unpickled: whoever can write such bytes could run programs here."""

import ast
from collections.abc import Iterator

import pytest

from tests.test_architecture import tree, written

UNPICKLERS = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "pickletools", "shelve"}
"""Modules that make objects of bytes, by running what the bytes say."""
ALLOWED = {"services.generator.adapters.wan.files": {"UnpicklingError"}}
"""What a module may use of them: an error that it catches, of weights which are read as tensors alone."""


def unsafe(source: ast.Module, module: str) -> Iterator[str]:
    """What in a module may unpickle, in words."""
    allowed = ALLOWED.get(module, set())
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            names = [each.name.partition(".")[0] for each in node.names]
            yield from (f"{node.lineno}: imports {name}" for name in names if name in UNPICKLERS and not allowed)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLERS:
            yield f"{node.lineno}: imports from {node.module}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNPICKLERS:
            if node.attr not in allowed:
                yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    said = {each.arg: each.value for each in node.keywords}
    name = ast.unparse(node.func)
    loads = name.endswith(("torch.load", "torch.hub.load", "torch.jit.load"))
    if loads and not _is(said.get("weights_only"), True):
        yield f"{node.lineno}: {name} without weights_only=True"
    if "allow_pickle" in said and not _is(said["allow_pickle"], False):
        yield f"{node.lineno}: {name} with allow_pickle"
    if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
        yield f"{node.lineno}: {name}"


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


@pytest.mark.parametrize("module", [each for each in written() if not each.startswith("tests.")])
def test_nothing_is_unpickled(module):
    assert list(unsafe(tree(module), module)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import dill as other",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=wanted)",
        "pickle.loads(data)",
        "exec(text)",
    ],
)
def test_what_unpickles_is_found(line):
    assert list(unsafe(ast.parse(line), "services.new"))


@pytest.mark.parametrize("line", ["torch.load(file, weights_only=True)", "np.load(file)", "json.loads(data)"])
def test_what_does_not_is_not(line):
    assert not list(unsafe(ast.parse(line), "services.new"))
