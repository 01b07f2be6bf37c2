"""Which benchmarks there are, and how to run one without importing the others.

A benchmark is a public function without arguments that yields or returns cases:

    @bench("rope.bf16", bar="<= 3e-3", about="placed keys against rotating from scratch, relative error")
    def bf16() -> Iterator[Case]:
        yield Case("start 1000", value, "ratio", baseline, runs)

The list of benchmarks is read from the source, not by importing it, so the arguments of `bench` must be literals.
"""

from __future__ import annotations

import ast
import importlib
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeVar

from worldkv.errors import InvalidInput, NotFound

FOLDER = Path(__file__).parent
BAR = re.compile(r"(<=|>=|<|>|==) (\S+)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Case:
    """One measured figure.

    case      what was varied
    value     the figure that the bar is about
    unit      of value and runs
    baseline  the figure it is compared with, None where the bar stands alone
    runs      the single measurements behind the value, none where there was only one

    Raises InvalidInput for a value that is not finite.
    """

    case: str
    value: float
    unit: str
    baseline: float | None = None
    runs: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "runs", tuple(float(run) for run in self.runs))
        if self.baseline is not None:
            object.__setattr__(self, "baseline", float(self.baseline))
        if not all(math.isfinite(x) for x in (self.value, self.baseline or 0.0, *self.runs)):
            raise InvalidInput(f"case {self.case!r} has figures that are not finite: {self}")


class Skipped(Exception):
    """What a benchmark raises where it cannot be measured; the words say what is not at hand."""


class Bench(NamedTuple):
    """A benchmark that can be run.

    bar  what every case's value must meet, for example `<= 3e-3`; empty for figures that are only recorded
    """

    id: str
    bar: str
    about: str
    module: str
    function: str

    def met(self, value: float) -> bool:
        """Whether a value meets the bar; anything meets none."""
        if not self.bar:
            return True
        comparison, bound = _parse(self.bar)
        return comparison(value, bound)

    def run(self) -> Iterator[Case]:
        """Its cases, as they are measured; imports its module and no other benchmark. May raise Skipped."""
        yield from getattr(importlib.import_module(self.module), self.function)()


F = TypeVar("F", bound=Callable[[], Iterable[Case]])


def bench(id: str, *, bar: str, about: str) -> Callable[[F], F]:
    """Mark a function as the benchmark `id`. Raises InvalidInput for a bar that cannot be read."""
    if bar:
        _parse(bar)
    assert id, "a benchmark has an id"
    assert about, "a benchmark says what it is about"
    return lambda function: function


def catalogue(folder: Path = FOLDER) -> dict[str, Bench]:
    """All benchmarks by id, read from the source of the modules in `folder` and below.

    Raises InvalidInput for one whose arguments are not literals, or for an id that is used twice.
    """
    found: dict[str, Bench] = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        for node in functions:
            for mark in _marks(node):
                each = _entry(mark, module, node.name)
                if each.id in found:
                    raise InvalidInput(f"two benchmarks are called {each.id}: {found[each.id].module}, {each.module}")
                found[each.id] = each
    return dict(sorted(found.items()))


def find(id: str) -> list[Bench]:
    """The benchmark `id`; if there is none, all that begin so: `soak` for `soak.broken` and what goes with it.

    Raises NotFound, naming those with a like name.
    """
    known = catalogue()
    if id in known:
        return [known[id]]
    if found := [each for name, each in known.items() if name.startswith(f"{id}.")]:
        return found
    like = get_close_matches(id, known, 3) or list(known)
    raise NotFound(f"no benchmark {id!r}; there are {', '.join(like)}" + (" ..." if len(like) < len(known) else ""))


def _parse(bar: str) -> tuple[Callable[[float, float], bool], float]:
    match = BAR.fullmatch(bar)
    try:
        if match:
            return _COMPARE[match[1]], float(match[2])
    except ValueError:
        pass
    raise InvalidInput(f"bar {bar!r}: expected one of <= >= < > ==, a space and a number")


def _marks(node: ast.FunctionDef) -> list[ast.Call]:
    """The `bench(...)` decorators of a function."""
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "bench"]


def _entry(mark: ast.Call, module: str, function: str) -> Bench:
    where = f"{module}, line {mark.lineno}"
    try:
        (id,) = map(ast.literal_eval, mark.args)
        given = {each.arg: ast.literal_eval(each.value) for each in mark.keywords}
        return Bench(id, given.pop("bar"), given.pop("about"), module, function)
    except (ValueError, KeyError) as error:
        raise InvalidInput(f"{where}: the arguments of bench must be literals: id, bar=..., about=...") from error
