import importlib
import json

import pytest

from benchmarks.registry import Bench, Case, bench, catalogue, find
from worldkv.errors import InvalidInput, NotFound

HEAD = "from benchmarks.registry import Case, bench\n"


def test_the_list_is_what_the_modules_hold():
    known = catalogue()
    assert {"rope.bf16", "rope.f32"} <= known.keys()
    assert all(each.about and each.module.startswith("benchmarks.") for each in known.values())


@pytest.mark.parametrize("id", ["rope.bf16", "rope.f32"])
def test_placing_keys_meets_its_bars(id):
    (each,) = find(id)
    cases = list(each.run())
    assert len(cases) >= 5
    assert all(each.met(case.value) for case in cases)


def test_unknown_ids_are_refused_with_those_alike():
    with pytest.raises(NotFound, match=r"'rope\.f31'; there are rope\.f32"):
        find("rope.f31")


def test_benchmarks_are_found_without_importing_them(tmp_path):
    text = HEAD + '@bench("a.b", bar="", about="x")\ndef a(): return []\nraise SystemExit'
    (tmp_path / "one.py").write_text(text)
    assert catalogue(tmp_path) == {"a.b": Bench("a.b", "", "x", f"{tmp_path.name}.one", "a")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('@bench("a", bar=BAR, about="x")\ndef a(): ...', "must be literals"),
        ('@bench("a", about="x")\ndef a(): ...', "must be literals"),
        ('@bench("a", bar="", about="x")\ndef a(): ...\n' * 2, "two benchmarks are called a"),
    ],
)
def test_marks_that_cannot_be_listed_are_refused(tmp_path, text, words):
    (tmp_path / "one.py").write_text(HEAD + text)
    with pytest.raises(InvalidInput, match=words):
        catalogue(tmp_path)


@pytest.mark.parametrize(("bar", "met"), [("<= 2", True), (">= 2", True), ("< 2", False), ("== 2", True), ("", True)])
def test_bars_say_what_is_enough(bar, met):
    assert Bench("a", bar, "x", "m", "f").met(2.0) is met


@pytest.mark.parametrize("bar", ["2", "=> 2", "<= two", "<=2"])
def test_bars_that_cannot_be_read_are_refused(bar):
    with pytest.raises(InvalidInput, match="expected one of"):
        bench("a", bar=bar, about="x")


def test_cases_hold_finite_numbers_that_json_can_carry():
    numpy = importlib.import_module("numpy")
    case = Case("a", numpy.float32(1), "s", numpy.float64(2), numpy.ones(2))
    assert json.dumps([case.value, case.baseline, case.runs]) == "[1.0, 2.0, [1.0, 1.0]]"
    with pytest.raises(InvalidInput, match="not finite"):
        Case("a", float("nan"), "s")


def test_the_begin_of_several_names_finds_them_all():
    found = {each.id for each in find("soak")}
    assert {"soak.broken", "soak.leak"} <= found
    assert all(id.startswith("soak.") for id in found)
    with pytest.raises(NotFound):
        find("soa")
