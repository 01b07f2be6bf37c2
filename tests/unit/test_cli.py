import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.registry import Bench, Case, Skipped
from worldkv import cli, errors

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "grpc", "ray", "numpy", "scipy", "prometheus_client", "structlog")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from worldkv.cli import main; main()", *words]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom worldkv.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "bench" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_list_imports_no_benchmark():
    code = "import sys\nfrom benchmarks.registry import catalogue\ncatalogue()\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_benchmark_prints_a_json_line_per_case():
    done = command("bench", "rope.f32", "--json")
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert all(list(case) == ["id", "case", "value", "unit", "baseline", "runs"] for case in cases)
    assert {case["id"] for case in cases} == {"rope.f32"}


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Exit code and what was printed, in this process."""
    monkeypatch.setattr(sys, "argv", ["worldkv", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return (int(ended.value.code or 0), *capsys.readouterr())


def test_two_studies_are_not_made_at_once(monkeypatch, capsys):
    code, _, complaint = run(monkeypatch, capsys, "eval", "--matrix", "--selectors")
    assert code == cli.BAD_INPUT
    assert "one at a time" in complaint


def test_the_table_says_whether_the_bar_is_met(monkeypatch, capsys):
    each = Bench("a.b", "<= 2", "a thing", "tests.unit.test_cli", "figures")
    monkeypatch.setattr(registry, "catalogue", lambda: {"a.b": each})
    code, out, _ = run(monkeypatch, capsys, "bench", "a.b")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["good", "1", "s", "5", "<=", "2", "met"] in rows
    assert ["bad", "3", "s", "<=", "2", "missed"] in rows


def figures() -> list[Case]:
    return [Case("good", 1, "s", 5), Case("bad", 3, "s")]


def test_what_cannot_be_measured_is_skipped_with_words(monkeypatch, capsys):
    skipped = Bench("a.b", "<= 2", "a thing", "tests.unit.test_cli", "nothing_to_measure")
    monkeypatch.setattr(registry, "catalogue", lambda: {"a.b": skipped})
    assert run(monkeypatch, capsys, "bench", "a.b") == (0, "a.b: skipped, no rope\n", "")
    code, out, _ = run(monkeypatch, capsys, "bench", "a.b", "--json")
    assert (code, json.loads(out)) == (0, {"id": "a.b", "skipped": "no rope"})


def nothing_to_measure() -> list[Case]:
    raise Skipped("no rope")


def test_the_list_shows_ids_and_bars(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "bench", "--list")
    assert code == 0
    assert ["rope.bf16", "<=", "3e-3"] in [line.split()[:3] for line in out.splitlines()]


def test_the_version_is_the_installed_one(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "version") == (0, version("worldkv") + "\n", "")


@pytest.mark.parametrize("words", [["bench"], ["bench", "nothing.like.it"], ["bench", "--so"], ["what"]])
def test_bad_input_is_code_2(monkeypatch, capsys, words):
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (cli.BAD_INPUT, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"), [(errors.InvalidPose("no"), 2), (errors.NotFound("no"), 2), (errors.Unavailable("no"), 1)]
)
def test_errors_become_one_line_and_a_code(monkeypatch, capsys, error, code):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert run(monkeypatch, capsys) == (code, "", "worldkv: no\n")


def test_a_missing_part_of_the_installation_is_named():
    with pytest.raises(errors.WorldKVError, match=r"av is not installed; this command needs worldkv\[demo\]"):
        with cli.extra("demo"):
            raise ModuleNotFoundError("No module named 'av'", name="av")
    with pytest.raises(ModuleNotFoundError), cli.extra("demo"):
        raise ModuleNotFoundError("No module named 'worldkv.x'", name="worldkv.x")
