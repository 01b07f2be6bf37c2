"""Walk the same paths with a window, with everything and with WorldKV, and show what each remembers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pocket.weights_file import SHIPPED
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.report.comparison import MODES, Comparison
from services.generator.report.html import DASH, Exhibit, number
from services.generator.report.look import MODE_NAMES
from services.generator.report.results import Results, Row, WalkResult, environment, measure, summarise
from services.generator.report.writing import write_exhibit, write_report
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.walks import BASELINE_GAP, VARIANTS, run_walk

WALKS = ("pan180", "door", "pan90", "pan360", "square", "wander", "spins", "never returns")
QUICK = ("pan180", "door", "pan90")
MORE_SEEDS = {"pan90": 3, "pan180": 3, "pan360": 3}
"""Walks that are short enough for more than one seed."""
SECONDS, QUICK_SECONDS = 220.0, 48.0
"""No walk but the first is begun that would not end by then."""


def run(out: Path, quick: bool = False, seeds: Sequence[int] | None = None, weights: Path = SHIPPED) -> dict[str, Any]:
    """Walk, draw and write the report into the folder `out`; returns what `results.json` holds.

    seeds  of every walk; without them 0, and a few more where walks are short

    Raises WeightsError if the model cannot be loaded.
    """
    model = PocketWorldModel.load(weights)
    started = monotonic()
    queue = [(SCENARIOS[name](seed), filmed) for name, seed, filmed in plan(quick, seeds)]
    exhibits: list[Exhibit] = []
    walks: list[WalkResult] = []
    left_out: list[str] = []
    with Bar(sum(effort(*item) for item in queue), started + (QUICK_SECONDS if quick else SECONDS)) as bar:
        for scenario, filmed in queue:
            label = f"{scenario.name}, seed {scenario.seed}"
            if walks and not bar.fits(effort(scenario, filmed)):
                left_out.append(label)
                continue
            comparison = compare(model, scenario, bar)
            walks += [measure(walk, BASELINE_GAP) for walk in comparison.walks]
            if filmed:
                bar.say(f"{label}: film")
                exhibits.append(write_exhibit(out, comparison, bar.tick))
        results = Results(
            command="worldkv demo" + " --quick" * quick,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            seconds=round(monotonic() - started, 1),
            gap=BASELINE_GAP,
            environment=environment(),
            model={"name": model.spec.model, "weights": model.spec.weights, "spec": model.spec.digest},
            left_out=tuple(left_out),
            rows=summarise(walks),
            walks=tuple(walks),
        )
        bar.say("report")
        data = write_report(out, results, exhibits)
    Console().print(closing_table(results.rows))
    for file in ("report.html", "contact.png", "results.json"):
        print(out / file)
    return data


def plan(quick: bool, seeds: Sequence[int] | None = None) -> list[tuple[str, int, bool]]:
    """Walks as (name, seed, filmed) in the order in which they are done: one of each first, which is filmed."""
    names = QUICK if quick else WALKS
    by_name = {name: list(seeds or range(1 if quick else MORE_SEEDS.get(name, 1))) for name in names}
    rounds = max(len(some) for some in by_name.values())
    return [(name, by_name[name][i], i == 0) for i in range(rounds) for name in names if i < len(by_name[name])]


def effort(scenario: Scenario, filmed: bool) -> int:
    """Ticks of the progress bar that a walk takes: chunks in every mode, and frames of its film."""
    frames = len(scenario.actions) + 1
    return len(MODES) * frames // 3 + (frames if filmed else 0)


def compare(model: PocketWorldModel, scenario: Scenario, bar: Bar) -> Comparison:
    """Walk a scenario in every mode."""
    walks = []
    for mode in MODES:
        bar.say(f"{scenario.name}, seed {scenario.seed}: {MODE_NAMES[mode]}")
        walks.append(run_walk(model, scenario, VARIANTS[mode], bar.tick))
    return Comparison(tuple(walks), BASELINE_GAP)


class Bar:
    """A progress bar on stderr that knows how much still fits before a deadline.

    total     ticks expected
    deadline  on the monotonic clock, seconds
    """

    def __init__(self, total: int, deadline: float) -> None:
        self.deadline, self.ticks, self.started = deadline, 0, monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def tick(self) -> None:
        self.ticks += 1
        self._progress.advance(self._task)

    def fits(self, ticks: int) -> bool:
        """Whether so many ticks more, at the pace so far, end before the deadline; if not, the bar skips them."""
        now = monotonic()
        if now + ticks * (now - self.started) / max(self.ticks, 1) <= self.deadline:
            return True
        self._progress.advance(self._task, ticks)
        return False


def closing_table(rows: Sequence[Row]) -> Table:
    """The headline for a terminal: revisit PSNR of each mode, and what WorldKV costs beside full KV."""
    table = Table(title="PSNR against the truth where the walker looks again, dB", title_justify="left", box=None)
    table.add_column("walk")
    costs = ("gain\nclosed", "frames/s\nfull KV", "frames/s\nWorldKV", "MB\nfull KV", "MB\nWorldKV")
    for column in (*(MODE_NAMES[m].replace(" ", "\n") for m in MODES), *costs):
        table.add_column(column, justify="right", no_wrap=True)
    for scenario in dict.fromkeys(r.scenario for r in rows):
        by_mode = {r.mode: r for r in rows if r.scenario == scenario}
        full, own = by_mode["full"], by_mode["worldkv"]
        table.add_row(
            scenario,
            *(number(by_mode[m].truth_psnr, 1) for m in MODES),
            DASH if own.gain is None else f"{own.gain:.0%}",
            *(number(r.fps, 1) for r in (full, own)),
            *(number(r.kv_bytes / 1e6, 1) for r in (full, own)),
        )
    return table
