"""Load on a service from the command line: `worldkv bench serve`. What needs libraries is imported when it is run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from worldkv.admin_options import Authority, Tenant, Token
from worldkv.admin_rows import AsJson
from worldkv.errors import InvalidInput

if TYPE_CHECKING:
    from benchmarks.serve.tally import Summary

serving = typer.Typer()
PARTS = {"serve": serving}
"""What follows `worldkv bench` and is no id, by name: commands with options of their own."""


class Bench(TyperCommand):
    """`worldkv bench IDS`, and the commands that go by `bench` and a name."""

    @property
    def commands(self) -> dict[str, Any]:
        """Those, by name."""
        return {name: typer.main.get_command(part) for name, part in PARTS.items()}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] in PARTS:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@serving.command()
def serve(
    rates: Annotated[
        str, typer.Option(help="Sessions that arrive a second, a load each, one after the other.")
    ] = "0.1",
    seconds: Annotated[float, typer.Option(min=1, help="That are measured at each rate.")] = 60,
    settle: Annotated[float, typer.Option(min=0, help="In which sessions come before anything is measured.")] = 20,
    stay: Annotated[float, typer.Option(min=1, help="Mean seconds that a session plays.")] = 20,
    mix: Annotated[
        str, typer.Option(help="Kinds of walk, as turns=2,wander=1: turns, rounds, errands, tours, wander.")
    ] = "",
    lead: Annotated[int, typer.Option(min=1, help="Chunks by which moves run ahead of what is shown.")] = 2,
    warm: Annotated[int, typer.Option(min=0, help="Chunks of a session that fill its window, and do not count.")] = 8,
    seed: Annotated[int, typer.Option(help="Of arrivals, walks and worlds.")] = 0,
    address: Annotated[
        str | None, typer.Option(help="host:port of a running service; without it: one is started.")
    ] = None,
    model: Annotated[str, typer.Option(help="Of a service that is started.")] = "pocket",
    generators: Annotated[int, typer.Option(min=1, help="Of a service that is started.")] = 1,
    shards: Annotated[int, typer.Option(min=1, help="Of a service that is started.")] = 2,
    tenant: Tenant = "default",
    token: Token = "",
    authority: Authority = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures and a plot of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put load on a service: sessions arrive at random, walk, watch and leave; say what they saw."""
    from rich.console import Console

    from benchmarks.serve.arrivals import parse_mix
    from benchmarks.serve.report import line, table
    from benchmarks.serve.run import Started, mix_for, run
    from benchmarks.serve.visiting import Plan
    from worldkv.client import WalkClient, WalkClientConfig
    from worldkv.rpc import TLS

    chosen = parse_mix(mix) if mix else mix_for(None if address else model)
    config = WalkClientConfig(tenant=tenant, token=token, tls=TLS(authority=authority))

    def told(each: Summary) -> None:
        if as_json:
            print(line(each), flush=True)

    found = run(
        _rates(rates),
        Plan(seconds, settle, stay, chosen, lead, warm, seed),
        out,
        partial(WalkClient, config=config),
        address,
        Started(model, generators, shards),
        told,
    )
    if not as_json:
        Console().print(table(found))


def _rates(words: str) -> list[float]:
    try:
        return [float(each) for each in words.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--rates {words}: expected numbers with commas between them") from error
