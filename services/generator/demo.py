"""Walk the same paths with a window, with everything and with WorldKV, and show what each remembers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pocket.weights_file import SHIPPED
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.crew import FRAME, SHEET, Crew, passes
from services.generator.processes import service as serving
from services.generator.recording import Recording
from services.generator.report.comparison import MODES, Comparison
from services.generator.report.html import DASH, Exhibit, number
from services.generator.report.look import MODE_NAMES
from services.generator.report.results import Results, Row, WalkResult, environment, summarise
from services.generator.report.writing import write_report
from services.generator.scenarios import SCENARIOS, Scenario
from services.generator.walks import BASELINE_GAP, VARIANTS
from worldkv.client import WalkClientConfig

WALKS = ("pan180", "door", "wander", "square", "pan360", "never returns", "out and back", "pan90", "spins")
"""One of each is drawn and filmed, in this order, before any is drawn again; the last where time allows."""
QUICK = ("pan180", "door", "pan90")
MORE_SEEDS = {"pan90": 3, "pan180": 3, "pan360": 3}
"""Walks that are short enough for more than one seed."""
SECONDS, QUICK_SECONDS = 200.0, 46.0
"""No walk but the first is begun that would not end by then."""
POLL = 0.2
"""Seconds between two looks at how far the work has come."""
FILM = "film"


@dataclass
class Booking:
    """A walk that is to be drawn, and what has come of it.

    filmed  whether it is shown, and not only scored
    modes   in which it is walked
    """

    scenario: Scenario
    filmed: bool
    modes: tuple[str, ...] = MODES
    walks: dict[str, Recording] = field(default_factory=dict)
    results: tuple[WalkResult, ...] = ()
    exhibit: Exhibit | None = None

    @property
    def label(self) -> str:
        return f"{self.scenario.name}, seed {self.scenario.seed}"

    @property
    def effort(self) -> float:
        """What it costs, in passes of the model."""
        film = SHEET + FRAME * len(self.scenario.walkers) if self.filmed else 0.0
        return film + sum(sum(passes(self.scenario, mode)) for mode in self.modes)


def run(
    out: Path,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    weights: Path = SHIPPED,
    service: bool = False,
    address: str | None = None,
    caller: WalkClientConfig | None = None,
) -> dict[str, Any]:
    """Walk, draw and write the report into the folder `out`; returns what `results.json` holds.

    seeds    of every walk; without them 0, and a few more where walks are short
    service  walk through a service that is started for it, instead of in worker processes
    address  host:port of a service that runs already, with these weights, to walk through
    caller   who walks there, and how that is known

    Raises WeightsError if the model cannot be loaded, Unavailable if there is no service.
    """
    queue = [Booking(SCENARIOS[name](seed), filmed) for name, seed, filmed in plan(quick, seeds)]
    seconds = QUICK_SECONDS if quick else SECONDS
    return report(out, queue, "worldkv demo" + " --quick" * quick, seconds, weights, service, address, caller)


def report(
    out: Path,
    queue: Sequence[Booking],
    command: str,
    seconds: float,
    weights: Path = SHIPPED,
    service: bool = False,
    address: str | None = None,
    caller: WalkClientConfig | None = None,
) -> dict[str, Any]:
    """Walk what is booked, and write the report of it; all else as `run`.

    command  that asks for it, but for where it is walked
    seconds  that no walk but the first is begun past, if it would not end by then; infinite: all are walked
    """
    started = monotonic()
    spec = PocketWorldModel.load(weights).spec
    with ExitStack() as stack:
        where, drawn_by = address, f"a service at {address}"
        if service and address is None:
            made = stack.enter_context(serving({"WEIGHTS": str(weights.absolute())}))
            where, caller = made.address, None
            drawn_by = f"a service of {made.words}, each a process of its own"
        crew = stack.enter_context(Crew(weights, where, caller))
        bar = stack.enter_context(Bar(monotonic() + seconds))
        done, left_out = perform(queue, crew, bar, out)
        walks = [result for booking in done for result in booking.results]
        results = Results(
            command=command + (f" --address {address}" if address else " --service" * service),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            seconds=round(monotonic() - started, 1),
            gap=BASELINE_GAP,
            environment={
                **environment(),
                "torch threads": f"{crew.threads} a walk, {crew.workers} walks at a time",
                **({"drawn by": drawn_by} if where else {}),
            },
            model={"name": spec.model, "weights": spec.weights, "spec": spec.digest},
            left_out=tuple(left_out),
            rows=summarise(walks),
            walks=tuple(walks),
        )
        bar.say("report")
        data = write_report(out, results, [booking.exhibit for booking in done if booking.exhibit])
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


def perform(queue: Sequence[Booking], crew: Crew, bar: Bar, out: Path) -> tuple[list[Booking], list[str]]:
    """Draw what there is time for; returns that, and what was left out, in words.

    Where a whole walk would end too late, full KV, its slowest mode, is left out first.
    """
    waiting, begun, left_out = deque(queue), list[Booking](), list[str]()
    ready: deque[tuple[Booking, str]] = deque()
    running: dict[Future[Any], tuple[Booking, str]] = {}
    while waiting or ready or running:
        while waiting and len(ready) + len(running) < crew.workers:
            booking = waiting.popleft()
            late = begun and not bar.fits(sum(b.effort for b in begun) + booking.effort)
            if late:
                booking.modes = tuple(mode for mode in MODES if mode != "full")
                late = not bar.fits(sum(b.effort for b in begun) + booking.effort)
                left_out.append(booking.label if late else f"full KV on {booking.label}")
            if not late:
                begun.append(booking)
                ready.extend((booking, mode) for mode in booking.modes)
            bar.expect(sum(b.effort for b in (*begun, *waiting)))
        while ready and len(running) < crew.workers:
            booking, what = ready.popleft()
            bar.say(f"{booking.label}: {MODE_NAMES.get(what, what)}")
            if what == FILM:
                comparison = Comparison(tuple(booking.walks[mode] for mode in booking.modes), BASELINE_GAP)
                running[crew.exhibit(out, comparison, booking.filmed)] = booking, what
            else:
                running[crew.walk(booking.scenario, VARIANTS[what])] = booking, what
        for future in wait(running, POLL, FIRST_COMPLETED).done:
            booking, what = running.pop(future)
            if what == FILM:
                booking.results, booking.exhibit = future.result()
                continue
            booking.walks[what] = future.result()
            if len(booking.walks) == len(booking.modes):
                ready.appendleft((booking, FILM))
        bar.reach(crew.done)
    return begun, left_out


class Bar:
    """A progress bar on stderr that knows how much fits before a deadline.

    deadline  on the monotonic clock, seconds
    """

    def __init__(self, deadline: float) -> None:
        self.deadline, self.done = deadline, 0.0
        self._begun: tuple[float, float] | None = None
        columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def expect(self, total: float) -> None:
        """How much work there is in all, done and to be done."""
        self._progress.update(self._task, total=total)

    def reach(self, done: float) -> None:
        """How much work is done. The pace is taken from the first of it: workers take a while to start."""
        self.done = done
        if self._begun is None and done:
            self._begun = monotonic(), done
        self._progress.update(self._task, completed=done)

    def fits(self, total: float) -> bool:
        """Whether so much work in all ends before the deadline at the pace so far; an unknown pace is no reason."""
        now = monotonic()
        since, before = self._begun or (now, 0.0)
        pace = (self.done - before) / (now - since) if now > since else 0.0
        return now + ((total - self.done) / pace if pace else 0.0) <= self.deadline


def closing_table(rows: Sequence[Row]) -> Table:
    """The headline for a terminal: revisit PSNR of each mode, and what WorldKV costs beside full KV."""
    table = Table(title="PSNR against the truth where the walker looks again, dB", title_justify="left", box=None)
    table.add_column("walk")
    costs = ("gain\nclosed", "frames/s\nfull KV", "frames/s\nWorldKV", "MB\nfull KV", "MB\nWorldKV")
    for column in (*(MODE_NAMES[m].replace(" ", "\n") for m in MODES), *costs):
        table.add_column(column, justify="right", no_wrap=True)
    for scenario in dict.fromkeys(r.scenario for r in rows):
        by_mode = {r.mode: r for r in rows if r.scenario == scenario}
        full, own = by_mode.get("full"), by_mode["worldkv"]
        table.add_row(
            scenario,
            *(number(by_mode[m].truth_psnr if m in by_mode else None, 1) for m in MODES),
            DASH if own.gain is None else f"{own.gain:.0%}",
            *(number(r.fps if r else None, 1) for r in (full, own)),
            *(number(r.kv_bytes / 1e6 if r else None, 1) for r in (full, own)),
        )
    return table
