"""The command line. Heavy libraries are imported inside the commands, so that `worldkv --help` is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldkv import (
    admin,
    admin_bench,
    admin_config,
    admin_fleet,
    admin_health,
    admin_model,
    admin_plan,
    admin_retriever,
    admin_token,
    admin_walk,
)
from worldkv.admin_options import Authority, Certificate, Key, Tenant, Token, caller_of
from worldkv.admin_rows import AsJson, show, working
from worldkv.errors import InvalidInput, NotFound, WorldKVError

if TYPE_CHECKING:
    from benchmarks.registry import Bench, Case

FAILED = 1
BAD_INPUT = 2
CODES = (
    "Exit codes: 0 done; 1 it could not be done, or what was asked about is not well; "
    "2 the input was not what was asked for; 130 ended by Ctrl-C."
)

app = typer.Typer(
    help="A memory service for interactive video world models.",
    epilog=CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
SERVICE, WALKS, CARE, FIGURES = "The service", "Walking", "Looking after it", "Figures"

for of_service in (admin_fleet.up, admin_fleet.status, admin_fleet.scale, admin_fleet.down):
    app.command(rich_help_panel=SERVICE)(of_service)
app.command(rich_help_panel=WALKS)(admin_walk.walk)
for name, group in (
    ("world", admin.world),
    ("store", admin.store),
    ("retriever", admin_retriever.retriever),
    ("config", admin_config.config),
    ("model", admin_model.model),
):
    app.add_typer(group, name=name, rich_help_panel=CARE)
for of_care in (admin_token.token, admin_health.health):
    app.command(rich_help_panel=CARE)(of_care)
app.command(rich_help_panel=FIGURES)(admin_plan.plan)


def _bench_ids(incomplete: str) -> list[str]:
    """For the shell's completion."""
    from benchmarks.registry import catalogue

    return [id for id in catalogue() if id.startswith(incomplete)]


@app.command(rich_help_panel=WALKS)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page, the pictures and the films.")] = Path("out/demo"),
    quick: Annotated[bool, typer.Option(help="Fewer walks and seeds: a first look.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Other weights than those shipped.")] = None,
    service: Annotated[bool, typer.Option("--service", help="Walk through a service, started for it.")] = False,
    address: Annotated[str | None, typer.Option(help="host:port of a running service to walk through.")] = None,
    tenant: Tenant = "default",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
) -> None:
    """Walk the same paths with and without memory, and show both."""
    with extra("demo"):
        from pocket.weights_file import SHIPPED
        from services.generator.demo import run
    caller = caller_of(tenant, authority, certificate, key, token)
    run(out=out, quick=quick, weights=weights or SHIPPED, service=service, address=address, caller=caller)


@app.command("eval", rich_help_panel=WALKS)
def evaluate(
    matrix: Annotated[bool, typer.Option(help="One factor at a time: selector, codec, placement and so on.")] = False,
    selectors: Annotated[bool, typer.Option(help="Every way of choosing what is recalled.")] = False,
    report: Annotated[bool, typer.Option("--report", help="The demo's page, with films, of these walks.")] = False,
    walk: Annotated[
        list[Path] | None, typer.Option(help="A walk recorded by `worldkv walk --record`, for the report; several.")
    ] = None,
    service: Annotated[bool, typer.Option("--service", help="Walk through a service, started for it.")] = False,
    address: Annotated[str | None, typer.Option(help="host:port of a running service to walk through.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Worlds a path is walked in.")] = 5,
    scenario: Annotated[list[str] | None, typer.Option(help="Only these walks; may be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/eval"),
    weights: Annotated[Path | None, typer.Option(help="Other weights than those shipped.")] = None,
    tenant: Tenant = "default",
    authority: Authority = None,
    certificate: Certificate = None,
    key: Key = None,
    token: Token = "",
) -> None:
    """Score ways of remembering on many walks."""
    asked = {"--matrix": matrix, "--selectors": selectors, "--report": report or bool(walk)}
    if len(both := [name for name, wanted in asked.items() if wanted]) > 1:
        raise InvalidInput(f"{' and '.join(both)}: ask for one at a time")
    if (service or address) and not asked["--report"]:
        raise InvalidInput("--service and --address are for a --report: studies compare what no service is told")
    with extra("demo"):
        from pocket.weights_file import SHIPPED
        from services.generator.evaluate import report as write_report
        from services.generator.evaluate import run
    if asked["--report"]:
        caller = caller_of(tenant, authority, certificate, key, token)
        write_report(out, seeds, scenario, walk or (), weights or SHIPPED, service, address, caller)
        return
    study = "matrix" if matrix else "selectors" if selectors else "modes"
    run(out=out, study=study, seeds=seeds, scenarios=scenario, weights=weights or SHIPPED)


@app.command(cls=admin_bench.Bench, rich_help_panel=FIGURES)
def bench(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Which; soak means all that begin with soak.", autocompletion=_bench_ids),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="What there is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a claim, or several; `worldkv bench serve` puts load on a service, and has options of its own."""
    from benchmarks.registry import Skipped, catalogue, find

    if show_list:
        show([{"id": each.id, "bar": each.bar, "about": each.about} for each in catalogue().values()], as_json)
    elif not ids:
        raise InvalidInput("name a benchmark, or ask for the list with --list")
    for each in [each for id in ids or () for each in find(id)]:
        cases = []
        try:
            with working(f"{each.id}: {each.about}"):
                for case in each.run():
                    cases.append(case)
                    if as_json:
                        print(json.dumps({"id": each.id, **asdict(case)}, allow_nan=False), flush=True)
        except Skipped as why:
            print(json.dumps({"id": each.id, "skipped": str(why)}) if as_json else f"{each.id}: skipped, {why}")
            continue
        if not as_json:
            _print_cases(each, cases)


@app.command(rich_help_panel=CARE)
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("worldkv"))


def main() -> None:
    """Run the command line: errors become one line on stderr and an exit code."""
    try:
        app()
    except WorldKVError as error:
        print(f"worldkv: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, InvalidInput | NotFound) else FAILED)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that need an optional part of the installation: says which one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("benchmarks", "pocket", "services", "worldkv"):
            raise
        raise WorldKVError(f"{error.name} is not installed; this command needs worldkv[{name}]") from error


def _print_cases(each: Bench, cases: list[Case]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "value", "unit", "baseline", "bar", "", title=f"{each.id}: {each.about}", box=None)
    for case in cases:
        baseline = "" if case.baseline is None else f"{case.baseline:.4g}"
        verdict = "" if not each.bar else "met" if each.met(case.value) else "missed"
        table.add_row(case.case, f"{case.value:.4g}", case.unit, baseline, each.bar, verdict)
    Console().print(table)
