import json
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import pytest

from pocket.model import PocketModel
from pocket.weights_file import save
from services.generator import demo, evaluate
from services.generator.crew import passes
from services.generator.demo import Bar, Booking, plan
from services.generator.evaluate import Ledger
from services.generator.report.comparison import MODES
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.walks import DEFAULT, FULL, WINDOW, make_memory
from tests.toys import TOY, toy_model
from worldkv.client import WalkClientConfig
from worldkv.coding import coded_bytes
from worldkv.errors import InvalidInput, UnknownCodec, WeightsMissing
from worldkv.recorded import RecordedWalk, write_walk
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


@pytest.mark.slow
@pytest.mark.timeout(400)  # worker processes import all they need once more
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


def recorded_walk(file: Path, shown: int = 12) -> Scenario:
    """The file of a walk that was recorded where a scenario leads, whose rooms a seed gives."""
    scenario = SCENARIOS["pan90"](0)
    write_walk(file, RecordedWalk(f"rooms:{scenario.rooms.seed}", 5, shown, (*scenario.walkers,)))
    return scenario


def test_a_report_is_made_of_any_walk_named_or_recorded(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "report", lambda *given: asked.append(given))
    scenario, caller = recorded_walk(tmp_path / "mine.json"), WalkClientConfig(tenant="acme")
    evaluate.report(tmp_path / "out", 2, ["door"], [tmp_path / "mine.json"], address="127.0.0.1:1", caller=caller)
    ((out, queue, command, seconds, _, *where),) = asked
    assert (out, seconds, where) == (tmp_path / "out", inf, [False, "127.0.0.1:1", caller])
    assert [(each.label, each.filmed) for each in queue] == [
        ("mine, seed 5", True),
        ("door, seed 0", True),
        ("door, seed 1", False),
    ]
    assert command == f"worldkv eval --report --seeds 2 --scenario 'door' --walk {tmp_path / 'mine.json'}"
    mine = queue[0].scenario
    assert (mine.shown, mine.rooms.seed) == (12, scenario.rooms.seed)
    np.testing.assert_allclose([w.pose for w in mine.walkers], [w.pose for w in scenario.walkers], atol=1e-9)


def test_a_report_of_no_walk_in_particular_is_of_all_that_have_names(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "report", lambda *given: asked.append(given))
    evaluate.report(tmp_path)
    assert [each.scenario.name for each in asked[0][1]] == [*SCENARIOS]


def test_a_recorded_walk_that_was_not_shown_in_whole_chunks_is_refused(tmp_path):
    recorded_walk(tmp_path / "mine.json", shown=13)
    with pytest.raises(InvalidInput, match="mine: shown = 13, expected whole chunks of 3"):
        evaluate.report(tmp_path, recorded=[tmp_path / "mine.json"])


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
        base = FULL if variant.mode == "full" else DEFAULT
        changed = {k for k, v in asdict(variant).items() if v != asdict(base)[k]} - {"name", "keep"}
        assert len(changed) <= 1, variant


def test_a_budget_of_chunks_leaves_room_for_the_first_which_is_kept_raw():
    model = toy_model()
    spec, coding = model.spec, PLAIN.coding(model)
    limited = make_memory(model, replace(PLAIN, budget_chunks=4), 0).config
    assert limited.budget_bytes == spec.raw_bytes + 4 * coded_bytes(coding, spec)
    assert make_memory(model, PLAIN, 0).config.budget_bytes == 0


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


def test_the_demo_shows_every_kind_of_walk():
    kinds = {"pan90", "pan180", "pan360", "out and back", "square", "door", "wander", "never returns"}
    assert kinds <= {name for name, _, _ in plan(quick=False)}


def test_a_pass_costs_more_where_more_is_kept_and_drawing_more_than_showing():
    walk = SCENARIOS["pan180"](0)
    shown = walk.shown // 3
    window, full = (passes(walk, mode) for mode in ("window", "full"))
    assert len(window) == len(walk.walkers) // 3
    assert set(window[:shown]) == {1.0}
    assert set(window[shown:]) == {5.0}
    assert full[shown:] == sorted(set(full[shown:]))
    assert full[-1] > window[-1]


