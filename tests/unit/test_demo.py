import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from pocket.model import PocketModel
from pocket.weights_file import save
from services.generator import demo, evaluate
from services.generator.demo import Bar, plan
from services.generator.evaluate import Ledger
from services.generator.report.comparison import MODES
from services.generator.scenarios import SCENARIOS
from services.generator.walks import DEFAULT, FULL, WINDOW
from tests.toys import TOY, toy_model
from worldkv.errors import InvalidInput, WeightsMissing
from worldkv.select import SELECTORS

PLAIN = replace(DEFAULT, codec="int4")
"""The default, for a model without codecs of its own."""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a model that knows nothing, and the modes to walk it in."""
    monkeypatch.setattr(demo, "VARIANTS", {"window": WINDOW, "full": FULL, "worldkv": PLAIN})
    monkeypatch.setattr(demo, "QUICK", ("pan90",))
    modes = replace(evaluate.STUDIES["modes"], variants=(WINDOW, FULL, PLAIN))
    monkeypatch.setitem(evaluate.STUDIES, "modes", modes)
    path = tmp_path / "toy.safetensors"
    save(path, PocketModel(TOY), {})
    return path


def test_a_demo_of_a_model_that_knows_nothing_still_reports(toy, tmp_path, capsys):
    data = demo.run(tmp_path / "out", quick=True, weights=toy)
    assert {row["mode"] for row in data["rows"]} == set(MODES)
    assert data["command"] == "worldkv demo --quick"
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.html", "results.json", "contact.png", "pan90.mp4"}
    assert "report.html" in capsys.readouterr().out


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(WeightsMissing, match="nowhere"):
        demo.run(tmp_path, weights=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_evaluation_goes_on(tmp_path):
    model, walk = toy_model(), SCENARIOS["pan90"](0)
    first = Ledger(tmp_path / "walks.jsonl", model).add(walk, WINDOW)
    with (tmp_path / "walks.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    again = Ledger(tmp_path / "walks.jsonl", model)
    assert again.find(walk, WINDOW) == first
    assert again.find(walk, FULL) is None
    assert again.find(walk, PLAIN) is None
    assert again.find(SCENARIOS["pan90"](1), WINDOW) is None
    assert Ledger(tmp_path / "walks.jsonl", toy_model(1)).find(walk, WINDOW) is None
    assert (tmp_path / "walks.jsonl").read_text().count("\n") == 1


def test_an_evaluation_writes_its_table_and_walks_nothing_twice(toy, tmp_path, monkeypatch):
    ask = partial(evaluate.run, tmp_path, seeds=1, scenarios=["pan90"], weights=toy)
    first = ask()
    monkeypatch.setattr(evaluate, "run_walk", None)
    assert ask()["cells"] == first["cells"]
    assert (tmp_path / "modes.md").read_text().count("\n| ") == 5  # head, rule and three lines
    assert json.loads((tmp_path / "modes.json").read_text())["cells"] == first["cells"]


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"scenarios": ["moon"]}, "moon"),
        ({"study": "stars"}, "stars"),
        ({"study": "matrix", "seeds": 4}, "at least 5"),
        ({"study": "selectors", "seeds": 4}, "at least 5"),
    ],
)
def test_an_evaluation_says_what_it_cannot_do(tmp_path, asked, what):
    with pytest.raises(InvalidInput, match=what):
        evaluate.run(tmp_path, **asked)


def test_a_matrix_varies_one_factor_and_names_every_variant_once():
    names = [v.name for v in evaluate.MATRIX]
    assert len(names) == len(set(names))
    assert {v.selector for v in evaluate.MATRIX} <= SELECTORS.keys()
    for variant in evaluate.MATRIX[4:]:
        changed = {k for k, v in asdict(variant).items() if v != asdict(DEFAULT)[k]} - {"name", "keep"}
        assert len(changed) <= 1, variant


def test_every_study_is_set_beside_one_of_its_variants_on_walks_that_exist():
    for study in evaluate.STUDIES.values():
        assert study.beside in [v.name for v in study.variants]
        assert set(study.scenarios) <= SCENARIOS.keys()
    assert {v.selector for v in evaluate.STUDIES["selectors"].variants} == SELECTORS.keys()


def test_a_plan_films_each_walk_once_and_first():
    queue = plan(quick=False)
    filmed = [name for name, _, first in queue if first]
    assert len(filmed) == len(set(filmed)) == len({name for name, _, _ in queue})
    assert [first for _, _, first in queue] == [True] * len(filmed) + [False] * (len(queue) - len(filmed))
    assert {seed for _, seed, _ in plan(quick=True, seeds=[4, 5])} == {4, 5}


def test_a_walk_that_would_end_too_late_does_not_fit():
    with Bar(100, deadline=0.0) as bar:
        bar.tick()
        assert not bar.fits(1)
    assert Bar(100, deadline=float("inf")).fits(10**6)
