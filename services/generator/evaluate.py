"""Score ways of remembering on many walks; what is finished is kept, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pocket.weights_file import SHIPPED
from services.generator import demo
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.demo import Booking
from services.generator.report.files import write_text
from services.generator.report.matrix import markdown, tabulate
from services.generator.report.results import SCHEMA, WalkResult, environment, measure, walk_from_json, walk_to_json
from services.generator.scenarios import SCENARIOS, Scenario, of_recorded
from services.generator.walks import BASELINE_GAP, DEFAULT, FULL, PAPER, WINDOW, Variant, run_walk
from services.generator.world_model import WorldModel
from worldkv.chunk import ModelSpec
from worldkv.client import WalkClientConfig
from worldkv.errors import InvalidInput
from worldkv.recorded import read_walk
from worldkv.select import SELECTORS

THREE = (WINDOW, FULL, DEFAULT)
LEAST_SEEDS = 5
"""What compares more than the three modes is over at least so many."""


@dataclass(frozen=True)
class Study:
    """What is compared, and on which walks.

    name       of the files it writes
    variants   ways of remembering
    scenarios  names of walks
    beside     name of the variant that the others are set beside, seed by seed
    about      what the names of the variants mean
    """

    name: str
    variants: tuple[Variant, ...]
    scenarios: tuple[str, ...]
    beside: str
    about: str


def report(
    out: Path,
    seeds: int = 1,
    scenarios: Sequence[str] | None = None,
    recorded: Sequence[Path] = (),
    weights: Path = SHIPPED,
    service: bool = False,
    address: str | None = None,
    caller: WalkClientConfig | None = None,
) -> dict[str, Any]:
    """Make the demo's report of any walks, by any service and with any weights; returns what `results.json` holds.

    seeds      worlds a named walk is walked in; the first is filmed
    scenarios  names of walks; without them, and without recorded ones, all that there are
    recorded   files of walks that somebody walked, see `worldkv.recorded`; all are filmed
    service, address, caller, weights  as the demo has them

    Raises InvalidInput for an unknown walk or a file that is none.
    """
    names = known(scenarios or (() if recorded else tuple(SCENARIOS)))
    queue = [Booking(of_recorded(file.stem, read_walk(file)), filmed=True) for file in recorded]
    queue += [Booking(SCENARIOS[name](seed), filmed=seed == 0) for seed in range(seeds) for name in names]
    command = f"worldkv eval --report --seeds {seeds}" + "".join(f" --scenario '{name}'" for name in scenarios or ())
    command += "".join(f" --walk {file}" for file in recorded)
    return demo.report(out, queue, command, inf, weights, service, address, caller)


def known(names: Sequence[str]) -> list[str]:
    """These names of walks. Raises InvalidInput if one of them is no walk's."""
    if unknown := sorted(set(names) - SCENARIOS.keys()):
        raise InvalidInput(f"no walk is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return list(names)


def _vary(**changes: Any) -> Variant:
    """The default with something changed, named after it."""
    return replace(DEFAULT, name=", ".join(f"{k}={v}" for k, v in changes.items()), **changes)


MATRIX = (
    *THREE,
    PAPER,
    *(_vary(selector=name) for name in ("coverage", "pose", "fov")),
    *(_vary(recalled=frames) for frames in (0, 3, 9, 12)),
    *(_vary(keep=share) for share in (0.5, 0.25, 0.0)),
    _vary(keep=0.25, similarity="mean_cosine"),
    _vary(keep=0.25, pooled=True),
    _vary(keep=0.25, codec="raw"),
    *(_vary(codec=name) for name in ("raw", "int8", "int4", "int3", "hadamard3", "klt3", "klt1.5", "klt1")),
    _vary(context="window"),
    replace(FULL, name="full, context=alone", context="alone"),
    _vary(placement="original"),
    *(_vary(budget_chunks=chunks) for chunks in (16, 8)),
    _vary(order="nearest"),
    replace(_vary(selector="random"), name="control: random chunks"),
    replace(_vary(foreign=True), name="control: another world's chunks"),
)
"""One factor at a time around the default, the baselines and the controls."""

BY_SELECTOR = tuple(replace(DEFAULT, name=name, selector=name, described=True) for name in SELECTORS)
"""The default with every selector; depth maps are the true renderer's, see `Described`."""

CHANGES = "The default is `worldkv`; other lines name what they change of it."
STUDIES = {
    study.name: study
    for study in (
        Study("modes", THREE, tuple(SCENARIOS), DEFAULT.name, CHANGES),
        Study("matrix", MATRIX, ("pan90", "pan180", "pan360", "door", "wide", "spins"), DEFAULT.name, CHANGES),
        Study(
            "selectors",
            (WINDOW, FULL, *BY_SELECTOR),
            ("pan180", "door", "loops", "open"),
            "pose",
            "Lines name the selector; all else is the default. Depth is an oracle's: the true renderer's.",
        ),
    )
}


def run(
    out: Path,
    study: str = "modes",
    seeds: int = LEAST_SEEDS,
    scenarios: Sequence[str] | None = None,
    weights: Path = SHIPPED,
) -> dict[str, Any]:
    """Walk what has not been walked, and write the study's table into the folder `out`, as Markdown and as JSON.

    study      one of `STUDIES`
    scenarios  names of walks; without them the study's own

    Raises InvalidInput for an unknown study or scenario, or too few seeds; WeightsError if the model cannot be loaded.
    """
    if study not in STUDIES:
        raise InvalidInput(f"no study is called {study}; there are {', '.join(STUDIES)}")
    asked = STUDIES[study]
    names = known(scenarios or asked.scenarios)
    if seeds < (least := 1 if study == "modes" else LEAST_SEEDS):
        raise InvalidInput(f"needs at least {least} seeds, got {seeds}")
    model = PocketWorldModel.load(weights)
    ledger = Ledger(out / "walks.jsonl", model)
    with _progress() as progress:
        task = progress.add_task("", total=len(names) * seeds * len(asked.variants))
        walks = []
        for name in names:
            for seed in range(seeds):
                scenario = SCENARIOS[name](seed)
                for variant in asked.variants:
                    progress.update(task, description=f"{name}, seed {seed}: {variant.name}")
                    walks.append(ledger.find(scenario, variant) or ledger.add(scenario, variant))
                    progress.advance(task)
    command = "worldkv eval" + f" --{study}" * (study != "modes") + f" --seeds {seeds}"
    command += "".join(f" --scenario {name}" for name in scenarios or ())
    return _write(out, asked, walks, command, model.spec)


class Ledger:
    """Finished walks, one JSON line each, added as soon as it is walked.

    A line counts only for the same model and codecs, the same path and the same variant. Half a last line, from an
    interrupted run, is dropped.
    """

    def __init__(self, path: Path, model: WorldModel) -> None:
        self.path, self.model = path, model
        self._walks: dict[str, WalkResult] = {}
        whole = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            whole.append(line)
            self._walks[entry["key"]] = walk_from_json(entry["walk"])
        write_text(path, "".join(line + "\n" for line in whole))

    def find(self, scenario: Scenario, variant: Variant) -> WalkResult | None:
        """The walk, if it was walked before."""
        return self._walks.get(self._key(scenario, variant))

    def add(self, scenario: Scenario, variant: Variant) -> WalkResult:
        """Walk it now."""
        walk = measure(run_walk(self.model, scenario, variant), BASELINE_GAP)
        key = self._key(scenario, variant)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "walk": walk_to_json(walk)}, allow_nan=False) + "\n")
        self._walks[key] = walk
        return walk

    def _key(self, scenario: Scenario, variant: Variant) -> str:
        poses = np.stack([w.pose for w in scenario.walkers])
        walk = (scenario.name, scenario.seed, scenario.rooms.seed, scenario.shown, BASELINE_GAP)
        coding = variant.coding(self.model) if variant.mode == "worldkv" else None
        codecs = (coding.keys, coding.values) if coding else ()  # a fitted codec's name holds its digest
        text = json.dumps([SCHEMA, self.model.spec.digest, *walk, *codecs, asdict(variant)], sort_keys=True)
        return blake2b(text.encode() + poses.tobytes(), digest_size=16).hexdigest()


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def _write(out: Path, study: Study, walks: Sequence[WalkResult], command: str, spec: ModelSpec) -> dict[str, Any]:
    cells = tabulate(walks, study.beside)
    machine = environment()
    data = {
        "schema": SCHEMA,
        "command": command,
        "environment": machine,
        "model": {"name": spec.model, "weights": spec.weights, "spec": spec.digest},
        "gap": BASELINE_GAP,
        "default": asdict(DEFAULT),
        "beside": study.beside,
        "cells": [asdict(cell) for cell in cells],
    }
    table, numbers = (out / f"{study.name}.{kind}" for kind in ("md", "json"))
    write_text(numbers, json.dumps(data, indent=1, allow_nan=False) + "\n")
    machine_line = ", ".join(f"{k} {v}" for k, v in machine.items())
    about = [study.about, f"Model {spec.model}, weights {spec.weights}.", f"Made on {machine_line}."]
    write_text(table, markdown(cells, command, study.beside, about))
    for file in (numbers, table):
        print(file)
    return data
