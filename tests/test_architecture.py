"""The shape of the code: who may import whom, how large files get, and what runs without torch or Ray."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "pocket", "services", "tests", "worldkv")

LAYERS = """
tests
benchmarks
worldkv.cli
worldkv.admin, worldkv.admin_fleet, worldkv.admin_model, worldkv.admin_retriever, worldkv.admin_walk, worldkv.walking
worldkv.admin_bench, worldkv.admin_config, worldkv.admin_health, worldkv.admin_plan, worldkv.admin_token
worldkv.admin_fleet_view, worldkv.admin_options, worldkv.admin_rows
services.cluster
services.kvstore | services.retriever | services.generator | services.gateway | pocket.train
pocket
worldkv.memory, worldkv.coding, worldkv.window
worldkv.client | worldkv.service
worldkv.wire, worldkv.wire_retriever, worldkv.wire_sessions
worldkv.shared, worldkv.worlds
worldkv.store, worldkv.store_wrappers, worldkv.catalog
worldkv.rpc | worldkv.format
worldkv.auth
worldkv.codec, worldkv.prune, worldkv.rope
worldkv.finder, worldkv.index, worldkv.motion, worldkv.prefetch
worldkv.v1 | worldkv.chunk | worldkv.select | worldkv.evict | worldkv.config
worldkv.views
worldkv.recorded
worldkv.actions | worldkv.plan
worldkv.pose
worldkv.errors, worldkv.heap, worldkv.tasks
worldkv, services
"""
"""Imports point down. Names on a line divided by | never import each other, names divided by commas may, without
cycles. A name stands for the modules below it too, unless one of them stands elsewhere."""

LIGHT = (
    "services.cluster.config",
    "services.cluster.fleet",
    "services.cluster.part",
    "services.cluster.rundir",
    "services.cluster.supervisor",
    "services.gateway",
    "services.kvstore",
    "services.retriever",
    "worldkv.actions",
    "worldkv.admin",
    "worldkv.admin_bench",
    "worldkv.admin_config",
    "worldkv.admin_fleet",
    "worldkv.admin_fleet_view",
    "worldkv.admin_health",
    "worldkv.admin_model",
    "worldkv.admin_options",
    "worldkv.admin_plan",
    "worldkv.admin_retriever",
    "worldkv.admin_rows",
    "worldkv.admin_token",
    "worldkv.admin_walk",
    "worldkv.auth",
    "worldkv.catalog",
    "worldkv.chunk",
    "worldkv.cli",
    "worldkv.client",
    "worldkv.config",
    "worldkv.errors",
    "worldkv.evict",
    "worldkv.finder",
    "worldkv.format",
    "worldkv.heap",
    "worldkv.index",
    "worldkv.motion",
    "worldkv.plan",
    "worldkv.pose",
    "worldkv.prefetch",
    "worldkv.rpc",
    "worldkv.select",
    "worldkv.service",
    "worldkv.shared",
    "worldkv.store",
    "worldkv.store_wrappers",
    "worldkv.tasks",
    "worldkv.v1",
    "worldkv.views",
    "worldkv.walking",
    "worldkv.wire",
    "worldkv.wire_retriever",
    "worldkv.wire_sessions",
    "worldkv.worlds",
)
"""What the storage services and the client are made of: imports with torch and Ray absent."""

OFF_THE_WIRE = ("pocket", "services.generator.session", "worldkv.memory", "worldkv.window")
"""What runs in one process, without gRPC or Ray."""

COMMANDS = ("worldkv.cli", "worldkv.admin_bench", "worldkv.admin_model")
"""Commands that run what stands above them, which they import when they do."""

MAX_LINES = 400
MAX_CATCH_ALLS = 4


@cache
def modules() -> dict[str, Path]:
    """Every hand-written or generated module of the project, and its file."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Modules of the project that a module imports, where it does so lazily too; the command line is let off that."""
    nodes = tree(module).body if module in COMMANDS else ast.walk(tree(module))
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} imports relative to its package"
            assert not node.level, f"{module} imports relative to its package"
            names = [name if (name := f"{node.module}.{each}") in modules() else node.module for each in names]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


PLACES = {
    name.strip(): (layer, group)
    for layer, line in enumerate(LAYERS.strip().splitlines())
    for group, names in enumerate(line.split("|"))
    for name in names.split(",")
}


def place(module: str) -> tuple[int, int]:
    """Layer, counted from the top, and group within it."""
    parts = module.split(".")
    above = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    if module != "worldkv" and module.startswith("worldkv."):
        above.remove("worldkv")  # a new module is placed on purpose
    found = next((PLACES[name] for name in above if name in PLACES), None)
    assert found, f"{module} has no place: say in LAYERS where it stands"
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module):
    layer, group = place(module)
    for target in imports(module):
        below, other = place(target)
        assert below > layer or (below, other) == (layer, group), f"{module} must not import {target}"


def test_imports_make_no_cycles():
    graph = {module: set(imports(module)) - {module} for module in modules() if not module.startswith("tests")}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in graph.get(module, ()):
                # A package imports its own modules and they never import it back, or this finds the cycle.
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def written() -> list[str]:
    """Modules written by hand."""
    return [module for module, path in modules().items() if "_pb2" not in path.name]


def test_files_stay_small():
    lines = {module: len(modules()[module].read_text(encoding="utf-8").splitlines()) for module in written()}
    assert {module: n for module, n in lines.items() if n > MAX_LINES} == {}


def test_handlers_that_catch_everything_are_few():
    found = [
        f"{module}:{node.lineno}"
        for module in written()
        if not module.startswith("tests")
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ExceptHandler) and _catches_all(node.type)
    ]
    assert len(found) <= MAX_CATCH_ALLS, found


def _catches_all(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(each is None or (isinstance(each, ast.Name) and each.id in EVERYTHING) for each in kinds)


EVERYTHING = ("BaseException", "Exception")

BLOCKED = """
import importlib, sys
blocked, wanted = sys.argv[1].split(","), sys.argv[2].split(",")
for name in blocked:
    sys.modules[name] = None
for name in wanted:
    importlib.import_module(name)
"""


def import_without(blocked: str, prefixes: tuple[str, ...]) -> None:
    """Import everything under these names in a process that has not got the blocked packages."""
    for prefix in prefixes:
        assert prefix in modules(), f"{prefix} is gone: take it off the list"
    wanted = [name for name in modules() if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)]
    command = [sys.executable, "-c", BLOCKED, blocked, ",".join(wanted)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_storage_needs_neither_torch_nor_ray():
    import_without("torch,ray", LIGHT)


@pytest.mark.slow
def test_walking_in_one_process_needs_neither_grpc_nor_ray():
    import_without("grpc,ray", OFF_THE_WIRE)


@pytest.mark.slow
def test_generators_need_nothing_of_the_real_models_until_they_load_one():
    import_without("diffusers,transformers,tokenizers", ("services.generator",))


def test_no_test_folder_shadows_a_package():
    folders = {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    assert folders.isdisjoint(PACKAGES)