class Slow:
    """A crew that draws nothing: each task takes as long as it costs, at so many passes a second."""

    workers = 2

    def __init__(self, clock: list[float], pace: float) -> None:
        self.clock, self.pace, self.done, self.asked = clock, pace, 0.0, list[str]()

    def _finish(self, what: str, cost: float, result: object) -> Future[object]:
        self.asked.append(what)
        self.done += cost
        self.clock[0] += cost / self.pace
        future: Future[object] = Future()
        future.set_result(result)
        return future

    def walk(self, scenario, variant):
        cost = sum(passes(scenario, variant.mode))
        return self._finish(f"{scenario.name} {variant.name}", cost, (scenario.name, variant.name))

    def exhibit(self, out, comparison, filmed):
        return self._finish(f"film {comparison[0][0]}", 20.0, ((), None))


def perform(monkeypatch: pytest.MonkeyPatch, names: list[str], pace: float, seconds: float) -> tuple[Slow, list[str]]:
    """What a crew of some pace draws of these walks, and what is left out."""
    clock = [0.0]
    monkeypatch.setattr(demo, "monotonic", lambda: clock[0])
    monkeypatch.setattr(demo, "Comparison", lambda walks, gap: walks)
    crew = Slow(clock, pace)
    with Bar(seconds) as bar:
        _, left_out = demo.perform([Booking(SCENARIOS[name](0), True) for name in names], crew, bar, Path())
    return crew, left_out


def test_a_quick_machine_draws_everything(monkeypatch):
    crew, left_out = perform(monkeypatch, ["pan90", "pan180", "square"], 1e6, 10.0)
    assert left_out == []
    assert len(crew.asked) == 3 * (len(MODES) + 1)
    assert [what for what in crew.asked if what.startswith("film")] == ["film pan90", "film pan180", "film square"]


def test_full_kv_is_left_out_before_a_whole_walk_is(monkeypatch):
    names = ["pan90", "square", "wander"]
    window, full = (sum(passes(SCENARIOS["wander"](0), mode)) for mode in ("window", "full"))
    before = sum(Booking(SCENARIOS[name](0), True).effort for name in names[:2])
    film = Booking(SCENARIOS["wander"](0), True, ()).effort
    crew, left_out = perform(monkeypatch, names, 1.0, before + film + 2 * window + full / 2)
    assert left_out == ["full KV on wander, seed 0"]
    assert "wander full" not in crew.asked
    assert {"wander window", "wander worldkv", "film wander"} <= set(crew.asked)


def test_the_pace_is_that_of_the_work_and_not_of_the_start(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(demo, "monotonic", lambda: clock[0])
    with Bar(100.0) as bar:
        clock[0] = 60.0  # workers have started
        bar.reach(1.0)
        assert bar.fits(1e6)
        clock[0] = 70.0
        bar.reach(101.0)
        assert bar.fits(101.0 + 300.0)
        assert not bar.fits(101.0 + 301.0)
        clock[0] = 101.0
        assert not bar.fits(101.0)


def test_what_would_end_too_late_is_left_out_and_the_first_walk_never(monkeypatch):
    crew, left_out = perform(monkeypatch, ["pan90", "pan180", "wander", "pan360"], 1.0, 0.0)
    assert {what.rsplit(" ", 1)[0] for what in crew.asked if not what.startswith("film")} == {"pan90"}
    assert left_out == ["pan180, seed 0", "wander, seed 0", "pan360, seed 0"]


@pytest.mark.slow
@pytest.mark.timeout(400)  # worker processes import all they need once more
def test_what_fails_in_a_worker_ends_the_demo(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "VARIANTS", dict.fromkeys(MODES, DEFAULT))  # a toy has no klt2
    with pytest.raises(UnknownCodec, match="klt2"):
        demo.run(tmp_path / "out", quick=True, weights=toy)
